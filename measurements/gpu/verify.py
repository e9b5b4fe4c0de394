"""Verify a GPU's recorded evidence: eleven checks, in this order, fail closed.

 1. report               it parses within its limits
 2. certificate chain    the attestation key is certified under NVIDIA's root for devices
 3. firmware identity    the certificate's firmware is the one that the report names
 4. report signature     that key signed request and response
 5. nonce                the request carries the nonce of this verifier
 6. RIM signatures       each manifest is signed under NVIDIA's root for reference values, and well-formed
 7. driver RIM           exactly one is of the driver that the report names, for this chip
 8. VBIOS RIM            exactly one is of the firmware that the report names, for this chip
 9. measurement indexes  the two do not both claim an index
10. measurements         every active index has one of its acceptable values
11. revocation           no certificate of 2 and 6 is revoked, say the lists and responses that the verifier has

A check that has nothing to look at, because an earlier one failed, fails too. Not covered: what the driver alone says
about a GPU (confidential mode, developer tools), which is not in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from measurements.errors import MeasurementError, SignatureError, VerificationError
from measurements.gpu.certificates import (
    DEVICE_ROOT,
    RIM_ROOT,
    chip_of,
    firmware_id_of,
    load_chain,
    name_of,
    path_of,
    verify_chain,
)
from measurements.gpu.ocsp import load_ocsp
from measurements.gpu.report import SIGNATURE_SIZE, Report, parse_report
from measurements.gpu.revocation import MAX_STATUS_FILES, check_revocation, load_crl
from measurements.gpu.rim import ReferenceMeasurement, Rim, RimKind, open_rim

MAX_RIMS: Final = 16
#: Starts the detail of a check that holds, and leaves something open because the verifier did not give what proves it.
UNPROVEN: Final = "UNPROVEN"
#: Index of the video decoder's firmware, which is not measured where the decoder is off.
NVDEC0_INDEX: Final = 35


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the verifier knows by itself.

    Attributes:
        at: moment, with a time zone, at which certificates must be valid.
        nonce: what the GPU was asked with, 32 bytes; without it, freshness is not proven.
        crls: certificate revocation lists, DER or PEM; each must be of an issuer in the chains, and valid.
        ocsp: OCSP responses, DER; each must be about a certificate in the chains, and valid.
        rims_at: for each manifest the moment at which its signature is judged; ``None`` judges all at ``at``.
        device_root, rim_root: NVIDIA's, except in tests.
    """

    at: datetime
    nonce: bytes | None
    crls: Sequence[bytes] = field(default=(), repr=False)
    ocsp: Sequence[bytes] = field(default=(), repr=False)
    rims_at: Sequence[datetime] | None = None
    device_root: x509.Certificate = DEVICE_ROOT
    rim_root: x509.Certificate = RIM_ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: how it ended, and why."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """An index whose value is not acceptable.

    Attributes:
        index: from 0.
        rim: whose manifest says so.
        name: of the measurement.
        observed: the value in the report; ``None`` where it has none.
        expected: every acceptable value.
    """

    index: int
    rim: RimKind
    name: str
    observed: bytes | None
    expected: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result.

    Attributes:
        checks: all of them, in their order.
        driver_version, vbios_version: what the report says, proven only where the verdict is a pass.
        compared: how many measurements were compared.
        mismatches: those that differ.
    """

    checks: tuple[Check, ...]
    driver_version: str | None
    vbios_version: str | None
    compared: int
    mismatches: tuple[Mismatch, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


class _State:
    """What the checks leave for each other."""

    def __init__(self, report: bytes, chain: bytes, rims: Sequence[bytes], policy: Policy) -> None:
        self.inputs = report, chain, rims
        self.policy = policy
        self._report: Report | None = None
        self.chain: tuple[x509.Certificate, ...] = ()
        self.key: ec.EllipticCurvePublicKey | None = None
        self.rims: list[Rim] = []
        self.chosen: dict[RimKind, Rim] = {}
        self.compared = 0
        self.mismatches: list[Mismatch] = []

    @property
    def report(self) -> Report:
        if self._report is None:
            raise VerificationError("there is no report to look at")
        return self._report

    @report.setter
    def report(self, report: Report) -> None:
        self._report = report

    def leaf(self) -> x509.Certificate:
        if self.key is None:
            raise VerificationError("there is no trusted certificate to look at")
        return self.chain[0]


def verify(report: bytes, chain: bytes, rims: Sequence[bytes], policy: Policy) -> Verdict:
    """Run every check.

    Never raises for what the inputs hold: whatever is wrong with them is in the verdict.

    Args:
        report: SPDM request and response, binary or as hexadecimal text.
        chain: PEM certificates, the attestation key's first.
        rims: manifests (XML), in any order.
        policy: what the verifier knows.
    """
    state = _State(report, chain, rims, policy)
    checks = []
    for name, check in CHECKS:
        try:
            checks.append(Check(name=name, ok=True, detail=check(state)))
        except MeasurementError as error:
            checks.append(Check(name=name, ok=False, detail=str(error)))
    return Verdict(
        checks=tuple(checks),
        driver_version=_said(lambda: state.report.driver_version),
        vbios_version=_said(lambda: state.report.vbios_version),
        compared=state.compared,
        mismatches=tuple(state.mismatches),
    )


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as ``goldsmith gpu verify --json`` prints it (docs/cli.md)."""
    return {
        "verdict": "pass" if verdict.passed else "fail",
        "driver_version": verdict.driver_version,
        "vbios_version": verdict.vbios_version,
        "measurements": {
            "matched": verdict.compared - len(verdict.mismatches),
            "compared": verdict.compared,
            "mismatched": [
                {
                    "index": each.index,
                    "rim": each.rim.value,
                    "name": each.name,
                    "observed": None if each.observed is None else each.observed.hex(),
                    "expected": [value.hex() for value in each.expected],
                }
                for each in verdict.mismatches
            ],
        },
        "checks": [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in verdict.checks],
    }


def _report(state: _State) -> str:
    state.report = parse_report(state.inputs[0])
    report = state.report
    return f"driver {report.driver_version}, VBIOS {report.vbios_version}, {len(report.measurements)} measurements"


def _chain(state: _State) -> str:
    chain = load_chain(state.inputs[1])
    state.key = verify_chain(chain, state.policy.device_root, state.policy.at)
    state.chain = chain
    return f"{chip_of(chain[0])}, {len(chain)} certificates"


def _firmware_identity(state: _State) -> str:
    certified, reported = firmware_id_of(state.leaf()), state.report.firmware_id
    if reported is None:
        # Reports of older firmware have no such field; the certificate binds the key to its firmware all the same.
        return "the report names no firmware"
    if certified is None:
        raise VerificationError("the report names a firmware, and the certificate does not")
    if certified != reported:
        raise VerificationError(
            f"the certificate is about firmware {certified.hex()}, the report about {reported.hex()}"
        )
    return certified.hex()


def _report_signature(state: _State) -> str:
    state.leaf()
    assert state.key is not None
    raw, half = state.report.signature, SIGNATURE_SIZE // 2
    try:
        state.key.verify(
            encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")),
            state.report.signed,
            ec.ECDSA(hashes.SHA384()),
        )
    except InvalidSignature:
        raise SignatureError("the report's signature does not verify with the certified key") from None
    return "ECDSA P-384 over request and response"


def _nonce(state: _State) -> str:
    nonce = state.report.nonce
    if state.policy.nonce is None:
        return f"{UNPROVEN}: no nonce to compare {nonce.hex()} with, so the report may be old"
    if state.policy.nonce != nonce:
        raise VerificationError(f"the report answers {nonce.hex()}; expected {state.policy.nonce.hex()}")
    return nonce.hex()


def _rim_signatures(state: _State) -> str:
    files = state.inputs[2]
    if not 1 <= len(files) <= MAX_RIMS:
        raise VerificationError(f"{len(files)} manifests; expected 1 to {MAX_RIMS}")
    moments = [state.policy.at] * len(files) if state.policy.rims_at is None else state.policy.rims_at
    if len(moments) != len(files):
        raise VerificationError(f"{len(files)} manifests, and {len(moments)} moments to judge them at")
    wrong = []
    for number, (data, at) in enumerate(zip(files, moments, strict=True), 1):
        try:
            state.rims.append(open_rim(data, root=state.policy.rim_root, at=at))
        except MeasurementError as error:
            wrong.append(f"manifest {number}: {error}")
    if wrong:
        raise SignatureError("; ".join(wrong))
    return ", ".join(f"{rim.kind} {rim.version}" for rim in state.rims)


def _driver_rim(state: _State) -> str:
    return _choose(state, RimKind.DRIVER, state.report.driver_version)


def _vbios_rim(state: _State) -> str:
    return _choose(state, RimKind.VBIOS, state.report.vbios_version)


def _choose(state: _State, kind: RimKind, version: str) -> str:
    # A manifest of another chip may be validly signed and of the right version: NVIDIA's service answers so.
    chip = state.report.chip or chip_of(state.leaf())
    found = [rim for rim in state.rims if rim.kind is kind and rim.version == version.upper()]
    fitting = [rim for rim in found if rim.product == chip]
    if len(fitting) != 1:
        held = ", ".join(f"{rim.kind} {rim.version} of {rim.product}" for rim in state.rims) or "none"
        raise VerificationError(
            f"{len(fitting)} manifests of {kind} {version} of {chip}, expected one; those that hold are: {held}"
        )
    state.chosen[kind] = fitting[0]
    return f"{version}, {len(fitting[0].active)} active measurements"


def _references(state: _State) -> dict[RimKind, dict[int, ReferenceMeasurement]]:
    if len(state.chosen) != len(RimKind):
        raise VerificationError("there are no reference values to compare with")
    return {kind: rim.active for kind, rim in state.chosen.items()}


def _indexes(state: _State) -> str:
    active = _references(state)
    both = sorted(active[RimKind.DRIVER].keys() & active[RimKind.VBIOS].keys())
    if both:
        raise VerificationError(f"driver and VBIOS RIM both say what stands at {', '.join(map(str, both))}")
    return "none twice"


def _measurements(state: _State) -> str:
    skipped = ""
    for kind, active in _references(state).items():
        for index, reference in sorted(active.items()):
            if index == NVDEC0_INDEX and state.report.nvdec0_disabled:
                skipped = f"; {index} is not compared, because NVDEC0 is off"
                continue
            observed = state.report.measurements.get(index)
            state.compared += 1
            if observed not in reference.values:
                state.mismatches.append(
                    Mismatch(
                        index=index,
                        rim=kind,
                        name=reference.name,
                        observed=observed,
                        expected=reference.values,
                    )
                )
    if state.mismatches:
        names = ", ".join(f"{each.index} ({each.rim}, {each.name})" for each in state.mismatches)
        raise VerificationError(f"{len(state.mismatches)} of {state.compared} differ: {names}")
    return f"{state.compared} equal{skipped}"


def _revocation(state: _State) -> str:
    state.leaf()
    lists, answers = state.policy.crls, state.policy.ocsp
    if max(len(lists), len(answers)) > MAX_STATUS_FILES:
        raise VerificationError(
            f"{len(lists)} lists and {len(answers)} OCSP responses; at most {MAX_STATUS_FILES} of each"
        )
    paths = [path_of(state.chain, state.policy.device_root), *(rim.path for rim in state.rims)]
    open_ = check_revocation(
        paths, [load_crl(data) for data in lists], [load_ocsp(data) for data in answers], state.policy.at
    )
    # The GPU itself certifies its attestation key, and publishes nothing about that certificate.
    names = [name_of(each) for each in open_ if each != state.chain[0]]
    return f"{UNPROVEN} for {', '.join(names)}" if names else "none is"


def _said(read: Callable[[], str]) -> str | None:
    try:
        return read()
    except MeasurementError:
        return None


CHECKS: tuple[tuple[str, Callable[[_State], str]], ...] = (
    ("report", _report),
    ("certificate chain", _chain),
    ("firmware identity", _firmware_identity),
    ("report signature", _report_signature),
    ("nonce", _nonce),
    ("RIM signatures", _rim_signatures),
    ("driver RIM", _driver_rim),
    ("VBIOS RIM", _vbios_rim),
    ("measurement indexes", _indexes),
    ("measurements", _measurements),
    ("revocation", _revocation),
)
