"""Small PE images for tests: regular ones, odd ones that edk2 accepts, and ones that it refuses.

An image's program returns EFI_NOT_FOUND at once, so that firmware can really start it and go on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PE_OFFSET = 0x80
HEADERS = 0x400
PROGRAM = bytes.fromhex("48b80e00000000000080c3")  # mov rax, EFI_NOT_FOUND; ret


@dataclass(frozen=True)
class Part:
    """A section header, with the data that the file holds for it (``None``: no data of its own)."""

    name: str
    address: int
    offset: int
    size: int
    virtual_size: int
    data: bytes | None


def part(name, address, offset, data, *, virtual_size=None):
    padded = data + bytes(-len(data) % 0x200)
    return Part(
        name, address, offset, len(padded), len(data) if virtual_size is None else virtual_size, padded
    )


TEXT = part(".text", 0x1000, 0x400, PROGRAM)
DATA = part(".data", 0x2000, 0x600, b"data " * 200)  # 1000 bytes, 1024 in the file
DIRECTORY_SECURITY, DIRECTORY_DEBUG = 4, 6


def image(
    *parts,
    magic=0x20B,
    machine=0x8664,
    directories=16,
    optional_size=None,
    entries=None,
    trailing=b"",
    headers=HEADERS,
    image_size=0x10000,
    dos=True,
    fill=b"",
):
    """Return a PE image; sections are placed where their headers say, ``trailing`` after the last."""
    parts = parts or (TEXT, DATA)
    entries = entries or {}
    coff = struct.pack(
        "<HHIIIHH",
        machine,
        len(parts),
        0x5F000000,
        0,
        0,
        optional_size if optional_size is not None else (112 if magic == 0x20B else 96) + 8 * directories,
        0x22,
    )
    optional = struct.pack("<HBBIIIII", magic, 2, 40, 0x200, 0x400, 0, 0x1000, 0x1000)
    optional += struct.pack("<Q", 0x10000) if magic == 0x20B else struct.pack("<II", 0x2000, 0x10000)
    optional += struct.pack(
        "<IIHHHHHHIIIIHH", 0x1000, 0x200, 0, 0, 1, 0, 2, 0, 0, image_size, headers, 0xC0FFEE, 10, 0x100
    )
    optional += struct.pack("<QQQQ" if magic == 0x20B else "<IIII", 0x10000, 0x1000, 0x10000, 0x1000)
    optional += struct.pack("<II", 0, directories)
    for index in range(min(directories, 16)):
        optional += struct.pack("<II", *entries.get(index, (0, 0)))
    table = b"".join(
        struct.pack(
            "<8sIIIIIIHHI",
            p.name.encode(),
            p.virtual_size,
            p.address,
            p.size,
            p.offset,
            0,
            0,
            0,
            0,
            0x60000060,
        )
        for p in parts
    )
    stub = (
        b"MZ" + bytes(58) + struct.pack("<I", PE_OFFSET) + b"stub" * ((PE_OFFSET - 64) // 4) if dos else b""
    )
    head = stub + b"PE\0\0" + coff + optional + table
    out = bytearray(head + bytes(max(0, HEADERS - len(head))))
    for p in parts:
        if p.data is not None:
            out.extend(bytes(max(0, p.offset + len(p.data) - len(out))))
            out[p.offset : p.offset + len(p.data)] = p.data
    return bytes(out) + fill + trailing


CERTIFICATE = struct.pack("<IHH", 24, 0x0200, 0x0002) + b"not a signature!"
_END = 0xA00  # of TEXT and DATA

#: Images that edk2 loads.
ACCEPTED = {
    "pe32-plus": image(),
    "pe32": image(magic=0x10B, machine=0x014C),
    "four-directories": image(directories=4),
    "five-directories": image(directories=5),
    "no-directories": image(directories=0),
    "trailing-3-bytes": image(trailing=b"odd"),
    "certificate": image(entries={4: (_END, len(CERTIFICATE))}, trailing=CERTIFICATE),
    "certificate-after-data": image(
        entries={4: (_END + 8, len(CERTIFICATE))}, trailing=b"trailing" + CERTIFICATE
    ),
    "unsorted": image(
        part(".text", 0x1000, 0x800, PROGRAM),
        part(".one", 0x2000, 0x400, b"1"),
        part(".two", 0x3000, 0x600, b"2" * 99),
    ),
    "overlapping": image(
        TEXT, DATA, Part(".again", 0x4000, 0x600, 0x300, 0x300, None), trailing=b"t" * 0x400
    ),
    "same-offset": image(
        TEXT,
        Part(".long", 0x2000, 0x600, 0x400, 0x400, None),
        Part(".short", 0x3000, 0x600, 0x200, 1, b"s" * 0x400),
    ),
    "overlap-swallows-certificate": image(
        TEXT,
        DATA,
        Part(".again", 0x4000, 0x600, 0x400, 0x400, None),
        entries={4: (_END, 24)},
        trailing=CERTIFICATE,
    ),
    "no-raw-data": image(TEXT, Part(".bss", 0x2000, 0xFFFFFFF0, 0, 0x1000, None)),
    "gap": image(TEXT, part(".far", 0x2000, 0x1000, b"far")),
    "debug-directory": image(entries={6: (0x2000, 56)}),
    "aarch64": image(machine=0xAA64),
}

#: Images that edk2 refuses.
REFUSED = {
    "certificate-overlaps-sections": image(entries={4: (0x800, 0x200 + 24)}, trailing=CERTIFICATE),
    "certificate-outside": image(entries={4: (_END, 64)}, trailing=CERTIFICATE),
    "debug-directory-outside": image(entries={6: (0x2300, 2800)}),
    "section-in-headers": image(TEXT, Part(".head", 0x2000, 0x200, 0x200, 0x200, None)),
    "section-address-in-headers": image(TEXT, Part(".low", 0x200, 0x400, 0x200, 0x200, None)),
    "section-outside": image(TEXT, Part(".cut", 0x2000, 0x400, 0x400, 0x400, None)),
    "section-wraps": image(TEXT, Part(".wrap", 0x2000, 0xFFFFFE00, 0x400, 0x400, None)),
    "seventeen-directories": image(directories=17),
    "optional-size-differs": image(optional_size=232),
    "headers-end-in-table": image(headers=0x180),
    "headers-as-long-as-image": image(image_size=0x400),
    "headers-outside": image(headers=0x8000),
    "machine-arm-thumb": image(machine=0x01C2),
    "magic-rom": image(magic=0x107),
}
