"""Verify a TDX quote: numbered checks, each of which fails closed.

 1. structure       the bytes are a quote of version 4 or 5 that carries its certificates
 2. certificates    the PCK certificate is Intel's: it chains to a trusted root, and is valid now
 3. collateral      TCB information and QE identity are signed under a trusted root, and current
 4. revocation      no certificate in use is revoked
 5. QE report       the PCK signed the quoting enclave's report
 6. attestation key the quoting enclave vouches for the key that signed the quote
 7. signature       that key signed header and body
 8. QE identity     the quoting enclave is Intel's
 9. TDX module      the module is Intel's
10. TCB status      platform, module and enclave are as current as the policy demands
11. attributes      no debug TD, no service TD bound to it, TDATTRIBUTES and XFAM as demanded
12. report data     the quote answers this verifier
13. registers       MRTD, RTMRs and what the VMM set are acceptable

A check whose policy is ``Unproven`` passes with a warning; a check that needs what an earlier one did not establish is
skipped, and then nothing passes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from measurements import attestation_key
from measurements.errors import FormatError, MeasurementError, SignatureError, VerificationError
from measurements.formats import tdxquote
from measurements.formats.tdxquote import INTEL_QE_VENDOR, TdReport, TdxQuote
from measurements.policy import Unproven
from measurements.tdx import collateral, pck, tcb
from measurements.tdx.collateral import QeIdentity, TcbInfo
from measurements.tdx.pck import PckPlatform
from measurements.tdx.policy import Bits, TcbPolicy, TdAttributes, TdxPolicy
from measurements.verify.state import NothingToCheckError
from measurements.verify.verdict import Check, Status, Verdict

_T = TypeVar("_T")
_Outcome = tuple[Status, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxVerdict:
    """The result.

    Attributes:
        checks: all of them, ascending.
        report: the TD's report; ``None`` unless the verdict is a pass.
    """

    checks: tuple[Check, ...]
    report: TdReport | None

    @property
    def verdict(self) -> Verdict:
        """The checks in the form in which every verifier of this package tells them."""
        return Verdict(checks=self.checks, registers=(), shape=None)

    @property
    def passed(self) -> bool:
        """Whether every check is ok, or unproven because the policy says so."""
        return self.verdict.passed

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that the policy leaves unproven."""
        return self.verdict.warnings


@dataclass(slots=True)
class _State:
    """The inputs, and what became of them. Fields are set by one check each, in order."""

    data: bytes
    policy: TdxPolicy
    quote: TdxQuote | None = None
    pck: x509.Certificate | None = None
    platform: PckPlatform | None = None
    chain: tuple[x509.Certificate, ...] = ()
    signing_chain: tuple[x509.Certificate, ...] = ()
    tcb_info: TcbInfo | None = None
    qe_identity: QeIdentity | None = None
    enclave_checked: bool = False
    key_checked: bool = False
    genuine: bool = False
    statuses: dict[str, str] = field(default_factory=dict)

    def need(self, value: _T | None, what: str) -> _T:
        if value is None:
            raise NothingToCheckError(f"needs {what}, which an earlier check did not establish")
        return value

    def tcb_policy(self) -> TcbPolicy:
        """Return the demands, where there are any; the caller has looked for Unproven."""
        assert isinstance(self.policy.tcb, TcbPolicy)
        return self.policy.tcb


def verify_quote(data: bytes, policy: TdxPolicy) -> TdxVerdict:
    """Verify a quote; whatever the bytes are, the answer is a verdict."""
    state = _State(data=data, policy=policy)
    checks = []
    for number, (name, check) in enumerate(_CHECKS, start=1):
        try:
            status, detail = check(state)
        except NothingToCheckError as error:
            status, detail = Status.SKIPPED, str(error)
        except MeasurementError as error:
            status, detail = Status.FAILED, str(error)
        checks.append(Check(number=number, name=name, status=status, detail=detail))
    result = TdxVerdict(checks=tuple(checks), report=None)
    if state.quote is None or not result.passed:
        return result
    return replace(result, report=state.quote.report)


def _structure(state: _State) -> _Outcome:
    state.quote = tdxquote.parse(state.data)
    if state.quote.qe_vendor != INTEL_QE_VENDOR:
        raise VerificationError(f"quoting enclave of vendor {state.quote.qe_vendor}; expected Intel's")
    return Status.OK, f"version {state.quote.version}"


def _certificates(state: _State) -> _Outcome:
    quote = state.need(state.quote, "the quote")
    chain = _load_chain(quote.certificates, "PCK certificate chain")
    root = attestation_key.check_chain(_key(chain[0]), chain, state.policy.roots, state.policy.now)
    state.platform = pck.read(chain[0])
    state.pck, state.chain = chain[0], _to_root(chain, root)
    return Status.OK, f"FMSPC {state.platform.fmspc.hex()}, under {root.subject.rfc4514_string()!r}"


def _collateral(state: _State) -> _Outcome:
    if unproven := _unproven_tcb(state):
        return unproven
    given = state.tcb_policy().collateral
    chain = _load_chain(given.signing_chain, "TCB signing chain")
    root = attestation_key.check_chain(_key(chain[0]), chain, state.policy.roots, state.policy.now)
    key = _key(chain[0])
    info = collateral.parse_tcb_info(collateral.verified(given.tcb_info, "tcbInfo", key))
    identity = collateral.parse_qe_identity(collateral.verified(given.qe_identity, "enclaveIdentity", key))
    for name, item in (("TCB information", info), ("QE identity", identity)):
        if not item.issued <= state.policy.now <= item.next_update:
            raise VerificationError(
                f"{name} is valid from {item.issued.isoformat()} to {item.next_update.isoformat()}, not at "
                f"{state.policy.now.isoformat()}"
            )
    state.signing_chain = _to_root(chain, root)
    state.tcb_info, state.qe_identity = info, identity
    return Status.OK, f"current until {min(info.next_update, identity.next_update).isoformat()}"


def _revocation(state: _State) -> _Outcome:
    unproven = _unproven_tcb(state)
    if unproven:
        return unproven
    state.need(state.pck, "the PCK certificate")
    state.need(state.tcb_info, "the collateral")
    given = state.tcb_policy().collateral
    if len(state.chain) != 3 or len(state.signing_chain) != 2:
        raise VerificationError(
            f"a PCK chain of {len(state.chain)} and a signing chain of {len(state.signing_chain)} certificates; "
            "expected 3 and 2, for which the two revocation lists are made"
        )
    leaf, authority, root = state.chain
    _check_not_revoked(state, given.pck_crl, authority, leaf)
    for certificate in (authority, state.signing_chain[0]):
        issuer = root if certificate is authority else state.signing_chain[1]
        _check_not_revoked(state, given.root_crl, issuer, certificate)
    return Status.OK, "neither the PCK, nor its issuer, nor the TCB signer"


def _qe_report(state: _State) -> _Outcome:
    quote = state.need(state.quote, "the quote")
    certificate = state.need(state.pck, "the PCK certificate")
    collateral.verify_raw_signature(_key(certificate), quote.qe_signature, quote.qe_report.raw, "QE report")
    state.enclave_checked = True
    return Status.OK, f"enclave {quote.qe_report.mrenclave.hex()[:16]}…"


def _attestation_key(state: _State) -> _Outcome:
    quote = state.need(state.quote, "the quote")
    state.need(state.enclave_checked or None, "the QE report")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if not hmac.compare_digest(quote.qe_report.report_data, bound):
        raise VerificationError("the quoting enclave's report is about another attestation key")
    state.key_checked = True
    return Status.OK, "the QE report holds its digest"


def _signature(state: _State) -> _Outcome:
    quote = state.need(state.quote, "the quote")
    x, y = (int.from_bytes(part, "big") for part in (quote.attestation_key[:32], quote.attestation_key[32:]))
    try:
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError:
        raise SignatureError("attestation key: no point on P-256") from None
    collateral.verify_raw_signature(key, quote.signature, quote.signed, "quote")
    state.need(state.key_checked or None, "the attestation key")
    state.genuine = True
    return Status.OK, "header and body"


def _identity(state: _State) -> _Outcome:
    unproven = _unproven_tcb(state)
    if unproven:
        return unproven
    quote = state.need(state.quote, "the quote")
    state.need(state.enclave_checked or None, "the QE report")
    identity = state.need(state.qe_identity, "the QE identity")
    state.statuses["quoting enclave"] = tcb.enclave_status(identity, quote.qe_report)
    return Status.OK, f"security version {quote.qe_report.isvsvn}"


def _module(state: _State) -> _Outcome:
    quote = state.need(state.quote, "the quote")
    state.need(state.genuine or None, "a genuine quote")
    report = quote.report
    if any(report.mrsignerseam):
        # Zeros stand for Intel (348551, TDREPORT_STRUCT); nobody else signs modules.
        raise VerificationError(f"TDX module: signer {report.mrsignerseam.hex()} is not Intel")
    unproven = _unproven_tcb(state)
    if unproven:
        return unproven
    info = state.need(state.tcb_info, "the TCB information")
    for moment, svn in _versions(report):
        state.statuses[f"TDX module{moment}"] = tcb.module_status(info, report, svn)
    return Status.OK, f"MRSEAM {report.mrseam.hex()[:16]}…"


def _tcb_status(state: _State) -> _Outcome:
    unproven = _unproven_tcb(state)
    if unproven:
        return unproven
    quote = state.need(state.quote, "the quote")
    state.need(state.genuine or None, "a genuine quote")
    info, platform = (
        state.need(state.tcb_info, "the TCB information"),
        state.need(state.platform, "the platform"),
    )
    for moment, svn in _versions(quote.report):
        state.statuses[f"platform{moment}"] = tcb.platform_status(info, platform, svn)
    missing = {"quoting enclave", "TDX module"} - set(state.statuses)
    if missing:
        raise NothingToCheckError(f"needs the status of {' and '.join(sorted(missing))}")
    accepted = state.tcb_policy().accepted
    bad = {name: status for name, status in state.statuses.items() if status not in accepted}
    if bad:
        raise VerificationError(
            f"{', '.join(f'{name} is {status}' for name, status in sorted(bad.items()))}; "
            f"accepted: {', '.join(sorted(accepted))}"
        )
    return Status.OK, ", ".join(f"{name} {status}" for name, status in sorted(state.statuses.items()))


def _attributes(state: _State) -> _Outcome:
    report = _genuine_report(state)
    if report.td_attributes & TdAttributes.DEBUG:
        raise VerificationError("the TD is in debug mode: the host can read and change it")
    if report.mrservicetd is not None and any(report.mrservicetd):
        raise VerificationError(f"a service TD is bound to the TD: MRSERVICETD is {report.mrservicetd.hex()}")
    found = f"TDATTRIBUTES 0x{report.td_attributes:x}, XFAM 0x{report.xfam:x}"
    open_ones = []
    for name, value, wanted in (
        ("TDATTRIBUTES", report.td_attributes, state.policy.attributes),
        ("XFAM", report.xfam, state.policy.xfam),
    ):
        if isinstance(wanted, Unproven):
            open_ones.append(f"{name} ({wanted.reason})")
        else:
            _check_bits(name, value, wanted)
    if open_ones:
        return Status.UNPROVEN, f"{found}; not looked at but for debug mode: {', '.join(open_ones)}"
    return Status.OK, found


def _report_data(state: _State) -> _Outcome:
    report = _genuine_report(state)
    wanted = state.policy.report_data
    if isinstance(wanted, Unproven):
        return Status.UNPROVEN, f"freshness is not proven, the quote may be a replay: {wanted.reason}"
    if not hmac.compare_digest(report.report_data, wanted.value):
        raise VerificationError(f"report data {report.report_data.hex()}; expected {wanted.value.hex()}")
    return Status.OK, "as expected"


def _registers(state: _State) -> _Outcome:
    report = _genuine_report(state)
    observed = {
        "MRTD": report.mrtd.value,
        **{f"RTMR{index}": value.value for index, value in enumerate(report.rtmrs)},
        "MRCONFIGID": report.mrconfigid,
        "MROWNER": report.mrowner,
        "MROWNERCONFIG": report.mrownerconfig,
    }
    wrong, open_ones = [], []
    for name, wanted in state.policy.registers().items():
        if isinstance(wanted, Unproven):
            open_ones.append(f"{name} ({wanted.reason})")
        elif observed[name] not in wanted:
            wrong.append(f"{name} is {observed[name].hex()}")
    if wrong:
        raise VerificationError(f"{'; '.join(wrong)}: not acceptable")
    if open_ones:
        return Status.UNPROVEN, f"not looked at: {', '.join(open_ones)}"
    return Status.OK, f"all {len(observed)} acceptable"


_CHECKS: Final[tuple[tuple[str, Callable[[_State], _Outcome]], ...]] = (
    ("structure", _structure),
    ("certificates", _certificates),
    ("collateral", _collateral),
    ("revocation", _revocation),
    ("QE report", _qe_report),
    ("attestation key", _attestation_key),
    ("signature", _signature),
    ("QE identity", _identity),
    ("TDX module", _module),
    ("TCB status", _tcb_status),
    ("attributes", _attributes),
    ("report data", _report_data),
    ("registers", _registers),
)


def _versions(report: TdReport) -> Iterator[tuple[str, bytes]]:
    """Yield the versions to judge: a module may have been updated while the TD ran (TEE_TCB_SVN_2)."""
    yield "", report.tee_tcb_svn
    if report.tee_tcb_svn_2 is not None:
        yield " now", report.tee_tcb_svn_2


def _genuine_report(state: _State) -> TdReport:
    quote = state.need(state.quote, "the quote")
    state.need(state.genuine or None, "a genuine quote")
    return quote.report


def _unproven_tcb(state: _State) -> _Outcome | None:
    wanted = state.policy.tcb
    if isinstance(wanted, Unproven):
        return Status.UNPROVEN, f"the platform's TCB is not proven: {wanted.reason}"
    return None


def _check_bits(name: str, value: int, wanted: Bits) -> None:
    if missing := wanted.required & ~value:
        raise VerificationError(f"{name} is 0x{value:x}; required bits 0x{missing:x} are not set")
    if present := wanted.forbidden & value:
        raise VerificationError(f"{name} is 0x{value:x}; forbidden bits 0x{present:x} are set")


def _load_chain(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    try:
        text = pem.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"{what}: not PEM") from None
    return attestation_key.load_certificates(text)


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except Exception:  # whatever the library stumbles over in a hostile certificate means no
        raise SignatureError("a certificate's key is unusable") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SignatureError("a certificate's key is not on P-256")
    return key


def _to_root(chain: tuple[x509.Certificate, ...], root: x509.Certificate) -> tuple[x509.Certificate, ...]:
    return chain if chain[-1] == root else (*chain, root)


def _check_not_revoked(
    state: _State, der: bytes, issuer: x509.Certificate, certificate: x509.Certificate
) -> None:
    name = issuer.subject.rfc4514_string()
    try:
        crl = x509.load_der_x509_crl(der)
        signed = crl.issuer == issuer.subject and crl.is_signature_valid(_key(issuer))
        start, end = crl.last_update_utc, crl.next_update_utc
        revoked = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    except (ValueError, TypeError):
        raise FormatError(f"revocation list of {name!r}: malformed") from None
    if not signed:
        raise SignatureError(f"revocation list: not signed by {name!r}")
    if end is None or not start <= state.policy.now <= end:
        raise VerificationError(
            f"revocation list of {name!r} is valid from {start.isoformat()} to "
            f"{'nowhere' if end is None else end.isoformat()}, not at {state.policy.now.isoformat()}"
        )
    if revoked is not None:
        raise VerificationError(f"{certificate.subject.rfc4514_string()!r} is revoked by {name!r}")
