"""Verify an SEV-SNP attestation report against a signed golden document: sixteen checks, in this order, fail closed.

 1. document signatures   at least ``threshold`` trusted keys signed the envelope
 2. document              the signed bytes are a golden document, strictly parsed and refolded
 3. validity              it is about the wanted image, valid now, its SVN not below the floor
 4. report                it can be read, reserved bytes are zero
 5. certificate chain     AMD's root of the generation issued the endorsement key's certificate
 6. endorsement key       it is of the kind, chip, generation and TCB version that the report names
 7. signature             the report is signed with that key
 8. report data           the guest put the verifier's nonce into it
 9. guest policy          it is no weaker than what is accepted
10. TCB                   no part of any TCB version is below its floor
11. privilege level       the report was asked for at an accepted VMPL
12. host data             what the host said at launch
13. identity              ID key and author key are the ones that the verifier names
14. ID block              where an ID key is named: family, image and SVN are those of the document
15. launch shape          the launch digest is that of one launch of the document, which binds the UKI
16. GPUs                  the image expects none, or the policy says why none is judged

Checks 4 to 13 are those of ``measurements.snp.verify``, whose check "measurement" is check 15 here: it knows the
launches, and says which one matched, or which is nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from measurements.errors import FormatError, VerificationError
from measurements.golden import SevSnpReference
from measurements.policy import Unproven
from measurements.prediction import BootPath
from measurements.snp import report, verify
from measurements.snp.idblock import release_ids
from measurements.snp.policy import GuestPolicy
from measurements.snp.report import AttestationReport
from measurements.snp.tcb import Product, TcbVersion
from measurements.verify.nearest import nearest
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

#: The check of ``measurements.snp.verify`` that "launch shape" stands for.
_MEASUREMENT: Final = "measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPolicy:
    """Everything that ``verify_report`` demands; nothing has a default that lets something through in silence.

    Attributes:
        release: which golden documents are believed, and as of when.
        report_data: 64 bytes (``measurements.snp.verify.report_data_of`` makes them of a nonce), or why they cannot be
            known.
        guest_policy: the weakest guest policy that is accepted.
        minimum_tcb: the lowest version of each part.
        host_data: 32 bytes; ``None`` accepts any.
        product: the generation; needed for reports of version 2, which do not say it.
        trusted: roots to trust instead of AMD's in this package.
        vmpl: the highest number of the privilege levels that are accepted; 0 is the most privileged.
        id_key_digest, author_key_digest: 48 bytes; ``None`` accepts any. With an ID key the report must carry the
            document's image, version and SVN.
        firmware_only: accept a launch without kernel hashes, whose digest says nothing about what boots; what does (a
            vTPM, a service of the guest) is then the verifier's business.
    """

    release: ReleasePolicy
    report_data: bytes | Unproven
    guest_policy: GuestPolicy
    minimum_tcb: TcbVersion | Unproven
    host_data: bytes | None
    product: Product | None = None
    trusted: tuple[x509.Certificate, ...] | None = None
    vmpl: int = 0
    id_key_digest: bytes | None = None
    author_key_digest: bytes | None = None
    firmware_only: bool = False

    def __post_init__(self) -> None:
        if self.author_key_digest is not None and self.id_key_digest is None:
            raise FormatError("policy: an author key without the ID key that it signed")

    def expectations(self) -> verify.Expectations:
        """Return what the report itself must say; its launch digest is for check 15."""
        return verify.Expectations(
            now=self.release.now,
            report_data=self.report_data,
            measurements=Unproven(reason="the golden document says it"),
            policy=self.guest_policy,
            minimum_tcb=self.minimum_tcb,
            product=self.product,
            trusted=self.trusted,
            vmpl=self.vmpl,
            host_data=self.host_data,
            id_key_digest=self.id_key_digest,
            author_key_digest=self.author_key_digest,
        )


@dataclass(slots=True)
class _Launch:
    """What the last two checks look at, and what they found."""

    release: ReleaseState
    policy: SnpPolicy
    report: AttestationReport | None
    chosen: SevSnpReference | None = None
    reason: str | None = None


def verify_report(
    envelope: bytes, report_bytes: bytes, certificates: Sequence[bytes], policy: SnpPolicy
) -> LaunchVerdict:
    """Run every check on a signed golden document (DSSE) and an attestation report.

    Never raises for what the inputs hold: whatever is wrong with them is in the verdict.

    Args:
        envelope: ``golden.dsse.json``.
        report_bytes: 1184 bytes, as the firmware wrote them.
        certificates: files with the VCEK's or VLEK's certificate: PEM, DER, or the table beside an extended report.
        policy: what is demanded.
    """
    release = ReleaseState(envelope=envelope, policy=policy.release)
    documented = run_checks(DOCUMENT, release)
    genuine = verify.verify(report_bytes, certificates, policy.expectations())
    launch = _Launch(release=release, policy=policy, report=_parsed(report_bytes))
    launched = run_checks(_LAUNCH, launch)
    return LaunchVerdict(
        checks=joined(
            documented,
            (check for check in genuine.checks if check.name != _MEASUREMENT),
            launched,
            run_checks(GPUS, release),
        ),
        registers=(),
        shape=None if launch.chosen is None else launch.chosen.name,
        values=_values(launch),
    )


def _parsed(data: bytes) -> AttestationReport | None:
    try:
        return report.parse(data)
    except FormatError:
        return None  # check 4 says why


def _id_block(launch: _Launch) -> Outcome:
    if launch.policy.id_key_digest is None:
        return Status.OK, "the policy names no ID key"
    found = launch.release.need(launch.report, "the report")
    image = launch.release.need(launch.release.document, "the document").image
    family_id, image_id = release_ids(image.name, image.version)
    for name, is_now, wanted in (
        ("family id", found.family_id.hex(), family_id.hex()),
        ("image id", found.image_id.hex(), image_id.hex()),
        ("guest SVN", str(found.guest_svn), str(image.svn)),
    ):
        if is_now != wanted:
            raise VerificationError(
                f"{name} is {is_now}; expected {wanted}, of {image.name} {image.version}: the ID block was signed for "
                "another release"
            )
    return Status.OK, f"{image.name} {image.version}, SVN {image.svn}"


def _shape(launch: _Launch) -> Outcome:
    found = launch.release.need(launch.report, "the report")
    candidates = launch.release.launches(lambda document: document.sev_snp, "SEV-SNP launch")
    fitting = [item for item in candidates if item.launch_digest.value == found.measurement]
    if not fitting:
        near = nearest(found.measurement, candidates)
        launch.chosen = None if near is None else near.reference
        launch.reason = (
            "no other number of vCPUs, CPU model, SEV_FEATURES or host kernel explains it: another firmware, kernel, "
            "initrd or command line"
            if near is None
            else str(near)
        )
        raise VerificationError(
            f"{found.measurement.hex()} is the digest of none of {len(candidates)} launches; {launch.reason}"
        )
    launch.chosen = fitting[0]
    others = ", ".join(item.name for item in fitting[1:])
    name = sourced(launch.chosen.name, launch.release.policy.profiles)
    detail = name + (f" (the digest is also that of {others})" if others else "")
    if all(item.boot is BootPath.DIRECT for item in fitting):
        return Status.OK, detail
    if not launch.policy.firmware_only:
        raise VerificationError(
            f"{launch.chosen.name} starts without kernel hashes: its digest binds firmware and vCPUs, and nothing of "
            "what boots; a policy that proves that in another way says firmware_only"
        )
    return Status.UNPROVEN, f"{detail}: what boots is not in the digest, and is for other evidence to prove"


def _values(launch: _Launch) -> tuple[ValueVerdict, ...]:
    if launch.report is None or launch.chosen is None:
        return ()
    predicted = launch.chosen.launch_digest
    return (
        ValueVerdict(
            name="launch_digest",
            predicted=(predicted.hex(),),
            observed=launch.report.measurement.hex(),
            equal=predicted.value == launch.report.measurement,
            pinned=True,
            reason=launch.reason,
        ),
    )


_LAUNCH: Final[tuple[tuple[str, Callable[[_Launch], Outcome]], ...]] = (
    ("ID block", _id_block),
    ("launch shape", _shape),
)
#: The names of all checks, in order.
CHECKS: Final = (
    *(name for name, _ in DOCUMENT),
    *(name for name in verify.CHECKS if name != _MEASUREMENT),
    *(name for name, _ in _LAUNCH),
    *(name for name, _ in GPUS),
)
