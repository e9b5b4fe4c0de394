"""Appraise a machine's GPUs against what its image expects: fourteen checks, in this order, fail closed.

 1. evidence           it was collected without an error, and every state was read
 2. nonce              it was collected for this nonce
 3. gate               the gate of the image found everything in order and set the ready state; before the gate has
                       decided, the ready state is off
 4. confidential mode  on
 5. developer tools    off
 6. driver             the driver says that it is the pinned version
 7. GPU count          as many as expected
 8. NVSwitch count     likewise
 9. distinct GPUs      no GPU stands in the evidence twice
10. reference values   the manifests given are the pinned ones, one and all, and one is of the driver
11. architecture       each certificate is of a chip of the architecture, and the driver says the same
12. GPUs               each GPU's evidence holds (`measurements.gpu.verify`, eleven checks)
13. measured driver    each report names the pinned driver
14. VBIOS              each report names a VBIOS that is allowed

A check that has nothing to look at fails. The gate in the guest and verifiers elsewhere run this same function. What
it cannot see: 3 to 8 are the word of the guest's software, believable where the image's registers are verified and
the evidence is bound to them (`measurements.gpu.evidence.qualifying_data`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509

from measurements.errors import MeasurementError, VerificationError
from measurements.gpu.certificates import DEVICE_ROOT, RIM_ROOT, chip_of, load_chain, own_keys
from measurements.gpu.evidence import GpuEvidence, GpuReport
from measurements.gpu.expectations import GpuExpectations, RimReference
from measurements.gpu.report import Report, parse_report
from measurements.gpu.rim import RimKind
from measurements.gpu.verify import UNPROVEN, Check, Verdict
from measurements.gpu.verify import Policy as GpuPolicy
from measurements.gpu.verify import to_json as gpu_to_json
from measurements.gpu.verify import verify as verify_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the appraiser knows by itself.

    Attributes:
        at: moment, with a time zone, at which the GPUs' certificates must be valid.
        rims_at: moment at which the manifests' signatures are judged; ``None`` judges each as of its import.
        decided: the gate has decided, and must have found everything in order. The gate itself, which is about to
            decide, demands that the ready state is still off.
        crls: certificate revocation lists, DER or PEM.
        ocsp: OCSP responses, DER.
        device_root, rim_root: NVIDIA's, except in tests.
    """

    at: datetime
    rims_at: datetime | None
    decided: bool = True
    crls: Sequence[bytes] = field(default=(), repr=False)
    ocsp: Sequence[bytes] = field(default=(), repr=False)
    device_root: x509.Certificate = DEVICE_ROOT
    rim_root: x509.Certificate = RIM_ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """The result.

    Attributes:
        checks: all fourteen, in their order.
        gpus: the verdict on each GPU, in the order of the evidence.
    """

    checks: tuple[Check, ...]
    gpus: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that does not hold."""
        return tuple(
            f"{number}. {check.name}: {check.detail}"
            for number, check in enumerate(self.checks, 1)
            if not check.ok
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that holds, and is not proven in whole: revocation that nobody answered for."""
        texts = (
            f"{check.name}: {check.detail}"
            for verdict in self.gpus
            for check in verdict.checks
            if check.ok and check.detail.startswith(UNPROVEN)
        )
        return tuple(dict.fromkeys(texts))


class _State:
    """The inputs, and what the checks leave for each other."""

    def __init__(
        self,
        evidence: GpuEvidence,
        expectations: GpuExpectations,
        rims: Sequence[bytes],
        nonce: bytes,
        policy: Policy,
    ) -> None:
        self.evidence = evidence
        self.expectations = expectations
        self.rims = rims
        self.nonce = nonce
        self.policy = policy
        self.verdicts: list[Verdict] = []

    def gpus(self) -> Iterable[tuple[str, GpuReport]]:
        """Yield each GPU with what messages call it; there is at least one."""
        if not self.evidence.gpus:
            raise VerificationError("there is no GPU to look at")
        for number, gpu in enumerate(self.evidence.gpus, 1):
            yield f"GPU {number} ({gpu.uuid})", gpu

    def each(self, find: Callable[[GpuReport], str]) -> str:
        """Return what ``find`` says of all GPUs; whatever it raises is said of every GPU that it is true of."""
        said, wrong = [], []
        for name, gpu in self.gpus():
            try:
                said.append(find(gpu))
            except MeasurementError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise VerificationError("; ".join(wrong))
        return ", ".join(dict.fromkeys(said))


def appraise(
    evidence: GpuEvidence,
    expectations: GpuExpectations,
    rims: Sequence[bytes],
    *,
    nonce: bytes,
    policy: Policy,
) -> Appraisal:
    """Run every check.

    Never raises for what the evidence and the manifests hold: whatever is wrong with them is in the result.

    Args:
        evidence: parsed; its bytes are bound to the machine elsewhere.
        expectations: what the image pins.
        rims: the pinned manifests (XML), in any order.
        nonce: what the GPUs must have been asked with, 32 bytes.
        policy: what the appraiser knows.
    """
    state = _State(evidence, expectations, rims, nonce, policy)
    checks = []
    for name, check in CHECKS:
        try:
            checks.append(Check(name=name, ok=True, detail=check(state)))
        except MeasurementError as error:
            checks.append(Check(name=name, ok=False, detail=str(error)))
    return Appraisal(checks=tuple(checks), gpus=tuple(state.verdicts))


def to_json(appraisal: Appraisal) -> dict[str, Any]:
    """Return the object that ``goldsmith verify --json`` has as ``gpu`` (docs/cli.md)."""
    return {
        "verdict": "pass" if appraisal.passed else "fail",
        "checks": [
            {"number": number, "name": check.name, "ok": check.ok, "detail": check.detail}
            for number, check in enumerate(appraisal.checks, 1)
        ],
        "gpus": [gpu_to_json(verdict) for verdict in appraisal.gpus],
        "warnings": list(appraisal.warnings),
    }


def _evidence(state: _State) -> str:
    found = state.evidence
    if found.error is not None:
        raise VerificationError(f"the guest could not collect it: {found.error}")
    states = {
        "driver_version": found.driver_version,
        "confidential_mode": found.confidential_mode,
        "developer_tools": found.developer_tools,
        "ready": found.ready,
        "nvswitches": found.nvswitches,
    }
    unknown = [name for name, value in states.items() if value is None]
    if unknown:
        raise VerificationError(f"the guest did not read {', '.join(unknown)}")
    return f"{len(found.gpus)} GPUs"


def _nonce(state: _State) -> str:
    if state.evidence.nonce != state.nonce:
        raise VerificationError(
            f"collected for {state.evidence.nonce.hex()}; expected {state.nonce.hex()}: another or an old answer"
        )
    return state.nonce.hex()


def _gate(state: _State) -> str:
    gate, ready = state.evidence.gate, state.evidence.ready
    if not state.policy.decided:
        if ready is not False:
            raise VerificationError(
                f"the ready state is {_word(ready)} before the gate has decided; expected off"
            )
        return "not decided yet, and the ready state is off"
    if not gate.ready:
        raise VerificationError(f"the gate refused: {gate.reason}")
    bad = [step.name for step in gate.steps if not step.ok]
    if bad or not gate.steps:
        raise VerificationError(
            f"the gate says ready, and its own steps do not: {', '.join(bad) or 'there is none'}"
        )
    if ready is not True:
        raise VerificationError(f"the gate says ready, and the ready state is {_word(ready)}")
    return f"ready after {len(gate.steps)} steps"


def _confidential_mode(state: _State) -> str:
    if state.evidence.confidential_mode is not True:
        raise VerificationError(
            f"{_word(state.evidence.confidential_mode)}; expected on: what the GPU holds is open to the host"
        )
    return "on"


def _developer_tools(state: _State) -> str:
    if state.evidence.developer_tools is not False:
        raise VerificationError(
            f"{_word(state.evidence.developer_tools)}; expected off: the GPU can be looked into"
        )
    return "off"


def _driver(state: _State) -> str:
    found, wanted = state.evidence.driver_version, state.expectations.driver_version
    if found != wanted:
        raise VerificationError(f"{found or 'unknown'}; expected {wanted}")
    return wanted


def _count(state: _State) -> str:
    found, wanted = len(state.evidence.gpus), state.expectations.count
    if found != wanted:
        raise VerificationError(f"{found}; expected {wanted}")
    return str(found)


def _nvswitches(state: _State) -> str:
    found, wanted = state.evidence.nvswitches, state.expectations.nvswitches
    if found != wanted:
        raise VerificationError(f"{'unknown' if found is None else found}; expected {wanted}")
    return str(found)


def _distinct(state: _State) -> str:
    seen: dict[object, str] = {}
    for name, gpu in state.gpus():
        keys = own_keys(load_chain(gpu.certificates))
        for what, value in (("UUID", gpu.uuid), *(("key", key) for key in keys)):
            first = seen.setdefault((what, value), name)
            if first != name:
                raise VerificationError(f"{name} has the {what} of {first}: one GPU stands there twice")
    return "each has keys of its own"


def _pinned(state: _State) -> dict[str, RimReference]:
    return {rim.sha256: rim for rim in state.expectations.rims}


def _digests(state: _State) -> list[str]:
    return [hashlib.sha256(data).hexdigest() for data in state.rims]


def _reference_values(state: _State) -> str:
    pinned, given = _pinned(state), _digests(state)
    foreign = [digest for digest in given if digest not in pinned]
    if foreign:
        raise VerificationError(f"a manifest that the image does not pin: SHA-256 {', '.join(foreign)}")
    if len(set(given)) != len(given):
        raise VerificationError("a manifest is given twice")
    absent = [rim.id for digest, rim in pinned.items() if digest not in given]
    if absent:
        raise VerificationError(f"pinned, and not given: {', '.join(absent)}")
    for kind in RimKind:
        if not state.expectations.of(kind):
            raise VerificationError(
                f"the image pins no reference values of a {kind}; goldsmith rim add imports them"
            )
    return ", ".join(rim.id for rim in state.expectations.rims)


def _architecture(state: _State) -> str:
    wanted = state.expectations.architecture

    def find(gpu: GpuReport) -> str:
        chip = chip_of(load_chain(gpu.certificates)[0])
        if not wanted.has(chip):
            raise VerificationError(f"its certificate is of {chip}; expected {wanted}")
        if gpu.architecture != wanted.value:
            raise VerificationError(f"the driver calls it {gpu.architecture}; expected {wanted}")
        return f"{wanted} ({chip})"

    return state.each(find)


def _gpus(state: _State) -> str:
    pinned = _pinned(state)
    # Manifests that nobody pinned never decide, whatever check 10 says.
    believed = [
        (data, state.policy.rims_at or pinned[digest].judged_at)
        for data, digest in zip(state.rims, _digests(state), strict=True)
        if digest in pinned
    ]
    policy = GpuPolicy(
        at=state.policy.at,
        nonce=state.nonce,
        crls=state.policy.crls,
        ocsp=state.policy.ocsp,
        rims_at=[moment for _, moment in believed],
        device_root=state.policy.device_root,
        rim_root=state.policy.rim_root,
    )

    def find(gpu: GpuReport) -> str:
        verdict = verify_gpu(gpu.report, gpu.certificates, [data for data, _ in believed], policy)
        state.verdicts.append(verdict)
        failed = [f"{check.name}: {check.detail}" for check in verdict.checks if not check.ok]
        if failed:
            raise VerificationError(", ".join(failed))
        return f"{verdict.compared} measurements equal"

    return state.each(find)


def _measured_driver(state: _State) -> str:
    wanted = state.expectations.driver_version

    def find(report: Report) -> str:
        if report.driver_version != wanted:
            raise VerificationError(f"the report is of driver {report.driver_version}; expected {wanted}")
        return wanted

    return state.each(lambda gpu: find(parse_report(gpu.report)))


def _vbios(state: _State) -> str:
    allowed = state.expectations.vbios
    if allowed is None:
        allowed = tuple(rim.version for rim in state.expectations.of(RimKind.VBIOS))

    def find(report: Report) -> str:
        if report.vbios_version not in allowed:
            raise VerificationError(
                f"the report is of VBIOS {report.vbios_version}; allowed: {', '.join(allowed) or 'none'}"
            )
        return report.vbios_version

    return state.each(lambda gpu: find(parse_report(gpu.report)))


def _word(value: bool | None) -> str:
    return "unknown" if value is None else "on" if value else "off"


CHECKS: Final[tuple[tuple[str, Callable[[_State], str]], ...]] = (
    ("evidence", _evidence),
    ("nonce", _nonce),
    ("gate", _gate),
    ("confidential mode", _confidential_mode),
    ("developer tools", _developer_tools),
    ("driver", _driver),
    ("GPU count", _count),
    ("NVSwitch count", _nvswitches),
    ("distinct GPUs", _distinct),
    ("reference values", _reference_values),
    ("architecture", _architecture),
    ("GPUs", _gpus),
    ("measured driver", _measured_driver),
    ("VBIOS", _vbios),
)
