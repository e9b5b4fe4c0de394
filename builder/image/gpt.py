"""Write a GUID partition table (UEFI 2.10, 5.3) with the partitions of an image.

Partition types and flags: Discoverable Partitions Specification (UAPI group).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from builder.errors import ImageError
from builder.image.identity import DiskIdentity

SECTOR = 512
#: Partitions start and the disk ends on multiples of 1 MiB.
ALIGNMENT = 1 << 20

TYPE_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
TYPE_ROOT_X86_64 = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
TYPE_ROOT_VERITY_X86_64 = UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
#: DPS, "Partition Flags": bit 60, mounted and set up read-only.
READ_ONLY = 1 << 60

_ENTRIES = 128
_ENTRY_SIZE = 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
_HEADER_SIZE = 92
_NAME_UNITS = 36
_MAX_MBR_SECTORS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition to be.

    Attributes:
        type: partition type GUID.
        unique: its own GUID.
        name: up to 36 UTF-16 code units.
        attributes: 64 bits.
        size: bytes of content; the partition covers it in whole sectors.
    """

    type: UUID
    unique: UUID
    name: str
    attributes: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A partitioned disk without its content.

    Attributes:
        head: protective MBR, header, entries: the disk's first 34 sectors.
        tail: backup entries and header: its last 33 sectors.
        offsets: where each partition starts, in bytes, in the order given.
        size: of the disk in bytes, a multiple of 1 MiB.
    """

    head: bytes
    tail: bytes
    offsets: tuple[int, ...]
    size: int


def image_partitions(
    identity: DiskIdentity, *, esp_size: int, root_size: int, verity_size: int
) -> tuple[Partition, ...]:
    """Return the ESP, the root and its hash tree, in that order; sizes in bytes."""
    return (
        Partition(type=TYPE_ESP, unique=identity.esp, name="esp", attributes=0, size=esp_size),
        Partition(
            type=TYPE_ROOT_X86_64, unique=identity.root, name="root", attributes=READ_ONLY, size=root_size
        ),
        Partition(
            type=TYPE_ROOT_VERITY_X86_64,
            unique=identity.verity,
            name="root-verity",
            attributes=READ_ONLY,
            size=verity_size,
        ),
    )


def build_gpt(disk: UUID, partitions: Sequence[Partition]) -> Table:
    """Lay the partitions out one after the other, on the smallest disk that holds them.

    Raises:
        ImageError: no partition, too many, an empty one, or a name too long.
    """
    if not 1 <= len(partitions) <= _ENTRIES:
        raise ImageError(f"{len(partitions)} partitions; a table holds 1 to {_ENTRIES}")
    offsets: list[int] = []
    entries = b""
    end = ALIGNMENT
    for partition in partitions:
        offsets.append(end)
        entries += _entry(partition, end)
        end = _round_up(end + partition.size, ALIGNMENT)
    size = end + ALIGNMENT  # the last MiB is the backup table's
    sectors = size // SECTOR
    table = entries.ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    primary = _header(disk, table, my=1, other=sectors - 1, entries_at=2, sectors=sectors)
    backup = _header(
        disk, table, my=sectors - 1, other=1, entries_at=sectors - 1 - _TABLE_SECTORS, sectors=sectors
    )
    return Table(
        head=_protective_mbr(sectors) + primary + table,
        tail=table + backup,
        offsets=tuple(offsets),
        size=size,
    )


def _entry(partition: Partition, start: int) -> bytes:
    name = partition.name.encode("utf-16-le")
    if partition.size < 1 or len(name) > 2 * _NAME_UNITS:
        raise ImageError(
            f"partition {partition.name!r} of {partition.size} bytes: expected content and a name of at "
            f"most {_NAME_UNITS} UTF-16 code units"
        )
    last = (_round_up(start + partition.size, SECTOR)) // SECTOR - 1
    # UEFI 2.10, table 5.6.
    return struct.pack(
        "<16s16sQQQ72s",
        partition.type.bytes_le,
        partition.unique.bytes_le,
        start // SECTOR,
        last,
        partition.attributes,
        name,
    )


def _header(disk: UUID, table: bytes, *, my: int, other: int, entries_at: int, sectors: int) -> bytes:
    # UEFI 2.10, table 5.5; the checksum is taken with its own field zero.
    def pack(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x00010000,
            _HEADER_SIZE,
            checksum,
            0,
            my,
            other,
            2 + _TABLE_SECTORS,
            sectors - 2 - _TABLE_SECTORS,
            disk.bytes_le,
            entries_at,
            _ENTRIES,
            _ENTRY_SIZE,
            zlib.crc32(table),
        )

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")


def _protective_mbr(sectors: int) -> bytes:
    # UEFI 2.10, 5.2.3: one record of type 0xEE over the disk from sector 1, CHS 0/0/2 to the largest.
    record = struct.pack(
        "<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, _MAX_MBR_SECTORS)
    )
    return (bytes(446) + record).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
