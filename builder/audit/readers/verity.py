"""dm-verity read as the kernel does: from the superblock and the data to the root hash.

Format: Linux, admin-guide/device-mapper/verity; superblock: cryptsetup, lib/verity/verity.c.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from measurements.errors import LimitError
from measurements.formats.reader import Reader

MAX_DATA: Final = 8 << 30
_SUPERBLOCK = 512
_MAGIC = b"verity\0\0"
_MAX_SALT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HashTree:
    """What a hash partition says, and what the data gives.

    Attributes:
        uuid: of the superblock.
        salt: hashed before every block.
        algorithm: hash name.
        data_size: bytes covered.
        stored: whether every block of the stored tree is the one that the data gives.
        root_hash: computed from the data, hex.
        rest_is_zero: nothing lies behind the tree.
    """

    uuid: UUID
    salt: bytes
    algorithm: str
    data_size: int
    stored: bool
    root_hash: str
    rest_is_zero: bool


def read_hash_tree(data: memoryview, partition: memoryview) -> HashTree:
    """Compute the hash tree over ``data`` as the superblock of ``partition`` asks, and compare it.

    Args:
        data: the data partition; what lies beyond the blocks that the superblock covers is not hashed.
        partition: the hash partition.

    Raises:
        FormatError: no superblock of version 1 and format 1 with SHA-256 and blocks of 4096 bytes.
        LimitError: more than `MAX_DATA`.
    """
    reader = Reader(partition[:_SUPERBLOCK], "verity superblock")
    if reader.take(8, "signature") != _MAGIC:
        raise reader.error("the signature is missing")
    version, kind = reader.u32("version"), reader.u32("hash type")
    uuid = UUID(bytes=reader.take(16, "uuid"))
    algorithm = reader.take(32, "algorithm").rstrip(b"\0").decode("ascii", "replace")
    data_block, hash_block = reader.u32("data block size"), reader.u32("hash block size")
    blocks = reader.u64("data blocks")
    salt_size = reader.u16("salt size")
    reader.skip(6, "padding")
    if (version, kind, algorithm, data_block, hash_block) != (1, 1, "sha256", 4096, 4096):
        raise reader.error(
            f"version {version}, format {kind}, {algorithm}, blocks of {data_block} and {hash_block} bytes; "
            "expected version 1, format 1, sha256, 4096 and 4096"
        )
    if salt_size > _MAX_SALT:
        raise reader.error(f"a salt of {salt_size} bytes")
    salt = reader.take(salt_size, "salt")
    if blocks * data_block > MAX_DATA:
        raise LimitError(f"verity: {blocks} data blocks; the limit is {MAX_DATA} bytes")
    if not 1 < blocks <= len(data) // data_block:
        raise reader.error(f"{blocks} data blocks in a partition of {len(data)} bytes")
    levels = _levels(data[: blocks * data_block], salt)
    # The stored tree begins with its highest level, in the block behind the superblock.
    tree = b"".join(reversed(levels))
    stored = partition[hash_block : hash_block + len(tree)]
    return HashTree(
        uuid=uuid,
        salt=salt,
        algorithm=algorithm,
        data_size=blocks * data_block,
        stored=stored == tree,
        root_hash=_hash(levels[-1], salt).hex(),
        rest_is_zero=not any(bytes(partition[hash_block + len(tree) :]).strip(b"\0")),
    )


def _levels(data: memoryview, salt: bytes) -> list[bytes]:
    """Return each level of the tree, lowest first, padded to blocks."""
    levels = []
    below: memoryview = data
    while True:
        digests = b"".join(_hash(below[start : start + 4096], salt) for start in range(0, len(below), 4096))
        level = digests + bytes(-len(digests) % 4096)
        levels.append(level)
        if len(level) == 4096:
            return levels
        below = memoryview(level)


def _hash(block: bytes | memoryview, salt: bytes) -> bytes:
    digest = hashlib.sha256(salt)  # format 1: the salt goes first
    digest.update(block)
    return digest.digest()
