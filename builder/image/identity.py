"""Every identifier an image carries, derived from what it identifies; nothing is random.

Two rules decide what an identifier is derived from:

- what goes into the root hash (file system UUID, verity salt and UUID) follows from the image's name and
  version alone, so that equal content keeps an equal root hash;
- what lies around it (partition GUIDs, disk GUID, FAT volume id) follows from the root hash and the UKI, so
  that two disks with one GUID are one image.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from uuid import UUID

from builder.errors import ImageError

_DOMAIN = b"goldsmith image identity 1"
_ROOT_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RootIdentity:
    """What the root file system and its hash tree are called.

    Attributes:
        erofs_uuid: of the EROFS superblock.
        verity_uuid: of the verity superblock.
        verity_salt: 32 bytes, hashed before every block.
    """

    erofs_uuid: UUID
    verity_uuid: UUID
    verity_salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskIdentity:
    """What the disk and its partitions are called.

    Attributes:
        disk: DiskGUID of the GPT header.
        esp: unique GUID of the EFI system partition.
        root: unique GUID of the root partition, the first 128 bits of the root hash.
        verity: unique GUID of the verity partition, the last 128 bits of the root hash.
        fat_volume: FAT volume id, 32 bits.
    """

    disk: UUID
    esp: UUID
    root: UUID
    verity: UUID
    fat_volume: int


def root_identity(name: str, version: str) -> RootIdentity:
    """Return the identifiers inside the root hash of image ``name`` at ``version``."""
    parts = (name.encode(), version.encode())
    return RootIdentity(
        erofs_uuid=_uuid("erofs uuid", *parts),
        verity_uuid=_uuid("verity uuid", *parts),
        verity_salt=_derive("verity salt", *parts),
    )


def disk_identity(root_hash: str, uki_digest: bytes) -> DiskIdentity:
    """Return the identifiers of the disk that holds this root and this UKI.

    Args:
        root_hash: dm-verity root hash, 64 lower-case hex digits.
        uki_digest: SHA-256 of the UKI file, 32 bytes.

    Raises:
        ImageError: either has another form.
    """
    if not _ROOT_HASH.fullmatch(root_hash):
        raise ImageError(f"root hash {root_hash!r}: expected 64 lower-case hex digits")
    if len(uki_digest) != hashlib.sha256().digest_size:
        raise ImageError(f"digest of the UKI has {len(uki_digest)} bytes, expected 32 (SHA-256)")
    parts = (bytes.fromhex(root_hash), uki_digest)
    return DiskIdentity(
        disk=_uuid("disk guid", *parts),
        esp=_uuid("esp guid", *parts),
        # Discoverable Partitions Specification, "Suggested Mode of Operation": the root hash, split, finds
        # both partitions. These are taken as they are, without the version bits of RFC 9562.
        root=UUID(hex=root_hash[:32]),
        verity=UUID(hex=root_hash[-32:]),
        fat_volume=int.from_bytes(_derive("fat volume id", *parts)[:4], "big"),
    )


def _uuid(purpose: str, *parts: bytes) -> UUID:
    # RFC 9562, 5.8: version 8 is for a vendor's own derivation, here from SHA-256.
    raw = bytearray(_derive(purpose, *parts)[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))


def _derive(purpose: str, *parts: bytes) -> bytes:
    # Each part carries its length, so that no two lists of parts hash the same bytes.
    digest = hashlib.sha256()
    for part in (_DOMAIN, purpose.encode(), *parts):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
