"""FAT32 as firmware reads it (Microsoft, FAT32 File System Specification 1.03; UEFI 2.10, 13.3): every file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from measurements.errors import FormatError, LimitError

MAX_ENTRIES: Final = 10_000
MAX_DEPTH: Final = 16
MAX_FILE: Final = 1 << 30

_DIRECTORY, _VOLUME, _LONG = 0x10, 0x08, 0x0F
_END, _MASK = 0x0FFFFFF8, 0x0FFFFFFF
_ENTRY = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FatFile:
    """A file of the ESP: its path in upper case, as firmware compares it, and its content."""

    path: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Volume:
    data: memoryview
    fat: memoryview
    first: int
    cluster: int
    count: int

    def chain(self, start: int, limit: int) -> bytes:
        """Return the clusters of a chain, at most ``limit`` bytes."""
        pieces, seen, current, size = [], set(), start, 0
        while current < _END:
            if not 2 <= current < self.count + 2 or current in seen:
                raise FormatError(f"FAT: a chain leads to cluster {current}: outside, or in a circle")
            seen.add(current)
            offset = self.first + (current - 2) * self.cluster
            pieces.append(self.data[offset : offset + self.cluster])
            size += self.cluster
            if size > limit + self.cluster:
                raise FormatError("FAT: a chain is longer than its file")
            current = struct.unpack_from("<I", self.fat, 4 * current)[0] & _MASK
        return b"".join(pieces)


def read_fat32(data: memoryview) -> tuple[FatFile, ...]:
    """Return every file of a FAT32 file system with sectors of 512 bytes, in the order of its directories.

    Raises:
        FormatError: not FAT32, its copies of the table differ, or a chain does not hold.
        LimitError: more entries, deeper or larger than the limits of this module.
    """
    if len(data) < 512 or bytes(data[510:512]) != b"\x55\xaa":
        raise FormatError("FAT: no boot sector")
    sector, per_cluster, reserved, copies, root_entries, small = struct.unpack_from("<HBHBHH", data, 11)
    total, fat_sectors = struct.unpack_from("<II", data, 32)
    root = struct.unpack_from("<I", data, 44)[0]
    if (sector, root_entries, small) != (512, 0, 0) or not fat_sectors or copies not in (1, 2):
        raise FormatError("FAT: expected FAT32 with sectors of 512 bytes and one or two tables")
    if per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128) or not reserved:
        raise FormatError(f"FAT: {per_cluster} sectors per cluster, {reserved} reserved")
    first = (reserved + copies * fat_sectors) * sector
    if total * sector > len(data) or first >= total * sector:
        raise FormatError(f"FAT: {total} sectors in a partition of {len(data)} bytes")
    tables = [
        data[(reserved + index * fat_sectors) * sector : (reserved + (index + 1) * fat_sectors) * sector]
        for index in range(copies)
    ]
    if any(table != tables[0] for table in tables):
        raise FormatError("FAT: the two copies of the table differ")
    count = (total * sector - first) // (per_cluster * sector)
    if len(tables[0]) < 4 * (count + 2):
        raise FormatError(f"FAT: a table of {len(tables[0])} bytes for {count} clusters")
    volume = _Volume(data=data, fat=tables[0], first=first, cluster=per_cluster * sector, count=count)
    return tuple(_files(volume, root, "", [0]))


def _files(volume: _Volume, start: int, folder: str, seen: list[int]) -> list[FatFile]:
    if folder.count("/") > MAX_DEPTH:
        raise LimitError(f"FAT: folders deeper than {MAX_DEPTH}")
    raw = volume.chain(start, MAX_ENTRIES * _ENTRY)
    found: list[FatFile] = []
    long_name: list[str] = []
    for offset in range(0, len(raw) - _ENTRY + 1, _ENTRY):
        entry = raw[offset : offset + _ENTRY]
        if entry[0] == 0:
            break
        seen[0] += 1
        if seen[0] > MAX_ENTRIES:
            raise LimitError(f"FAT: more than {MAX_ENTRIES} directory entries")
        attributes = entry[11]
        if entry[0] == 0xE5 or (attributes & _VOLUME and attributes & 0x3F != _LONG):
            long_name = []
            continue
        if attributes & 0x3F == _LONG:
            long_name.insert(0, (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le", "replace"))
            continue
        name = "".join(long_name).partition("\0")[0] or _short(entry)
        long_name = []
        if _short(entry) in (".", ".."):
            continue
        high, low, size = struct.unpack_from("<H4xHI", entry, 20)
        path, cluster = f"{folder}/{name.upper()}", high << 16 | low
        if attributes & _DIRECTORY:
            found += _files(volume, cluster, path, seen)
            continue
        if size > MAX_FILE:
            raise LimitError(f"FAT: {path} has {size} bytes; the limit is {MAX_FILE}")
        content = volume.chain(cluster, size) if size else b""
        if len(content) < size:
            raise FormatError(f"FAT: the chain of {path} is shorter than its {size} bytes")
        found.append(FatFile(path=path, content=content[:size]))
    return found


def _short(entry: bytes) -> str:
    base = entry[:8].decode("cp437").rstrip()
    extension = entry[8:11].decode("cp437").rstrip()
    return f"{base}.{extension}" if extension else base
