"""The table of GUIDed structures at the end of OVMF, in which the firmware tells the VMM what it needs.

Implements OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm of edk2: the table ends 32 bytes before the end of the
file and is read backwards. Every entry is data, then its length with these 18 bytes (u16), then its GUID; the
last one describes the table itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError

MAX_ENTRIES: Final = 64
MAX_TABLE_SIZE: Final = 0x1000

SEV_ES_RESET_BLOCK: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_HASH_TABLE: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_SECRET: Final = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
SEV_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SVSM_INFO: Final = UUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")
TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")

_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_END_OFFSET = 32
_HEADER_SIZE = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidTable:
    """The entries, without the one that describes the table; empty for firmware without a table."""

    entries: Mapping[UUID, bytes]

    def get(self, guid: UUID, size: int, what: str) -> bytes | None:
        """Return the first ``size`` bytes of an entry, or ``None`` when there is no such entry.

        Raises:
            FormatError: the entry is shorter.
        """
        data = self.entries.get(guid)
        if data is not None and len(data) < size:
            raise FormatError(f"firmware table: {what} ({guid}) has {len(data)} bytes, expected {size}")
        return None if data is None else data[:size]

    def integers(self, guid: UUID, count: int, what: str) -> tuple[int, ...] | None:
        """Return an entry's first ``count`` u32; raises like ``get``."""
        data = self.get(guid, 4 * count, what)
        if data is None:
            return None
        return tuple(int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(count))


def parse(firmware: bytes) -> GuidTable:
    """Read the table at the end of a firmware or SVSM file.

    Raises:
        FormatError: an entry's length contradicts the table's, or a GUID occurs twice.
        LimitError: the table is longer than 4 KiB or has more than 64 entries.
    """
    data = memoryview(firmware)
    end = len(data) - _END_OFFSET
    if end < _HEADER_SIZE or _guid(data, end) != _FOOTER:
        return GuidTable(entries={})
    size = _length(data, end)
    if size > MAX_TABLE_SIZE:
        raise LimitError(f"firmware table claims {size} bytes; the limit is {MAX_TABLE_SIZE}")
    if size < _HEADER_SIZE or size > end:
        raise FormatError(f"firmware table claims {size} bytes, expected {_HEADER_SIZE} to {end}")
    start, position = end - size, end - _HEADER_SIZE
    entries: dict[UUID, bytes] = {}
    while position > start:
        if len(entries) == MAX_ENTRIES:
            raise LimitError(f"firmware table has more than {MAX_ENTRIES} entries")
        if position - start < _HEADER_SIZE:
            raise FormatError(f"firmware table has {position - start} bytes before its first entry")
        guid, length = _guid(data, position), _length(data, position)
        if not _HEADER_SIZE <= length <= position - start:
            raise FormatError(
                f"firmware table: entry {guid} claims {length} bytes, "
                f"expected {_HEADER_SIZE} to {position - start}"
            )
        if guid in entries:
            raise FormatError(f"firmware table: entry {guid} occurs twice")
        entries[guid] = bytes(data[position - length : position - _HEADER_SIZE])
        position -= length
    return GuidTable(entries=entries)


def _guid(data: memoryview, end: int) -> UUID:
    return UUID(bytes_le=bytes(data[end - 16 : end]))


def _length(data: memoryview, end: int) -> int:
    return int.from_bytes(data[end - _HEADER_SIZE : end - 16], "little")
