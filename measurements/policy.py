"""What a verifier demands of evidence. What decides trust has no default: say it, or say Unproven."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from cryptography import x509

from measurements.attestation_key import MAX_ROOTS
from measurements.chains import AttestationPublicKey
from measurements.errors import FormatError, LimitError
from measurements.events import Stability
from measurements.evidence.document import MAX_NONCE_BYTES, MIN_NONCE_BYTES
from measurements.gpu import appraise
from measurements.keys import PublicKey
from measurements.profile.model import PlatformProfile

#: Every stability that a register can be pinned with.
ALL_PINNED = frozenset(Stability) - {Stability.NOT_PINNED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """A thing the verifier does not demand, on purpose; the verdict says so as a warning.

    Attributes:
        reason: why it is not demanded, in words for the verdict's reader.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedNonce:
    """The nonce that this verifier made for this evidence, 16 to 64 bytes."""

    value: bytes

    def __post_init__(self) -> None:
        if not MIN_NONCE_BYTES <= len(self.value) <= MAX_NONCE_BYTES:
            raise FormatError(
                f"nonce: {len(self.value)} bytes; expected {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedKey:
    """The attestation key is this one: the verifier got it over a trusted way and knows it for restricted."""

    key: AttestationPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateChain:
    """The attestation key is certified under one of these roots, which certify attestation keys only.

    Attributes:
        roots: trust anchors.
        now: the moment, with a time zone, at which every certificate must be valid.
    """

    roots: tuple[x509.Certificate, ...]
    now: datetime

    def __post_init__(self) -> None:
        if not 1 <= len(self.roots) <= MAX_ROOTS:
            raise LimitError(f"certificate roots: {len(self.roots)}; expected 1 to {MAX_ROOTS}")
        if self.now.utcoffset() is None:
            raise FormatError("certificate chain: 'now' has no time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDemands:
    """The verifier judges the GPUs that an image expects.

    Attributes:
        rims: the manifests that the golden document pins (XML), one and all.
        appraisal: as of when, and what is known of revocation.
    """

    rims: tuple[bytes, ...] = field(repr=False)
    appraisal: appraise.Policy

    def __post_init__(self) -> None:
        if not self.appraisal.decided:
            raise FormatError("GPU policy: a verifier demands that the machine's gate has decided")
        if self.appraisal.at.utcoffset() is None:
            raise FormatError("GPU policy: 'at' has no time zone")


NoncePolicy: TypeAlias = ExpectedNonce | Unproven
KeyPolicy: TypeAlias = PinnedKey | CertificateChain | Unproven
GpuPolicy: TypeAlias = GpuDemands | Unproven


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that ``measurements.verify`` demands.

    Attributes:
        signers: keys that may sign golden documents.
        threshold: how many of them must have signed.
        nonce: what the quote must carry.
        attestation_key: why the quote's key is believed to live in a TPM.
        now: the moment at which the document must be valid, with a time zone; ``None`` leaves the validity
            period unproven, and the verdict says so.
        minimum_svn: the lowest security version number that is still trusted.
        image: name of the image; ``None`` accepts every image that the signers sign.
        shape: name of the launch shape; ``None`` chooses the one that fits.
        secure_boot: only launch shapes with Secure Boot on are acceptable. Otherwise a host may start a sealed
            release without, as that release's document allows.
        profiles: launches that the verifier accepts beside the document's: its own word for what their firmware is,
            composed with the document's image layer. Never take one from the guest.
        pin: which kinds of registers must be equal. A verifier who does not control the VM's shape leaves out
            ``Stability.VM_SHAPE``; the verdict lists what was left out.
        gpu: how the GPUs are judged that an image expects; it matters for no other image. ``None`` refuses every
            machine of such an image.
    """

    signers: tuple[PublicKey, ...]
    threshold: int
    nonce: NoncePolicy
    attestation_key: KeyPolicy
    now: datetime | None
    minimum_svn: int
    image: str | None = None
    shape: str | None = None
    secure_boot: bool = False
    profiles: tuple[PlatformProfile, ...] = ()
    pin: frozenset[Stability] = ALL_PINNED
    gpu: GpuPolicy | None = None

    def __post_init__(self) -> None:
        if self.now is not None and self.now.utcoffset() is None:
            raise FormatError("policy: 'now' has no time zone")
        if not self.pin or Stability.NOT_PINNED in self.pin:
            raise FormatError("policy: 'pin' must name at least one stability, and never not-pinned")
