"""GUID partition tables (UEFI 2.10, 5.3) and the event that firmware measures for them.

The measured bytes are UEFI_GPT_DATA (TCG PC Client Platform Firmware Profile 1.06, 10.2.6), as edk2's
DxeTpm2MeasureBootLib composes them.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError
from measurements.formats.reader import Reader

SIGNATURE: Final = b"EFI PART"
#: Bytes of the header that carry fields; UEFI_GPT_DATA holds exactly these.
HEADER_SIZE: Final = 92
SECTOR_SIZES: Final = (512, 4096)
MAX_ENTRIES: Final = 1024
MAX_ENTRY_SIZE: Final = 4096
MAX_TABLE_SIZE: Final = 1 << 20

_ENTRY_SIZE = 128
_NO_TYPE = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One used entry (UEFI 2.10, 5.3.3, table 5.6).

    Attributes:
        number: 1 for the first entry of the table; unused entries count.
        type: partition type GUID, never zero.
        unique: the partition's own GUID.
        first_lba: first block, in sectors of the disk.
        last_lba: last block, inclusive.
        attributes: 64 bits.
        name: up to 36 UTF-16 code units, without the terminator.
    """

    number: int
    type: UUID
    unique: UUID
    first_lba: int
    last_lba: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpt:
    """The primary table of a disk (UEFI 2.10, 5.3.2, table 5.5); block numbers are in sectors of the disk.

    Attributes:
        sector_size: 512 or 4096 bytes.
        header: the header's first 92 bytes.
        entries: used entries as raw bytes of ``entry_size`` each, in table order.
        partitions: the same entries, parsed.
    """

    sector_size: int
    disk_guid: UUID
    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    entries_lba: int
    entry_count: int
    entry_size: int
    header: bytes = field(repr=False)
    entries: tuple[bytes, ...] = field(repr=False)
    partitions: tuple[Partition, ...]

    def measured_bytes(self) -> bytes:
        """Return UEFI_GPT_DATA: header (92 bytes), u64 number of used entries, the used entries in order."""
        return self.header + struct.pack("<Q", len(self.entries)) + b"".join(self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class GptEvent:
    """What the data of an EV_EFI_GPT_EVENT says."""

    disk_guid: UUID
    alternate_lba: int
    last_usable_lba: int
    partitions: tuple[Partition, ...]


def detect_sector_size(disk_prefix: bytes) -> int:
    """Return the sector size (512 or 4096 bytes) at which the disk has a GPT header in block 1.

    Args:
        disk_prefix: the disk's first 8192 bytes or more.

    Raises:
        FormatError: no header at either size.
    """
    for size in SECTOR_SIZES:
        if disk_prefix[size : size + len(SIGNATURE)] == SIGNATURE:
            return size
    raise FormatError(f"no GPT: expected {SIGNATURE!r} at offset 512 or 4096 of the disk")


def parse(disk_prefix: bytes, *, sector_size: int = 512) -> Gpt:
    """Parse the primary table at block 1.

    Args:
        disk_prefix: the disk from its first byte to the end of the table at least (commonly block 33).
        sector_size: the disk's logical block size in bytes, 512 or 4096.

    Raises:
        FormatError: no header, a checksum that does not hold, a field that UEFI forbids, or a prefix that
            ends inside the table.
        LimitError: more or larger entries than the limits of this module.
    """
    if sector_size not in SECTOR_SIZES:
        raise FormatError(f"sector size {sector_size}; expected 512 or 4096")
    block = disk_prefix[sector_size : 2 * sector_size]
    reader = Reader(block, "GPT header", base=sector_size)
    header = reader.peek(HEADER_SIZE)
    if (signature := reader.take(8, "signature")) != SIGNATURE:
        raise reader.error(f"signature is {signature.hex()}, expected {SIGNATURE.hex()}", offset=sector_size)
    revision = reader.u32("revision")
    header_size = reader.u32("header size")
    stated_crc = reader.u32("header CRC32")
    if not HEADER_SIZE <= header_size <= len(block):
        raise reader.error(f"header size is {header_size}, expected {HEADER_SIZE} to {sector_size}")
    actual_crc = zlib.crc32(block[:16] + bytes(4) + block[20:header_size])
    if actual_crc != stated_crc:
        raise reader.error(f"header CRC32 is {stated_crc:08x}, its bytes give {actual_crc:08x}")
    if revision != 0x00010000:
        raise reader.error(f"revision is 0x{revision:08x}, expected 0x00010000")
    reader.skip(4, "reserved")
    my_lba = reader.u64("MyLBA")
    if my_lba != 1:
        raise reader.error(f"MyLBA is {my_lba}; the primary header lies in block 1")
    alternate_lba = reader.u64("AlternateLBA")
    first_usable_lba, last_usable_lba = reader.u64("FirstUsableLBA"), reader.u64("LastUsableLBA")
    disk_guid = reader.guid("DiskGUID")
    entries_lba = reader.u64("PartitionEntryLBA")
    entry_count, entry_size = reader.u32("NumberOfPartitionEntries"), reader.u32("SizeOfPartitionEntry")
    table = _table(disk_prefix, sector_size, entries_lba, entry_count, entry_size, reader.u32("table CRC32"))
    used = [
        (number, table[start : start + entry_size])
        for number, start in enumerate(range(0, len(table), entry_size), start=1)
        if any(table[start : start + 16])
    ]
    return Gpt(
        sector_size=sector_size,
        disk_guid=disk_guid,
        my_lba=my_lba,
        alternate_lba=alternate_lba,
        first_usable_lba=first_usable_lba,
        last_usable_lba=last_usable_lba,
        entries_lba=entries_lba,
        entry_count=entry_count,
        entry_size=entry_size,
        header=header,
        entries=tuple(entry for _, entry in used),
        partitions=tuple(_partition(number, entry) for number, entry in used),
    )


def parse_event(data: bytes) -> GptEvent:
    """Parse UEFI_GPT_DATA, the data of an EV_EFI_GPT_EVENT; entry numbers count used entries only.

    Raises:
        FormatError: cut, longer than its entries, or not a GPT header.
        LimitError: too many entries.
    """
    reader = Reader(data, "UEFI_GPT_DATA")
    if (signature := reader.take(8, "signature")) != SIGNATURE:
        raise reader.error(f"signature is {signature.hex()}, expected {SIGNATURE.hex()}", offset=0)
    reader.skip(24, "revision to MyLBA")
    alternate_lba = reader.u64("AlternateLBA")
    reader.skip(8, "FirstUsableLBA")
    last_usable_lba = reader.u64("LastUsableLBA")
    disk_guid = reader.guid("DiskGUID")
    reader.skip(12, "PartitionEntryLBA and NumberOfPartitionEntries")
    entry_size = reader.u32("SizeOfPartitionEntry")
    reader.skip(4, "table CRC32")
    count = reader.u64("number of partitions")
    _check_sizes(count, entry_size)
    partitions = tuple(
        _partition(number, reader.take(entry_size, f"partition {number}")) for number in range(1, count + 1)
    )
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes follow the last of {count} partitions")
    return GptEvent(
        disk_guid=disk_guid,
        alternate_lba=alternate_lba,
        last_usable_lba=last_usable_lba,
        partitions=partitions,
    )


def _table(
    disk_prefix: bytes, sector_size: int, lba: int, count: int, entry_size: int, stated_crc: int
) -> bytes:
    _check_sizes(count, entry_size)
    start = lba * sector_size
    if lba < 2:
        raise FormatError(f"GPT entries start in block {lba}; blocks 0 and 1 hold the MBR and the header")
    table = bytes(memoryview(disk_prefix)[start : start + count * entry_size])
    if len(table) != count * entry_size:
        raise FormatError(
            f"GPT entries take {count * entry_size} bytes from offset {start}; the prefix of the disk "
            f"ends at {len(disk_prefix)}: pass more of the disk"
        )
    actual_crc = zlib.crc32(table)
    if actual_crc != stated_crc:
        raise FormatError(f"GPT table CRC32 is {stated_crc:08x}, its bytes give {actual_crc:08x}")
    return table


def _check_sizes(count: int, entry_size: int) -> None:
    # UEFI 2.10, table 5.5: 128 × 2ⁿ bytes.
    if entry_size < _ENTRY_SIZE or entry_size & (entry_size - 1):
        raise FormatError(f"GPT entry size is {entry_size}; expected {_ENTRY_SIZE} times a power of two")
    if entry_size > MAX_ENTRY_SIZE or count > MAX_ENTRIES or count * entry_size > MAX_TABLE_SIZE:
        raise LimitError(
            f"GPT has {count} entries of {entry_size} bytes; the limits are {MAX_ENTRIES} entries, "
            f"{MAX_ENTRY_SIZE} bytes each and {MAX_TABLE_SIZE} together"
        )


def _partition(number: int, entry: bytes) -> Partition:
    reader = Reader(entry, f"GPT entry {number}")
    type_guid, unique = reader.guid("type"), reader.guid("unique")
    first_lba, last_lba = reader.u64("first LBA"), reader.u64("last LBA")
    attributes = reader.u64("attributes")
    name = reader.take(72, "name").decode("utf-16-le", "replace").split("\0", 1)[0]
    if type_guid == _NO_TYPE:
        raise reader.error("the type GUID is zero, so the entry is unused", offset=0)
    if last_lba < first_lba:
        raise reader.error(f"last block {last_lba} lies before first block {first_lba}", offset=40)
    return Partition(
        number=number,
        type=type_guid,
        unique=unique,
        first_lba=first_lba,
        last_lba=last_lba,
        attributes=attributes,
        name=name,
    )
