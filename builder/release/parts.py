"""Where the meaningful stretches of a disk and a UKI lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from builder.release.manifest import Part
from measurements.formats import gpt, pe

_SECTOR = 512
#: Header, 128 entries of 128 bytes: 33 sectors, in front with a protective MBR and mirrored at the end.
_TABLE_SECTORS = 33
_NAMES = {"esp": "EFI system partition", "root": "root file system", "root-verity": "verity hash tree"}


def uki_parts(uki: bytes, file: str, *, base: int = 0) -> Iterator[Part]:
    """Yield the headers, every section and the signature of a UKI that starts ``base`` bytes into ``file``."""
    image = pe.parse(uki)
    sections = image.sections
    first = min(section.raw_offset for section in sections if section.raw_size)
    yield _part("uki headers", file, base, uki[:first])
    for section in sections:
        raw = uki[section.raw_offset : section.raw_offset + section.raw_size]
        yield _part(f"uki {section.name}", file, base + section.raw_offset, raw)
    offset, size = image.certificate_table
    if size:
        yield _part("uki signature", file, base + offset, uki[offset : offset + size])


def disk_parts(disk: Path, table: gpt.Gpt, uki: bytes) -> Iterator[Part]:
    """Yield the partition tables, the partitions, and the UKI's sections where they lie on the ESP."""
    with disk.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        end = disk.stat().st_size
        yield _part("partition table (GPT)", disk.name, 0, read(0, (1 + _TABLE_SECTORS) * _SECTOR))
        backup = end - _TABLE_SECTORS * _SECTOR
        yield _part("backup partition table (GPT)", disk.name, backup, read(backup, end - backup))
        for entry in table.partitions:
            offset = entry.first_lba * _SECTOR
            content = read(offset, (entry.last_lba - entry.first_lba + 1) * _SECTOR)
            yield _part(_NAMES.get(entry.name, entry.name), disk.name, offset, content)
            # The ESP holds one file, written in one run of clusters; elsewhere the UKI is not found.
            inside = content.find(uki) if entry.name == "esp" else -1
            if inside >= 0:
                yield from uki_parts(uki, disk.name, base=offset + inside)


def _part(name: str, file: str, offset: int, content: bytes) -> Part:
    return Part(
        name=name, file=file, offset=offset, size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
