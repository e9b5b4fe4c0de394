"""PE/COFF images as edk2 loads and measures them.

Implements the Authenticode digest of SecurityPkg/Tcg/Tcg2Dxe/MeasureBootPeCoff.c (Windows Authenticode
Portable Executable Signature Format, 1.0, "Calculating the PE Image Hash") and the checks that
MdePkg/Library/BasePeCoffLib makes first: an image that x64 firmware refuses has no digest and is a
``FormatError`` here. edk2 adds no padding to a multiple of 8; signing tools do, so their digest differs
for an unsigned image of another size.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.events import ALL_BANKS, Digest, Digests, HashAlgorithm

MAX_FILE_SIZE: Final = 4 << 30
MAX_SECTIONS: Final = 1024
#: Sections may overlap; together they may hold at most this many times the file, or hashing takes for ever.
MAX_OVERLAP: Final = 4
#: Bytes of zeros that a section may claim beyond what the file holds.
MAX_ZERO_FILL: Final = 256 << 20

_DOS_HEADER_SIZE = 64
_NT_HEADERS64_SIZE = 264  # edk2 reads this much at e_lfanew, for PE32 too
_COFF_HEADER_SIZE = 20
_SECTION_HEADER_SIZE = 40
_DEBUG_ENTRY_SIZE = 28
_MAX_DIRECTORIES = 16
_SECURITY_DIRECTORY = 4
_DEBUG_DIRECTORY = 6
_U32_MAX = 0xFFFFFFFF
#: PeCoffLoaderImageFormatSupported in x64 firmware: IA32, x64, EFI byte code and AArch64. Whether an image
#: can run is decided after it was measured.
_MACHINES = (0x014C, 0x8664, 0x0EBC, 0xAA64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section header (Microsoft PE Format, "Section Table"); all numbers are bytes."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_offset: int
    raw_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeImage:
    """A PE32 or PE32+ image that firmware would load.

    Attributes:
        machine: COFF machine type (0x8664 is x64).
        sections: section headers in file order.
        data: the whole file.
        hashed: (start, end) ranges of the file that the Authenticode digest covers, in hashing order.
        certificate_table: (file offset, size) of the signatures; (0, 0) for an unsigned image.
    """

    machine: int
    sections: tuple[Section, ...]
    data: bytes = field(repr=False)
    hashed: tuple[tuple[int, int], ...] = field(repr=False)
    certificate_table: tuple[int, int] = (0, 0)

    def section(self, name: str) -> Section | None:
        """Return the first section of that name; ``None`` when there is none."""
        return next((section for section in self.sections if section.name == name), None)

    def section_data(self, section: Section) -> bytes:
        """Return the section as it lies in memory: ``virtual_size`` bytes, zeros beyond ``raw_size``.

        Raises:
            LimitError: more than ``MAX_ZERO_FILL`` bytes would be zeros.
        """
        present = min(section.virtual_size, section.raw_size)
        missing = section.virtual_size - present
        if missing > MAX_ZERO_FILL:
            raise LimitError(
                f"PE section {section.name!r} claims {missing} bytes beyond its {section.raw_size} bytes of "
                f"data; the limit is {MAX_ZERO_FILL}"
            )
        return self.data[section.raw_offset : section.raw_offset + present] + bytes(missing)

    def authenticode(self, algorithm: HashAlgorithm) -> Digest:
        """Return the digest that firmware extends for this image (spec: module docstring)."""
        view = memoryview(self.data)
        state = hashlib.new(algorithm.value, usedforsecurity=False)
        for start, end in self.hashed:
            state.update(view[start:end])
        return Digest(algorithm, state.digest())

    def authenticode_digests(self, banks: Iterable[HashAlgorithm] = ALL_BANKS) -> Digests:
        """Return ``authenticode`` for each bank."""
        return {bank: self.authenticode(bank) for bank in banks}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Headers:
    """What the digest and the checks need of the headers; offsets are from the start of the file."""

    machine: int
    section_count: int
    section_table: int
    checksum: int
    size_of_image: int
    size_of_headers: int
    directories: int
    directory_count: int

    def directory(self, data: bytes, index: int) -> tuple[int, int]:
        """Return (address, size) of data directory ``index``; zeros when the image has no such entry."""
        if index >= self.directory_count:
            return 0, 0
        address, size = struct.unpack_from("<II", data, self.directories + 8 * index)
        return address, size


def parse(data: bytes) -> PeImage:
    """Parse a PE image of any size up to ``MAX_FILE_SIZE``; nothing is copied.

    Raises:
        FormatError: x64 edk2 would refuse the image.
        LimitError: too large, too many sections, or sections that overlap beyond reason.
    """
    if len(data) > MAX_FILE_SIZE:
        raise LimitError(f"PE image has {len(data)} bytes; the limit is {MAX_FILE_SIZE}")
    headers = _headers(data)
    _check_headers(data, headers)
    sections = _sections(data, headers)
    _check_debug_directory(data, headers, sections)
    return PeImage(
        machine=headers.machine,
        sections=sections,
        data=data,
        hashed=_hashed_ranges(data, headers, sections),
        certificate_table=headers.directory(data, _SECURITY_DIRECTORY),
    )


def _headers(data: bytes) -> _Headers:
    if len(data) < _DOS_HEADER_SIZE:
        raise FormatError(f"PE image has {len(data)} bytes; a DOS header alone has {_DOS_HEADER_SIZE}")
    # Without the DOS signature edk2 looks for the PE header at offset 0.
    pe = struct.unpack_from("<I", data, 0x3C)[0] if data[:2] == b"MZ" else 0
    if pe + _NT_HEADERS64_SIZE > len(data):
        raise FormatError(
            f"PE header at offset {pe} needs {_NT_HEADERS64_SIZE} bytes; the file ends at {len(data)}: "
            "not a PE image, or cut"
        )
    if data[pe : pe + 4] != b"PE\0\0":
        raise FormatError(f"no PE signature at offset {pe}: expected 50450000, got {data[pe : pe + 4].hex()}")
    coff = pe + 4
    machine, section_count = struct.unpack_from("<HH", data, coff)
    optional_size = struct.unpack_from("<H", data, coff + 16)[0]
    if machine not in _MACHINES:
        raise FormatError(
            f"PE machine type 0x{machine:04x} is not one that x64 firmware loads (x64 is 0x8664)"
        )
    optional = coff + _COFF_HEADER_SIZE
    magic = struct.unpack_from("<H", data, optional)[0]
    match magic:
        case 0x10B:
            directories = optional + 96
        case 0x20B:
            directories = optional + 112
        case _:
            raise FormatError(
                f"PE optional header magic 0x{magic:04x}; expected 0x010b (PE32) or 0x020b (PE32+)"
            )
    count = struct.unpack_from("<I", data, directories - 4)[0]
    if count > _MAX_DIRECTORIES:
        raise FormatError(f"PE NumberOfRvaAndSizes is {count}; at most {_MAX_DIRECTORIES} are defined")
    if optional_size != directories - optional + 8 * count:
        raise FormatError(
            f"PE SizeOfOptionalHeader is {optional_size}; {count} data directories need "
            f"{directories - optional + 8 * count}"
        )
    size_of_image, size_of_headers, _ = struct.unpack_from("<III", data, optional + 56)
    return _Headers(
        machine=machine,
        section_count=section_count,
        section_table=optional + optional_size,
        checksum=optional + 64,
        size_of_image=size_of_image,
        size_of_headers=size_of_headers,
        directories=directories,
        directory_count=count,
    )


def _check_headers(data: bytes, headers: _Headers) -> None:
    # BasePeCoff.c PeCoffLoaderGetPeHeader, in its order.
    table, count = headers.section_table, headers.section_count
    if headers.size_of_image <= table or (headers.size_of_image - table) // _SECTION_HEADER_SIZE <= count:
        raise FormatError(f"PE SizeOfImage {headers.size_of_image} leaves no room for {count} sections")
    if not table < headers.size_of_headers < headers.size_of_image:
        raise FormatError(
            f"PE SizeOfHeaders is {headers.size_of_headers}; expected between the section table at {table} "
            f"and SizeOfImage {headers.size_of_image}"
        )
    if (headers.size_of_headers - table) // _SECTION_HEADER_SIZE < count:
        raise FormatError(
            f"PE SizeOfHeaders {headers.size_of_headers} cuts the table of {count} sections at {table}"
        )
    if headers.size_of_headers > len(data):
        raise FormatError(
            f"PE SizeOfHeaders {headers.size_of_headers} passes the end of the file at {len(data)}"
        )
    address, size = headers.directory(data, _SECURITY_DIRECTORY)
    if size and address + size > min(len(data), _U32_MAX):
        raise FormatError(f"PE certificate table {address}+{size} passes the end of the file at {len(data)}")


def _sections(data: bytes, headers: _Headers) -> tuple[Section, ...]:
    if headers.section_count > MAX_SECTIONS:
        raise LimitError(f"PE image has {headers.section_count} sections; the limit is {MAX_SECTIONS}")
    sections = []
    for index in range(headers.section_count):
        header = headers.section_table + index * _SECTION_HEADER_SIZE
        name, virtual_size, virtual_address, raw_size, raw_offset = struct.unpack_from(
            "<8sIIII", data, header
        )
        section = Section(
            name=name.split(b"\0", 1)[0].decode("ascii", "backslashreplace"),
            virtual_size=virtual_size,
            virtual_address=virtual_address,
            raw_offset=raw_offset,
            raw_size=raw_size,
        )
        if raw_size:
            if min(virtual_address, raw_offset) < headers.size_of_headers:
                raise FormatError(
                    f"PE section {section.name!r} (address {virtual_address}, file offset {raw_offset}) lies "
                    f"inside the headers of {headers.size_of_headers} bytes"
                )
            if raw_offset + raw_size > min(len(data), _U32_MAX):
                raise FormatError(
                    f"PE section {section.name!r} at {raw_offset}+{raw_size} passes the end of the file "
                    f"at {len(data)}"
                )
        sections.append(section)
    total = sum(section.raw_size for section in sections)
    if total > MAX_OVERLAP * len(data):
        raise LimitError(
            f"PE sections hold {total} bytes in a file of {len(data)}; overlaps are limited to "
            f"{MAX_OVERLAP} times"
        )
    return tuple(sections)


def _check_debug_directory(data: bytes, headers: _Headers, sections: tuple[Section, ...]) -> None:
    # BasePeCoff.c PeCoffLoaderGetImageInfo reads every entry of the debug directory, and refuses the image
    # when one is not in the file.
    address, size = headers.directory(data, _DEBUG_DIRECTORY)
    for section in sections:
        if section.virtual_address <= address < (section.virtual_address + section.virtual_size) & _U32_MAX:
            start = address - section.virtual_address + section.raw_offset
            entries = -(-size // _DEBUG_ENTRY_SIZE)
            if size and start and start + entries * _DEBUG_ENTRY_SIZE > len(data):
                raise FormatError(
                    f"PE debug directory at {start} ({entries} entries) passes the end of the file "
                    f"at {len(data)}"
                )
            return


def _hashed_ranges(
    data: bytes, headers: _Headers, sections: tuple[Section, ...]
) -> tuple[tuple[int, int], ...]:
    # Steps of MeasureBootPeCoff.c, by its numbers; order is the specification.
    # 4: up to the checksum. 5-9: skip it and, where the directory exists, the certificate table's entry.
    ranges = [(0, headers.checksum)]
    if headers.directory_count <= _SECURITY_DIRECTORY:
        ranges.append((headers.checksum + 4, headers.size_of_headers))
    else:
        entry = headers.directories + 8 * _SECURITY_DIRECTORY
        ranges.append((headers.checksum + 4, entry))
        ranges.append((entry + 8, headers.size_of_headers))
    # 10-15: sections with data by file offset; equal offsets keep the table's order.
    loaded = sorted(
        (section for section in sections if section.raw_size), key=lambda section: section.raw_offset
    )
    ranges.extend((section.raw_offset, section.raw_offset + section.raw_size) for section in loaded)
    # 16: what follows, less the certificate table. The sum counts overlapping bytes twice, as edk2 does.
    summed = headers.size_of_headers + sum(section.raw_size for section in loaded)
    _, certificates = headers.directory(data, _SECURITY_DIRECTORY)
    if len(data) > summed:
        if len(data) < summed + certificates:
            raise FormatError(
                f"PE certificate table of {certificates} bytes overlaps the image: headers and sections take "
                f"{summed} of {len(data)} bytes"
            )
        ranges.append((summed, len(data) - certificates))
    return tuple(ranges)
