"""TDVF metadata: which parts of a firmware file a VMM loads into a trust domain, and which of them it measures.

Implements Intel's TDX Virtual Firmware Design Guide (document 344991), "TDVF Metadata": the table of GUIDed
structures at the end of the file holds the distance of the descriptor from the end of the file. Whatever a VMM
could read in two ways is refused, because a measurement of it would be a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from itertools import pairwise
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.formats import guidtable
from measurements.formats.reader import Reader

MAX_FIRMWARE_SIZE: Final = 64 << 20
MAX_SECTIONS: Final = 64
#: Pages of all sections together: 256 MiB, some sixty times what known builds ask for.
MAX_PAGES: Final = 1 << 16

PAGE_SIZE: Final = 0x1000

_SIGNATURE = b"TDVF"
_VERSION = 1
_HEADER_SIZE = 16
_SECTION_SIZE = 32
_ADDRESS_SPACE = 1 << 52


class SectionType(IntEnum):
    """What a section is for."""

    BFV = 0  # boot firmware volume: code
    CFV = 1  # configuration firmware volume: variables
    TD_HOB = 2  # where the VMM writes the list of memory ranges
    TEMP_MEM = 3  # stack, heap, mailbox
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6

    @property
    def title(self) -> str:
        """The design guide's name."""
        return _TITLES[self]


_TITLES: Final = {
    SectionType.BFV: "BFV",
    SectionType.CFV: "CFV",
    SectionType.TD_HOB: "TD_HOB",
    SectionType.TEMP_MEM: "TempMem",
    SectionType.PERM_MEM: "PermMem",
    SectionType.PAYLOAD: "Payload",
    SectionType.PAYLOAD_PARAM: "PayloadParam",
}
#: Sections whose contents come from the file; the memory of the others starts out as zeros.
_FROM_FILE: Final = (SectionType.BFV, SectionType.CFV, SectionType.PAYLOAD)


#: SectionAttribute's bits.
_ATTRIBUTES = 0b11


class SectionAttribute(IntFlag):
    """How a section is added to the trust domain."""

    MR_EXTEND = 1  # its contents are measured into MRTD
    PAGE_AUG = 2  # its pages are added after the build, so MRTD knows nothing of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section.

    Attributes:
        type: what it is for.
        attributes: how it is added.
        address: guest-physical address, a multiple of 4 KiB.
        size: bytes in memory, a multiple of 4 KiB.
        data: contents from the file, as long as the memory; empty for memory that starts as zeros or that the
            VMM fills.
    """

    type: SectionType
    attributes: SectionAttribute
    address: int
    size: int
    data: memoryview = field(repr=False)

    @property
    def end(self) -> int:
        """Exclusive end of the memory range."""
        return self.address + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Tdvf:
    """A firmware's metadata.

    Attributes:
        sections: in the table's order, in which a VMM adds them.
    """

    sections: tuple[Section, ...]

    def only(self, kind: SectionType) -> Section:
        """Return the section of a type of which there must be one.

        Raises:
            FormatError: there is none, or several.
        """
        found = [section for section in self.sections if section.type is kind]
        if len(found) != 1:
            raise FormatError(f"TDVF metadata has {len(found)} sections of type {kind.title}; expected one")
        return found[0]


def parse(firmware: bytes) -> Tdvf:
    """Read the metadata of a firmware file, at most 64 MiB.

    Raises:
        FormatError: the file has no TDVF metadata, so it cannot boot a trust domain, or they are malformed.
        LimitError: a limit of this module is exceeded.
    """
    if len(firmware) > MAX_FIRMWARE_SIZE:
        raise LimitError(f"firmware has {len(firmware)} bytes; the limit is {MAX_FIRMWARE_SIZE}")
    entry = guidtable.parse(firmware).integers(guidtable.TDX_METADATA, 1, "offset of the TDVF metadata")
    if entry is None:
        raise FormatError(
            "firmware has no TDVF metadata, so it cannot boot a TDX guest; "
            "use a build such as OVMF.inteltdx.fd, or OVMF.fd with code and variables in one file"
        )
    (distance,) = entry
    if not _HEADER_SIZE <= distance <= len(firmware):
        raise FormatError(
            f"TDVF metadata lie {distance} bytes before the end of a firmware of {len(firmware)} bytes; "
            f"expected {_HEADER_SIZE} to {len(firmware)}"
        )
    start = len(firmware) - distance
    reader = Reader(memoryview(firmware)[start:], "TDVF metadata", base=start)
    if reader.take(4, "signature") != _SIGNATURE:
        raise reader.error('no signature "TDVF"', offset=start)
    length, version, count = reader.u32("length"), reader.u32("version"), reader.u32("number of sections")
    if version != _VERSION:
        raise reader.error(f"version {version}; expected {_VERSION}", offset=start)
    if count > MAX_SECTIONS:
        raise LimitError(f"TDVF metadata list {count} sections; the limit is {MAX_SECTIONS}")
    if length != _HEADER_SIZE + count * _SECTION_SIZE:
        raise reader.error(
            f"length {length} for {count} sections; expected {_HEADER_SIZE + count * _SECTION_SIZE}",
            offset=start,
        )
    sections = tuple(_section(reader, memoryview(firmware)) for _ in range(count))
    if not sections:
        raise reader.error("no section", offset=start)
    if sum(section.size for section in sections) > MAX_PAGES * PAGE_SIZE:
        raise LimitError(f"TDVF sections have more than {MAX_PAGES} pages")
    _require_disjoint(sections)
    return Tdvf(sections=sections)


def _section(reader: Reader, firmware: memoryview) -> Section:
    start = reader.offset
    offset, raw_size = reader.u32("data offset"), reader.u32("raw data size")
    address, size = reader.u64("memory address"), reader.u64("memory size")
    kind, attributes = reader.u32("type"), reader.u32("attributes")
    try:
        section_type = SectionType(kind)
    except ValueError:
        raise reader.error(f"unknown section type {kind}; expected 0 to 6", offset=start) from None
    if attributes & ~_ATTRIBUTES:
        raise reader.error(f"unknown section attributes 0x{attributes:x}", offset=start)
    if address % PAGE_SIZE or size % PAGE_SIZE or not size:
        raise reader.error(
            f"section of 0x{size:x} bytes at 0x{address:x}; expected one or more whole pages", offset=start
        )
    if address + size > _ADDRESS_SPACE:
        raise reader.error(f"section ends at 0x{address + size:x}, beyond 52 address bits", offset=start)
    if section_type in _FROM_FILE:
        if raw_size != size:
            raise reader.error(
                f"{section_type.title} has {raw_size} bytes in the file and {size} in memory; "
                "expected the same number",
                offset=start,
            )
        if offset + raw_size > len(firmware):
            raise reader.error(f"{section_type.title} ends beyond the firmware file", offset=start)
    elif offset or raw_size:
        raise reader.error(f"{section_type.title} has data in the file; expected none", offset=start)
    return Section(
        type=section_type,
        attributes=SectionAttribute(attributes),
        address=address,
        size=size,
        data=firmware[offset : offset + raw_size],
    )


def _require_disjoint(sections: tuple[Section, ...]) -> None:
    # A page can be added to a trust domain once (TDH.MEM.PAGE.ADD).
    ordered = sorted(sections, key=lambda section: section.address)
    for low, high in pairwise(ordered):
        if low.end > high.address:
            raise FormatError(
                f"TDVF sections {low.type.title} at 0x{low.address:x} and {high.type.title} at "
                f"0x{high.address:x} overlap"
            )
