"""SMBIOS structure tables, as OVMF composes them from QEMU's and as edk2 filters them for measurement.

Structures: DMTF DSP0134 3.8, 6.1. Composition: OvmfPkg/SmbiosPlatformDxe. Filter: MdeModulePkg
SmbiosMeasurementDxe (edk2-stable202505 and later), which blanks what differs between machines of one kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from measurements.errors import FormatError, LimitError, PredictionError
from measurements.formats.reader import Reader

MAX_TABLE_SIZE: Final = 1 << 20
MAX_STRUCTURES: Final = 4096
MAX_STRINGS: Final = 255

END_OF_TABLE: Final = 127
#: First type that vendors define for themselves.
_OEM_TYPES = 128

_HEADER_SIZE = 4
#: OVMF's structure of type 0 after its header: vendor is string 1, version 2, date 3.
_OVMF_TYPE0_BODY = bytes.fromhex("0102 00e8 03 00 0800000000000000 001c 0000ffff 0000")
_OVMF_END_OF_TABLE = bytes.fromhex("7f04fffe0000")

#: Types that keep their header only.
_CLEARED_TYPES = frozenset({11, 15, 18, 31, 33})
#: Offsets of string references whose text becomes spaces and whose reference becomes zero, by type.
_STRING_FIELDS: Mapping[int, tuple[int, ...]] = {
    1: (0x07,),
    2: (0x07, 0x0A),
    3: (0x07, 0x08),
    4: (0x20, 0x21, 0x22),
    17: (0x18, 0x19, 0x1A),
    22: (0x07,),
    39: (0x08, 0x09, 0x0A),
}
#: (offset, size) of plain fields that become zero, by type.
_PLAIN_FIELDS: Mapping[int, tuple[tuple[int, int], ...]] = {
    1: ((0x08, 16), (0x18, 1)),
    4: (
        (0x23, 1),
        (0x24, 1),
        (0x25, 1),
        (0x2A, 2),
        (0x2C, 2),
        (0x2E, 2),
        (0x11, 1),
        (0x16, 2),
    ),
    22: ((0x10, 2), (0x12, 2)),
    23: ((0x07, 2),),
    27: ((0x0C, 2),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One structure.

    Attributes:
        formatted: the formatted area with its 4-byte header (type, length, u16 handle).
        strings: string 1 and up, without terminators; bytes, as SMBIOS states no encoding.
    """

    formatted: bytes
    strings: tuple[bytes, ...] = field(default=())

    @property
    def type(self) -> int:
        """Structure type, 0-255."""
        return self.formatted[0]

    @property
    def handle(self) -> int:
        """Handle, unique in a table."""
        return int.from_bytes(self.formatted[2:4], "little")

    def with_zero(self, offset: int) -> Structure:
        """Return the structure with the byte at ``offset`` zeroed, if its formatted area reaches that far."""
        if offset >= len(self.formatted):
            return self
        formatted = self.formatted[:offset] + b"\0" + self.formatted[offset + 1 :]
        return Structure(formatted=formatted, strings=self.strings)

    def encode(self) -> bytes:
        """Return formatted area and string set; a structure without strings ends with two NULs."""
        if not self.strings:
            return self.formatted + b"\0\0"
        return self.formatted + b"".join(text + b"\0" for text in self.strings) + b"\0"


def structures(table: bytes) -> tuple[Structure, ...]:
    """Parse a structure table, up to its end-of-table structure or the end of ``table``.

    Raises:
        FormatError: a structure that is cut, or bytes other than zero after the end-of-table structure.
        LimitError: a limit of this module is exceeded.
    """
    if len(table) > MAX_TABLE_SIZE:
        raise LimitError(f"SMBIOS table has {len(table)} bytes; the limit is {MAX_TABLE_SIZE}")
    reader = Reader(table, "SMBIOS table")
    found: list[Structure] = []
    while reader.remaining:
        if len(found) == MAX_STRUCTURES:
            raise LimitError(f"SMBIOS table has more than {MAX_STRUCTURES} structures")
        found.append(_structure(reader, table))
        if found[-1].type == END_OF_TABLE:
            if any(reader.peek(reader.remaining)):
                raise reader.error("data after the end-of-table structure")
            break
    return tuple(found)


def encode(table: Iterable[Structure]) -> bytes:
    """Return the structures one after another."""
    return b"".join(structure.encode() for structure in table)


def ovmf_table(qemu_table: bytes, *, type0_strings: tuple[str, str, str] | None = None) -> bytes:
    """Return the table that OVMF installs for QEMU's ``etc/smbios/smbios-tables``.

    Args:
        qemu_table: the fw_cfg blob.
        type0_strings: vendor, version and date of the firmware's build (MM/DD/YYYY), ASCII. Needed unless
            QEMU supplies a structure of type 0 itself (``-smbios type=0``).

    Raises:
        FormatError: ``qemu_table`` is no SMBIOS table.
        PredictionError: the strings are needed and absent, or cannot be strings of SMBIOS.
    """
    table = [structure for structure in structures(qemu_table) if structure.type != END_OF_TABLE]
    if all(structure.type != 0 for structure in table):
        if type0_strings is None:
            raise PredictionError(
                "QEMU supplies no SMBIOS structure of type 0, so OVMF adds its own: give the firmware's "
                "vendor, version and build date"
            )
        table.append(_ovmf_type0(type0_strings, {structure.handle for structure in table}))
    return encode(table) + _OVMF_END_OF_TABLE


def filter_for_measurement(table: bytes) -> bytes:
    """Return the table as edk2 hashes it: the same length, with fields of single machines blanked.

    Raises:
        FormatError: no SMBIOS table, or a string reference to a string that the structure does not have.
        LimitError: a limit of this module is exceeded.
    """
    return b"".join(_filtered(structure) for structure in structures(table))


def _structure(reader: Reader, table: bytes) -> Structure:
    start = reader.offset
    reader.skip(1, "type")
    length = reader.u8("length")
    if length < _HEADER_SIZE:
        raise reader.error(f"structure length {length} is less than its header of 4 bytes", offset=start)
    reader.skip(length - 2, "formatted area")
    # Strings end with NUL each and the set with another; a set without strings is two NULs.
    end = table.find(b"\0\0", reader.offset)
    if end < 0:
        raise reader.error("the string set has no end", offset=start)
    area = reader.take(end - reader.offset, "string set")
    reader.skip(2, "end of the string set")
    strings = tuple(area.split(b"\0")) if area else ()
    if len(strings) > MAX_STRINGS:
        raise LimitError(
            f"SMBIOS structure at offset {start} has {len(strings)} strings; the limit is {MAX_STRINGS}"
        )
    return Structure(formatted=table[start : start + length], strings=strings)


def _ovmf_type0(texts: tuple[str, str, str], used: set[int]) -> Structure:
    if not all(text and text.isascii() and text.isprintable() for text in texts):
        raise PredictionError(f"SMBIOS type 0 strings must be non-empty printable ASCII, got {texts!r}")
    handle = next(handle for handle in range(MAX_STRUCTURES + 1) if handle not in used)
    header = struct.pack("<BBH", 0, _HEADER_SIZE + len(_OVMF_TYPE0_BODY), handle)
    return Structure(
        formatted=header + _OVMF_TYPE0_BODY, strings=tuple(text.encode("ascii") for text in texts)
    )


def _filtered(structure: Structure) -> bytes:
    encoded = structure.encode()
    if structure.type >= _OEM_TYPES or structure.type in _CLEARED_TYPES:
        return encoded[:_HEADER_SIZE] + bytes(len(encoded) - _HEADER_SIZE)
    formatted = bytearray(structure.formatted)
    strings = list(structure.strings)
    for offset in _STRING_FIELDS.get(structure.type, ()):
        if offset >= len(formatted):
            continue
        reference = formatted[offset]
        if reference > len(strings):
            raise FormatError(
                f"SMBIOS structure of type {structure.type} refers to string {reference}; "
                f"it has {len(strings)}"
            )
        if reference:
            strings[reference - 1] = b" " * len(strings[reference - 1])
        formatted[offset] = 0
    for offset, size in _PLAIN_FIELDS.get(structure.type, ()):
        if offset + size <= len(formatted):
            formatted[offset : offset + size] = bytes(size)
    return Structure(formatted=bytes(formatted), strings=tuple(strings)).encode()
