"""Verifying an SEV-SNP attestation report.

 1. report: it can be read.
 2. certificate chain: AMD's root of the generation issued the endorsement key's certificate.
 3. endorsement key: it is the kind of key, of the chip, generation and TCB version that the report names.
 4. signature: the report is signed with that key.
 5. report data: the guest put the verifier's nonce into it.
 6. measurement: the launch digest is one of the expected ones.
 7. guest policy: it is no weaker than what is accepted.
 8. TCB: no part of any TCB version is below its floor.
 9. privilege level: the report was asked for at an accepted VMPL.
10. host data: what the host said at launch.
11. identity: ID key, author key and guest SVN of the ID block.

Every check is made, also when an earlier one failed, unless it has nothing to look at; then it is skipped, and never
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509

from measurements.errors import FormatError, MeasurementError, VerificationError
from measurements.policy import Unproven
from measurements.snp import certificates, keys
from measurements.snp.certificates import Endorsement
from measurements.snp.policy import GuestPolicy
from measurements.snp.report import REPORT_DATA_SIZE, AttestationReport, parse
from measurements.snp.tcb import Product, TcbVersion
from measurements.verify.verdict import Check, Status, Verdict

MIN_NONCE_SIZE: Final = 16

_T = TypeVar("_T")

CHECKS: Final = (
    "report",
    "certificate chain",
    "endorsement key",
    "signature",
    "report data",
    "measurement",
    "guest policy",
    "TCB",
    "privilege level",
    "host data",
    "identity",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What a verifier expects of a guest. Nothing has a default that lets something through in silence.

    Attributes:
        now: the moment, with a time zone, as of which certificates must be valid.
        report_data: 64 bytes (``report_data_of`` makes them of a nonce), or why they cannot be known.
        measurements: launch digests of 48 bytes, any of which is fine, or why none is expected.
        policy: the weakest guest policy that is accepted.
        minimum_tcb: the lowest version of each part.
        product: the generation; needed for reports of version 2, which do not say it.
        trusted: roots to trust instead of AMD's in this package.
        vmpl: the highest number of the privilege levels that are accepted; 0 is the most privileged.
        host_data: 32 bytes; ``None`` accepts any.
        id_key_digest, author_key_digest: 48 bytes; ``None`` accepts any.
        minimum_guest_svn: of the ID block.
    """

    now: datetime
    report_data: bytes | Unproven
    measurements: frozenset[bytes] | Unproven
    policy: GuestPolicy
    minimum_tcb: TcbVersion | Unproven
    product: Product | None = None
    trusted: tuple[x509.Certificate, ...] | None = None
    vmpl: int = 0
    host_data: bytes | None = None
    id_key_digest: bytes | None = None
    author_key_digest: bytes | None = None
    minimum_guest_svn: int = 0


def report_data_of(nonce: bytes) -> bytes:
    """Return the report data by which a guest shows a nonce: the nonce, then zeros.

    Raises:
        FormatError: the nonce has fewer than 16 or more than 64 bytes.
    """
    if not MIN_NONCE_SIZE <= len(nonce) <= REPORT_DATA_SIZE:
        raise FormatError(f"nonce of {len(nonce)} bytes; expected {MIN_NONCE_SIZE} to {REPORT_DATA_SIZE}")
    return nonce.ljust(REPORT_DATA_SIZE, b"\0")


def verify(report: bytes, given: Sequence[bytes], expected: Expectations) -> Verdict:
    """Verify a report of 1184 bytes with the certificates that came with it.

    Args:
        report: as the firmware wrote it.
        given: files with the VCEK's or VLEK's certificate (PEM, DER, or the table beside an extended report). AMD's
            own may be among them and are not trusted for it.
        expected: what the report must say.

    Returns:
        One check for each line above; hostile input is a failed check and no exception.
    """
    run = _Run()
    parsed = run.value("report", lambda: parse(report), lambda value: f"version {value.version}")
    endorsed = run.value("certificate chain", lambda: _chain(given, expected), _chain_detail)
    both = None if parsed is None or endorsed is None else (parsed, endorsed)
    run.check("endorsement key", both, lambda pair: _endorsement(*pair, expected))
    run.check("signature", both, lambda pair: _signature(*pair))
    run.check("report data", parsed, lambda item: _report_data(item, expected))
    run.check("measurement", parsed, lambda item: _measurement(item, expected))
    run.check("guest policy", parsed, lambda item: _policy(item, expected))
    run.check("TCB", both, lambda pair: _tcb(*pair, expected))
    run.check("privilege level", parsed, lambda item: _vmpl(item, expected))
    run.check("host data", parsed, lambda item: _host_data(item, expected))
    run.check("identity", parsed, lambda item: _identity(item, expected))
    assert tuple(check.name for check in run.checks) == CHECKS
    return Verdict(checks=tuple(run.checks), registers=(), shape=None)


class _UnprovenError(Exception):
    """The verifier expects nothing; the message says why."""


class _Run:
    """Makes the checks in order, and notes how each ended."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def value(self, name: str, make: Callable[[], _T], detail: Callable[[_T], str]) -> _T | None:
        """Make a value that later checks look at; ``None`` when the check fails."""
        try:
            made = make()
        except MeasurementError as error:
            self._note(name, Status.FAILED, str(error))
            return None
        self._note(name, Status.OK, detail(made))
        return made

    def check(self, name: str, subject: _T | None, look: Callable[[_T], str]) -> None:
        """Look at ``subject``; ``None`` is what an earlier check should have made."""
        if subject is None:
            self._note(name, Status.SKIPPED, "an earlier check failed")
            return
        try:
            self._note(name, Status.OK, look(subject))
        except _UnprovenError as error:
            self._note(name, Status.UNPROVEN, str(error))
        except MeasurementError as error:
            self._note(name, Status.FAILED, str(error))

    def _note(self, name: str, status: Status, detail: str) -> None:
        self.checks.append(Check(number=len(self.checks) + 1, name=name, status=status, detail=detail))


def _chain(given: Sequence[bytes], expected: Expectations) -> Endorsement:
    found = [item for data in given for item in certificates.load(data)]
    leaves = [item for item in found if certificates.is_endorsement(item)]
    if len(leaves) != 1:
        raise VerificationError(
            f"{len(leaves)} certificates of a VCEK or VLEK among {len(found)}; expected one"
        )
    endorsed = certificates.endorsement(leaves[0])
    others = [item for item in found if item is not leaves[0]]
    certificates.verify(endorsed, others, expected.now, expected.trusted)
    return endorsed


def _chain_detail(endorsed: Endorsement) -> str:
    provider = f" of {endorsed.csp_id}" if endorsed.csp_id else ""
    return f"{endorsed.signer.name}{provider}, {endorsed.product}"


def _endorsement(report: AttestationReport, endorsed: Endorsement, expected: Expectations) -> str:
    if report.signer is not endorsed.signer:
        raise VerificationError(
            f"the report is signed by a {report.signer.name}, the certificate is a {endorsed.signer.name}'s"
        )
    product = report.product or expected.product
    if product is None:
        raise VerificationError(
            f"a report of version {report.version} does not name the processor's generation; the verifier must"
        )
    if expected.product not in (None, product) or product is not endorsed.product:
        raise VerificationError(
            f"the report is of a {product}, the certificate of a {endorsed.product}, "
            f"expected: {expected.product or product}"
        )
    reported = report.tcbs(product)["reported"]
    if reported != endorsed.tcb:
        raise VerificationError(
            f"the report's TCB version is {_words(reported)}; the certificate is for {_words(endorsed.tcb)}"
        )
    if endorsed.chip_id is None:
        return f"a VLEK of this TCB version ({_words(reported)})"
    if report.chip_masked:
        # The signature still proves the chip: its VCEK signed. The report withholds the name only.
        return f"the VCEK of this TCB version ({_words(reported)}); the host masks the chip's id"
    if report.chip_id != endorsed.chip_id:
        raise VerificationError(
            f"the report is of chip {report.chip_id.hex()[:16]}…, the certificate of "
            f"{endorsed.chip_id.hex()[:16]}…"
        )
    return f"this chip's, of this TCB version ({_words(reported)})"


def _signature(report: AttestationReport, endorsed: Endorsement) -> str:
    keys.verify(endorsed.key, report.signature, report.signed, "the report")
    return "ECDSA P-384 with SHA-384"


def _report_data(report: AttestationReport, expected: Expectations) -> str:
    wanted = expected.report_data
    if isinstance(wanted, Unproven):
        raise _UnprovenError(wanted.reason)
    if len(wanted) != REPORT_DATA_SIZE:
        raise FormatError(f"expected report data has {len(wanted)} bytes; {REPORT_DATA_SIZE} were expected")
    if report.report_data != wanted:
        raise VerificationError(
            f"{report.report_data.hex()}; expected {wanted.hex()}. The report was made for another request"
        )
    return "the expected bytes"


def _measurement(report: AttestationReport, expected: Expectations) -> str:
    wanted = expected.measurements
    if isinstance(wanted, Unproven):
        raise _UnprovenError(wanted.reason)
    if report.measurement not in wanted:
        raise VerificationError(
            f"{report.measurement.hex()} is none of {len(wanted)} expected launch digests: another firmware, "
            "kernel, command line, CPU model or number of vCPUs"
        )
    return report.measurement.hex()


def _policy(report: AttestationReport, expected: Expectations) -> str:
    weaker = report.policy.weaker_than(expected.policy)
    if weaker:
        raise VerificationError(
            f"0x{report.policy.value:x} is weaker than 0x{expected.policy.value:x} in {', '.join(weaker)}"
        )
    return f"0x{report.policy.value:x}"


def _tcb(report: AttestationReport, endorsed: Endorsement, expected: Expectations) -> str:
    floor = expected.minimum_tcb
    if isinstance(floor, Unproven):
        raise _UnprovenError(floor.reason)
    versions = report.tcbs(endorsed.product)
    for name, version in versions.items():
        below = version.below(floor)
        if below:
            raise VerificationError(
                f"the {name} TCB version ({_words(version)}) is below the floor ({_words(floor)}) in "
                f"{', '.join(below)}"
            )
    return _words(versions["reported"])


def _vmpl(report: AttestationReport, expected: Expectations) -> str:
    if report.vmpl > expected.vmpl:
        raise VerificationError(f"VMPL {report.vmpl}; expected at most {expected.vmpl}")
    return f"VMPL {report.vmpl}"


def _host_data(report: AttestationReport, expected: Expectations) -> str:
    if expected.host_data is None:
        return "any is accepted"
    if report.host_data != expected.host_data:
        raise VerificationError(f"{report.host_data.hex()}; expected {expected.host_data.hex()}")
    return report.host_data.hex()


def _identity(report: AttestationReport, expected: Expectations) -> str:
    for name, found, wanted in (
        ("ID key", report.id_key_digest, expected.id_key_digest),
        ("author key", report.author_key_digest, expected.author_key_digest),
    ):
        if wanted is not None and found != wanted:
            raise VerificationError(f"{name} {found.hex()}; expected {wanted.hex()}")
    if report.guest_svn < expected.minimum_guest_svn:
        raise VerificationError(
            f"guest SVN {report.guest_svn}; expected {expected.minimum_guest_svn} or higher"
        )
    return "any is accepted" if expected.id_key_digest is None else "the expected keys"


def _words(tcb: TcbVersion) -> str:
    return ", ".join(f"{name} {value}" for name, value in tcb.to_json().items())
