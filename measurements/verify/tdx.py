"""Verify a TDX quote against a signed golden document: twenty checks, in this order, fail closed.

 1. document signatures   at least ``threshold`` trusted keys signed the envelope
 2. document              the signed bytes are a golden document, strictly parsed and refolded
 3. validity              it is about the wanted image, valid now, its SVN not below the floor
 4. structure             the bytes are a quote of version 4 or 5 that carries its certificates
 5. certificates          the PCK certificate is Intel's: it chains to a trusted root, and is valid now
 6. collateral            TCB information and QE identity are signed under a trusted root, and current
 7. revocation            no certificate in use is revoked
 8. QE report             the PCK signed the quoting enclave's report
 9. attestation key       the quoting enclave vouches for the key that signed the quote
10. signature             that key signed header and body
11. QE identity           the quoting enclave is Intel's
12. TDX module            the module is Intel's
13. TCB status            platform, module and enclave are as current as the policy demands
14. attributes            no debug TD, no service TD bound to it, TDATTRIBUTES and XFAM as demanded
15. report data           the quote answers this verifier
16. registers             MRTD, RTMRs and what the VMM set: each is acceptable for some launch of the document
17. event log             where one is given, it folds to the quoted RTMR0 to RTMR2
18. launch shape          one launch of the document has all these values, and they bind the UKI
19. events                where a log is given, it holds the predicted events, no other, in their order
20. GPUs                  the image expects none, or the policy says why none is judged

Checks 4 to 16 are those of ``measurements.tdx.verify``. An event log (CCEL) proves nothing that the registers do not:
it says which event differs, and tells launches apart whose registers the document does not pin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from measurements.errors import FormatError, MeasurementError, VerificationError
from measurements.events import HashAlgorithm, RegisterPrediction, Stability
from measurements.explain import Observation, RegisterKind, explain, observe_ccel
from measurements.formats import eventlog, tdxquote
from measurements.formats.eventlog import LogKind
from measurements.formats.tdxquote import TdReport
from measurements.golden import TdxReference
from measurements.policy import ALL_PINNED, Unproven
from measurements.tdx.policy import Bits, RegisterPolicy, ReportData, TcbPolicy, TdxPolicy
from measurements.tdx.verify import verify_quote as verify_genuine
from measurements.verify.release import (
    DOCUMENT,
    GPUS,
    LaunchVerdict,
    Outcome,
    ReleasePolicy,
    ReleaseState,
    ValueVerdict,
    joined,
    run_checks,
)
from measurements.verify.state import sourced
from measurements.verify.verdict import Status

_BANK: Final = HashAlgorithm.SHA384
#: What firmware, stub and kernel extend; applications log RTMR3 elsewhere.
_LOGGED: Final = (0, 1, 2)
#: Without these two nothing binds the UKI.
_IMAGE: Final = (1, 2)
#: The RTMR that applications extend; a document has no value for it.
_RUNTIME: Final = 3
_WHAT: Final = "trust domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdPolicy:
    """Everything that ``verify_quote`` demands; nothing has a default that lets something through in silence.

    Attributes:
        release: which golden documents are believed, and as of when.
        roots: trust anchors of PCK certificates and TCB statements; ``measurements.tdx.intel.sgx_root_ca``.
        tcb: how current the platform must be.
        report_data: what the TD must have quoted.
        rtmr3: acceptable values of what applications extend; 48 zero bytes where nothing may.
        mrconfigid, mrowner, mrownerconfig: acceptable values of what the VMM sets.
        attributes: of ``measurements.tdx.policy.TdAttributes``; DEBUG is forbidden whatever it says.
        xfam: of ``measurements.tdx.policy.Xfam``.
        pin: which kinds of registers must be equal. A verifier who does not control the VM's shape leaves out
            ``Stability.VM_SHAPE``, which is RTMR0's; the verdict says what was left out.
    """

    release: ReleasePolicy
    roots: tuple[x509.Certificate, ...]
    tcb: TcbPolicy | Unproven
    report_data: ReportData | Unproven
    rtmr3: RegisterPolicy
    mrconfigid: RegisterPolicy
    mrowner: RegisterPolicy
    mrownerconfig: RegisterPolicy
    attributes: Bits | Unproven
    xfam: Bits | Unproven
    pin: frozenset[Stability] = ALL_PINNED

    def __post_init__(self) -> None:
        if Stability.IMAGE not in self.pin or Stability.NOT_PINNED in self.pin:
            raise FormatError(
                "policy: 'pin' must name image, whose registers bind the UKI, and never not-pinned"
            )
        self.of((), "")  # what the fields themselves must be

    def of(self, candidates: tuple[TdxReference, ...], missing: str) -> TdxPolicy:
        """Return the policy of the quote alone, with the values that these launches accept, each by itself."""

        def rtmr(index: int) -> RegisterPolicy:
            registers = [item.registers[index] for item in candidates]
            open_ones = [item for item in registers if item.stability not in self.pin]
            if open_ones or not registers:
                return Unproven(reason=_why_open(open_ones[0]) if open_ones else missing)
            return frozenset(value.value for item in registers for value in item.values(_BANK))

        mrtd = frozenset(value.value for item in candidates for value in item.mrtd.values())
        return TdxPolicy(
            roots=self.roots,
            now=self.release.now,
            tcb=self.tcb,
            report_data=self.report_data,
            mrtd=mrtd or Unproven(reason=missing),
            rtmrs=(rtmr(0), rtmr(1), rtmr(2), self.rtmr3),
            mrconfigid=self.mrconfigid,
            mrowner=self.mrowner,
            mrownerconfig=self.mrownerconfig,
            attributes=self.attributes,
            xfam=self.xfam,
        )


@dataclass(slots=True)
class _Launch:
    """What the last three checks look at, and what they found."""

    release: ReleaseState
    policy: TdPolicy
    log: bytes | None
    report: TdReport | None
    observation: Observation | None = None
    chosen: TdxReference | None = None

    def pins(self, register: RegisterPrediction) -> bool:
        """Say whether the verdict depends on this register of a document."""
        return register.stability in self.policy.pin

    def fits(self, register: RegisterPrediction) -> bool:
        """Say whether the quoted value is an acceptable one."""
        report = self.release.need(self.report, "the quote")
        return report.rtmrs[register.index] in register.values(_BANK)


def verify_quote(
    envelope: bytes, quote: bytes, policy: TdPolicy, *, event_log: bytes | None = None
) -> LaunchVerdict:
    """Run every check on a signed golden document (DSSE) and a quote.

    Never raises for what the inputs hold: whatever is wrong with them is in the verdict.

    Args:
        envelope: ``golden.dsse.json``.
        quote: version 4 or 5.
        policy: what is demanded.
        event_log: the TD's CCEL, as the guest reads it in ``/sys/firmware/acpi/tables/data/CCEL``.
    """
    release = ReleaseState(envelope=envelope, policy=policy.release)
    documented = run_checks(DOCUMENT, release)
    candidates, missing = _candidates(release)
    genuine = verify_genuine(quote, policy.of(candidates, missing))
    launch = _Launch(release=release, policy=policy, log=event_log, report=_parsed(quote))
    launched = run_checks(_LAUNCH, launch)
    return LaunchVerdict(
        checks=joined(documented, genuine.checks, launched, run_checks(GPUS, release)),
        registers=(),
        shape=None if launch.chosen is None else launch.chosen.name,
        values=_values(launch),
    )


def _candidates(release: ReleaseState) -> tuple[tuple[TdxReference, ...], str]:
    try:
        return release.launches(lambda document: document.tdx, _WHAT), ""
    except MeasurementError as error:
        return (), str(error)


def _parsed(data: bytes) -> TdReport | None:
    try:
        return tdxquote.parse(data).report
    except FormatError:
        return None  # check 4 says why


def _event_log(launch: _Launch) -> Outcome:
    report = launch.release.need(launch.report, "the quote")
    if launch.log is None:
        return Status.OK, "none was given; the registers decide"
    observation = observe_ccel(eventlog.parse(launch.log, kind=LogKind.CCEL))
    logged = {event.register for event in observation.events}
    wrong = [
        index
        for index in (*_LOGGED, *(logged & {_RUNTIME}))
        if observation.fold(index, _BANK) != report.rtmrs[index]
    ]
    if wrong:
        raise VerificationError(
            f"the log does not fold to the quoted {_names(wrong)}: an event was left out of it, added to it, or "
            "changed in it"
        )
    launch.observation = observation
    return Status.OK, f"{len(observation.events)} events fold to the quoted registers"


def _shape(launch: _Launch) -> Outcome:
    report = launch.release.need(launch.report, "the quote")
    candidates = launch.release.launches(lambda document: document.tdx, _WHAT)
    fitting = [item for item in candidates if not _wrong(launch, item)]
    if not fitting:
        launch.chosen = max(candidates, key=lambda item: _closeness(launch, item))
        raise VerificationError(
            f"none of {len(candidates)} launches has these values; the nearest is {launch.chosen.name}: "
            f"{'; '.join(_reasons(launch, launch.chosen))}"
        )
    launch.chosen = fitting[0]
    unbound = [index for index in _IMAGE if not launch.pins(launch.chosen.registers[index])]
    if unbound:
        raise VerificationError(
            f"{launch.chosen.name} does not pin {_names(unbound)}, so nothing binds the image: "
            f"{launch.chosen.registers[unbound[0]].reason}"
        )
    order = next(order for order, value in launch.chosen.mrtd.items() if value == report.mrtd)
    others = ", ".join(item.name for item in fitting[1:])
    note = f" (its pinned registers are also those of {others})" if others else ""
    name = sourced(launch.chosen.name, launch.release.policy.profiles)
    return Status.OK, f"{name}, MRTD in {order.value.replace('_', ' ')}{note}"


def _events(launch: _Launch) -> Outcome:
    chosen = launch.release.need(launch.chosen, "a launch shape")
    if launch.log is None:
        return Status.OK, "no event log was given; the registers decide"
    launch.release.need(launch.observation, "an event log")
    found = [_first(launch, register) for register in chosen.registers if launch.pins(register)]
    texts = [text for text in found if text is not None]
    if texts:
        raise VerificationError("; ".join(texts))
    return Status.OK, "the logged events are the predicted ones"


def _wrong(launch: _Launch, reference: TdxReference) -> tuple[str, ...]:
    """Return the names of the values that are not those of this launch."""
    report = launch.release.need(launch.report, "the quote")
    wrong = [] if report.mrtd in reference.mrtd.values() else ["MRTD"]
    wrong += [
        RegisterKind.RTMR.name_of(register.index)
        for register in reference.registers
        if launch.pins(register) and not launch.fits(register)
    ]
    if _other_hob(launch, reference):
        wrong.append("TD HOB")
    return tuple(wrong)


def _other_hob(launch: _Launch, reference: TdxReference) -> bool:
    """Say whether the log shows another TD HOB, RTMR0's first event, which tells the memory size."""
    if launch.observation is None or reference.td_hob is None or Stability.VM_SHAPE not in launch.policy.pin:
        return False
    first = next(iter(launch.observation.of(0)), None)
    return first is None or first.digests.get(_BANK) != reference.td_hob


def _closeness(launch: _Launch, reference: TdxReference) -> tuple[int, int]:
    """Order launches: fewest values that differ, then most logged events predicted."""
    common = 0
    if launch.observation is not None:
        for register in reference.registers:
            seen = {event.digests.get(_BANK) for event in launch.observation.of(register.index)}
            common += len(
                seen & {event.digest(_BANK) for course in register.alternatives for event in course.events}
            )
    return -len(_wrong(launch, reference)), common


def _reasons(launch: _Launch, reference: TdxReference) -> list[str]:
    wrong, said = _wrong(launch, reference), []
    for name in wrong:
        register = next((each for each in reference.registers if f"RTMR{each.index}" == name), None)
        text = None if register is None else _first(launch, register)
        said.append(text or f"{name} differs ({_CAUSES[name]})")
    return said


_CAUSES: Final[Mapping[str, str]] = {
    "MRTD": "another firmware file",
    "RTMR0": "another memory size, device, VMM, firmware or Secure Boot key",
    "RTMR1": "another image, disk, or course of the boot",
    "RTMR2": "another UKI section, command line or initrd",
    "TD HOB": "another memory size",
}


def _first(launch: _Launch, register: RegisterPrediction) -> str | None:
    """Return the first event of the log that departs from the prediction, in words."""
    if launch.observation is None:
        return None
    logged = launch.observation.of(register.index)
    found = explain(register, logged, _BANK, RegisterKind.RTMR)
    return str(found[0]) if found else None


def _why_open(register: RegisterPrediction) -> str:
    if register.stability is Stability.NOT_PINNED:
        return register.reason or "the document does not pin it"
    return f"the policy leaves out registers of kind {register.stability.value}"


def _values(launch: _Launch) -> tuple[ValueVerdict, ...]:
    if launch.report is None or launch.chosen is None:
        return ()
    mrtd = tuple(dict.fromkeys(value.hex() for value in launch.chosen.mrtd.values()))
    observed = launch.report.mrtd.hex()
    values = [
        ValueVerdict(
            name="mrtd",
            predicted=mrtd,
            observed=observed,
            equal=observed in mrtd,
            pinned=True,
            reason=None if observed in mrtd else _CAUSES["MRTD"],
        )
    ]
    values += [_rtmr(launch, register) for register in launch.chosen.registers if register.index != _RUNTIME]
    return (*values, _runtime(launch.policy, launch.report))


def _rtmr(launch: _Launch, register: RegisterPrediction) -> ValueVerdict:
    report = launch.release.need(launch.report, "the quote")
    equal, pinned = launch.fits(register), launch.pins(register)
    reason = register.reason
    if not pinned:
        reason = _why_open(register)
    elif not equal:
        reason = _first(launch, register) or _CAUSES[f"RTMR{register.index}"]
    return ValueVerdict(
        name=f"rtmr{register.index}",
        predicted=tuple(value.hex() for value in register.values(_BANK)),
        observed=report.rtmrs[register.index].hex(),
        equal=equal,
        pinned=pinned,
        reason=reason,
    )


def _runtime(policy: TdPolicy, report: TdReport) -> ValueVerdict:
    wanted, observed = policy.rtmr3, report.rtmrs[_RUNTIME]
    accepted = () if isinstance(wanted, Unproven) else tuple(sorted(value.hex() for value in wanted))
    return ValueVerdict(
        name="rtmr3",
        predicted=accepted,
        observed=observed.hex(),
        equal=observed.hex() in accepted,
        pinned=bool(accepted),
        reason=wanted.reason if isinstance(wanted, Unproven) else "the policy's: applications extend it",
    )


def _names(indexes: list[int]) -> str:
    return ", ".join(RegisterKind.RTMR.name_of(index) for index in indexes)


_LAUNCH: Final[tuple[tuple[str, Callable[[_Launch], Outcome]], ...]] = (
    ("event log", _event_log),
    ("launch shape", _shape),
    ("events", _events),
)
