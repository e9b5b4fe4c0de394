"""Read what a loader or a packager needs from ELF files (System V gABI; x86-64 psABI supplement).

Only ELF64 little-endian is read: the image's one architecture. Every offset is checked against the file, and
every table against a named limit, so a damaged file ends in an error and nothing else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from measurements.errors import FormatError, LimitError

MAX_PROGRAM_HEADERS = 256
MAX_SECTIONS = 65_536
MAX_DYNAMIC = 4_096
MAX_NOTES = 1_024
MAX_NOTE = 1 << 16
MAX_STRING = 4_096

MACHINE_X86_64 = 62
TYPE_EXECUTABLE = 2
TYPE_SHARED = 3

_MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_NOTE = struct.Struct("<III")

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_SHT_NOBITS = 8
#: UAPI group, "ELF dlopen metadata": the note's owner and type.
_DLOPEN_OWNER, _DLOPEN_TYPE = b"FDO\0", 0x407C0C0A
PRIORITIES = ("required", "recommended", "suggested")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlopen:
    """A library that a program opens at run time when it is there.

    Attributes:
        feature: what it is for.
        priority: "required", "recommended" or "suggested".
        sonames: names tried in this order; one of them is enough.
    """

    feature: str
    priority: str
    sonames: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What the dynamic loader looks at.

    Attributes:
        type: e_type; 2 executable, 3 shared object or position-independent executable, 1 relocatable.
        machine: e_machine; 62 is x86-64.
        interpreter: PT_INTERP, or empty.
        needed: DT_NEEDED, in order.
        soname: DT_SONAME, or empty.
        runpath: DT_RUNPATH split at colons; DT_RPATH in its place where there is no DT_RUNPATH.
        dlopen: the .note.dlopen entries.
    """

    type: int
    machine: int
    interpreter: str
    needed: tuple[str, ...]
    soname: str
    runpath: tuple[str, ...]
    dlopen: tuple[Dlopen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    type: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes | memoryview) -> bool:
    """Say whether ``data`` starts as an ELF file does."""
    return bytes(data[:4]) == _MAGIC


def parse_elf(data: bytes | memoryview) -> Elf:
    """Read the dynamic section and the notes of an ELF64 file.

    Raises:
        FormatError: it is no ELF64 little-endian file, or is damaged.
        LimitError: a table or string is larger than any real file's.
    """
    view = memoryview(data)
    header = _header(view)
    segments = _segments(view, header)
    interpreter = ""
    dynamic: dict[int, list[int]] = {}
    dlopen: list[Dlopen] = []
    for segment in segments:
        if segment.type == _PT_INTERP:
            interpreter = _string(_slice(view, segment.offset, segment.size, "PT_INTERP"), 0, "PT_INTERP")
        elif segment.type == _PT_DYNAMIC:
            dynamic = _dynamic(_slice(view, segment.offset, segment.size, "PT_DYNAMIC"))
        elif segment.type == _PT_NOTE:
            dlopen += _dlopen_notes(_slice(view, segment.offset, segment.size, "PT_NOTE"))
    strings = _string_table(view, segments, dynamic)

    def text(tag: int) -> list[str]:
        return [_string(strings, value, "dynamic string") for value in dynamic.get(tag, [])]

    paths = text(_DT_RUNPATH) or text(_DT_RPATH)
    return Elf(
        type=header[1],
        machine=header[2],
        interpreter=interpreter,
        needed=tuple(text(_DT_NEEDED)),
        soname=next(iter(text(_DT_SONAME)), ""),
        runpath=tuple(part for path in paths for part in path.split(":") if part),
        dlopen=tuple(dlopen),
    )


def section(data: bytes | memoryview, name: str) -> memoryview | None:
    """Return the content of the first section called ``name``, or None.

    Raises:
        FormatError: it is no ELF64 little-endian file, or is damaged.
        LimitError: it has more sections than any real file.
    """
    view = memoryview(data)
    header = _header(view)
    offset, size, count, names_index = header[6], header[11], header[12], header[13]
    if not offset or not count:
        return None
    if size != _SECTION.size:
        raise FormatError(f"ELF: section headers of {size} bytes; expected {_SECTION.size}")
    if count > MAX_SECTIONS:
        raise LimitError(f"ELF: {count} sections; at most {MAX_SECTIONS}")
    table = list(_SECTION.iter_unpack(_slice(view, offset, size * count, "section headers")))
    if names_index >= count:
        raise FormatError(f"ELF: section names in section {names_index} of {count}")
    names = _slice(view, table[names_index][4], table[names_index][5], "section names")
    wanted = name.encode()
    for entry in table:
        start = entry[0]
        if names[start : start + len(wanted) + 1] == wanted + b"\0":
            if entry[1] == _SHT_NOBITS:
                return view[:0]
            return _slice(view, entry[4], entry[5], name)
    return None


def module_info(content: bytes | memoryview) -> Iterator[tuple[str, str]]:
    """Yield the records of a module's .modinfo section.

    Raises:
        FormatError: no ELF file, or without that section.
    """
    raw = section(content, ".modinfo")
    if raw is None:
        raise FormatError("it has no .modinfo section")
    for record in bytes(raw).split(b"\0"):
        key, equals, value = record.decode("utf-8", "replace").partition("=")
        if equals:
            yield key, value


def _header(view: memoryview) -> tuple[Any, ...]:
    if len(view) < _HEADER.size or view[:4] != _MAGIC:
        raise FormatError("ELF: expected an ELF file, got something else")
    if view[4] != 2 or view[5] != 1:
        raise FormatError(f"ELF: expected class 64 little-endian (2, 1), got ({view[4]}, {view[5]})")
    return _HEADER.unpack_from(view)


def _segments(view: memoryview, header: tuple[Any, ...]) -> list[_Segment]:
    offset, size, count = header[5], header[9], header[10]
    if not count:
        return []
    if size != _PROGRAM.size:
        raise FormatError(f"ELF: program headers of {size} bytes; expected {_PROGRAM.size}")
    if count > MAX_PROGRAM_HEADERS:
        raise LimitError(f"ELF: {count} program headers; at most {MAX_PROGRAM_HEADERS}")
    table = _slice(view, offset, size * count, "program headers")
    return [
        _Segment(type=entry[0], offset=entry[2], address=entry[3], size=entry[5])
        for entry in _PROGRAM.iter_unpack(table)
    ]


def _dynamic(table: memoryview) -> dict[int, list[int]]:
    values: dict[int, list[int]] = {}
    for index, (tag, value) in enumerate(_DYNAMIC.iter_unpack(table[: len(table) // 16 * 16])):
        if tag == _DT_NULL:
            return values
        if index >= MAX_DYNAMIC:
            raise LimitError(f"ELF: more than {MAX_DYNAMIC} dynamic entries")
        values.setdefault(tag, []).append(value)
    raise FormatError("ELF: the dynamic section has no end")


def _string_table(view: memoryview, segments: list[_Segment], dynamic: dict[int, list[int]]) -> memoryview:
    if not dynamic.get(_DT_STRTAB) or not dynamic.get(_DT_STRSZ):
        return view[:0]
    address, size = dynamic[_DT_STRTAB][0], dynamic[_DT_STRSZ][0]
    for segment in segments:  # DT_STRTAB is an address; the loadable segments map it to the file
        if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return _slice(view, address - segment.address + segment.offset, size, "dynamic strings")
    raise FormatError("ELF: the dynamic string table lies in no loadable segment")


def _dlopen_notes(notes: memoryview) -> list[Dlopen]:
    found: list[Dlopen] = []
    offset = 0
    for _ in range(MAX_NOTES):
        if offset + _NOTE.size > len(notes):
            return found
        name_size, size, kind = _NOTE.unpack_from(notes, offset)
        start = offset + _NOTE.size
        content = start + (name_size + 3 & ~3)
        if content + size > len(notes):
            return found  # notes of 8-byte alignment (gnu.property) are laid out otherwise; none is ours
        if kind == _DLOPEN_TYPE and notes[start : start + name_size] == _DLOPEN_OWNER:
            if size > MAX_NOTE:
                raise LimitError(f"ELF: a note of {size} bytes; at most {MAX_NOTE}")
            found += _parse_dlopen(bytes(notes[content : content + size]))
        offset = content + (size + 3 & ~3)
    raise LimitError(f"ELF: more than {MAX_NOTES} notes")


def _parse_dlopen(raw: bytes) -> list[Dlopen]:
    try:
        document = json.loads(raw.rstrip(b"\0").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError("ELF: the .note.dlopen entry is no JSON") from error
    if not isinstance(document, list):
        raise FormatError("ELF: the .note.dlopen entry is no JSON array")
    found = []
    for item in document:
        sonames = item.get("soname") if isinstance(item, dict) else None
        if not isinstance(sonames, list) or not all(isinstance(soname, str) for soname in sonames):
            raise FormatError("ELF: a .note.dlopen entry has no list of sonames")
        priority = item.get("priority", "recommended")  # the specification's default
        if priority not in PRIORITIES:
            raise FormatError(f"ELF: a .note.dlopen entry has priority {priority!r}; expected {PRIORITIES}")
        found.append(Dlopen(feature=str(item.get("feature", "")), priority=priority, sonames=tuple(sonames)))
    return found


def _slice(view: memoryview, offset: int, size: int, what: str) -> memoryview:
    if offset + size > len(view):
        raise FormatError(
            f"ELF: {what} at {offset} with {size} bytes ends beyond the file ({len(view)} bytes)"
        )
    return view[offset : offset + size]


def _string(table: memoryview, offset: int, what: str) -> str:
    chunk = bytes(table[offset : offset + MAX_STRING])
    end = chunk.find(b"\0")
    if end < 0:
        raise FormatError(f"ELF: the {what} at {offset} has no end")
    return chunk[:end].decode("utf-8", "surrogateescape")
