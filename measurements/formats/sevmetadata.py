"""The SEV metadata of OVMF and of an SVSM: regions that the VMM must prepare before the guest starts.

Implements OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm of edk2: "ASEV", u32 length, u32 version 1, u32 count,
then (u32 address, u32 size, u32 type) for each section.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.formats.guidtable import SEV_METADATA, GuidTable
from measurements.formats.reader import Reader

MAX_SECTIONS: Final = 64

_MAGIC = b"ASEV"
_VERSION = 1
_HEADER_SIZE = 16
_SECTION_SIZE = 12


class SectionType(IntEnum):
    """What a region is for (OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm)."""

    SNP_SEC_MEM = 1
    SNP_SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One region.

    Attributes:
        address: guest physical address.
        size: bytes; 0 for a section that this build does not use.
        type: a ``SectionType``, or another number.
    """

    address: int
    size: int
    type: int

    @property
    def name(self) -> str:
        """The type's name, or its number."""
        try:
            return SectionType(self.type).name.lower().replace("_", "-")
        except ValueError:
            return f"0x{self.type:x}"


def parse(image: bytes, table: GuidTable) -> tuple[Section, ...] | None:
    """Read the metadata that ``table`` points at, in the order of the table.

    Returns:
        ``None`` when the table names no metadata: a build without SEV-SNP.

    Raises:
        FormatError: magic, version or a length is wrong, or it lies outside of the image.
        LimitError: more than 64 sections.
    """
    found = table.integers(SEV_METADATA, 1, "SEV metadata offset")
    if found is None:
        return None
    (offset,) = found
    if not _HEADER_SIZE <= offset <= len(image):
        raise FormatError(
            f"SEV metadata lies {offset} bytes before the end; expected {_HEADER_SIZE} to {len(image)}"
        )
    start = len(image) - offset
    reader = Reader(memoryview(image)[start:], "SEV metadata", base=start)
    magic = reader.take(4, "signature")
    size, version, count = reader.u32("length"), reader.u32("version"), reader.u32("count")
    if magic != _MAGIC or version != _VERSION:
        raise FormatError(
            f"SEV metadata begins with {magic!r}, version {version}; expected {_MAGIC!r}, version {_VERSION}"
        )
    if count > MAX_SECTIONS:
        raise LimitError(f"SEV metadata lists {count} sections; the limit is {MAX_SECTIONS}")
    if size < _HEADER_SIZE + count * _SECTION_SIZE:
        raise FormatError(f"SEV metadata of {size} bytes cannot hold {count} sections")
    return tuple(
        Section(address=reader.u32("address"), size=reader.u32("size"), type=reader.u32("type"))
        for _ in range(count)
    )
