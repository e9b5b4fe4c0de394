"""What systemd-stub does with a UKI's sections: the command line and the initrd that the kernel gets.

Implements systemd src/boot/stub.c settle_command_line, generate_embedded_initrds and combine_initrds; what
differs between releases is in ``measurements.platforms.stubs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.formats.uki import BootImage
from measurements.platforms.stubs import StubGeneration, find_generation, known_releases
from measurements.tpm import stub_cpio

_SPACE = 0x20
_DELETE = 0x7F
_DIRECTORY: Final = ".extra"
#: console.c cmdline_append_console: "console=*" or "* console=*".
_CONSOLE: Final = re.compile(r"(?:^| )console=")


def require_generation(image: BootImage) -> StubGeneration:
    """Return the rules of the UKI's stub.

    Raises:
        NotPredictableError: the table does not know the release, or the UKI has no systemd-stub at all.
    """
    generation = find_generation(image.stub)
    if generation is None:
        name = (
            "a stub that does not name itself (.sdmagic)"
            if image.stub is None
            else f"systemd-stub {image.stub}"
        )
        raise NotPredictableError(
            f"not predictable: the UKI has {name}; the rules of systemd-stub {known_releases()} are known"
        )
    return generation


def command_line(image: BootImage) -> bytes | None:
    """Return the LoadOptions that the kernel gets from ``.cmdline``, UTF-16LE with NUL; ``None`` without
    section.

    Whitespace and control characters are turned into spaces and dropped at the ends (util.c
    mangle_stub_cmdline).

    Raises:
        NotPredictableError: the stub's release is not known, or adds what the UKI does not decide.
    """
    generation = require_generation(image)
    if ".cmdline" not in image.sections:
        _require_no_consoles(image, generation, "")
        return None
    blank = (*range(_SPACE + 1), _DELETE) if generation.mangles_both_ends else range(_SPACE + 1)
    characters = [_SPACE if c in blank else c for c in _utf16(image.data(".cmdline"))]
    while characters and characters[-1] == _SPACE:
        characters.pop()
    start = 0
    if generation.mangles_both_ends:
        start = next((i for i, c in enumerate(characters) if c != _SPACE), 0)
    if not characters and not generation.survives_blank_command_line:
        raise NotPredictableError(
            f"not predictable: systemd-stub {image.stub} reads past the end of a blank .cmdline section; "
            "leave the section out"
        )
    result = b"".join(c.to_bytes(2, "little") for c in (*characters[start:], 0))
    _require_no_consoles(image, generation, result[:-2].decode("utf-16-le"))
    return result


def initrd_chunks(image: BootImage) -> tuple[bytes | memoryview, ...]:
    """Return the initrd that the stub serves to the kernel, in pieces; empty when there is none.

    ``.ucode`` where the stub knows it, ``.initrd``, then one archive for each section that its release hands
    on, padded to 4 bytes; a single piece stays unpadded. What a machine adds (``boot_secret``) is not in it.

    Raises:
        NotPredictableError: the stub's release is not known.
    """
    generation = require_generation(image)
    pieces = [
        image.chunks(name)
        for name in (".ucode", ".initrd")
        if name in image.sections and name in generation.sections
    ]
    pieces += [
        (stub_cpio.archive(_DIRECTORY, {file: image.data(name)}),)
        for name, file in generation.archives
        if name in image.sections
    ]
    if len(pieces) == 1:
        return pieces[0]
    return tuple(chunk for piece in pieces for chunk in (*piece, bytes(-sum(map(len, piece)) % 4)))


def _require_no_consoles(image: BootImage, generation: StubGeneration, line: str) -> None:
    if generation.appends_consoles and not _CONSOLE.search(line):
        raise NotPredictableError(
            f"not predictable: systemd-stub {image.stub} appends the machine's consoles to a command line "
            "without console=; put console= into the command line"
        )


def _utf16(data: bytes) -> Iterator[int]:
    """Yield UTF-16 code units up to the first NUL, as efi-string.c xstrn8_to_16 decodes.

    Unlike Python's decoder it drops what does not fit one unit, takes overlong forms, and passes over the
    whole length that a broken sequence claims.
    """
    offset = 0
    while offset < len(data) and data[offset]:
        lead = data[offset]
        length, unit = _sequence(lead)
        tail = data[offset + 1 : offset + length]
        offset += length
        if length == 1:
            if lead < 0x80:
                yield lead
            continue
        if len(tail) < length - 1 or any(byte & 0xC0 != 0x80 for byte in tail):
            continue
        for byte in tail:
            unit = unit << 6 | byte & 0x3F
        unit &= 0xFFFFFFFF
        if unit <= 0xD7FF or 0xE000 <= unit <= 0xFFFF:
            yield unit


def _sequence(lead: int) -> tuple[int, int]:
    """Return the length that a lead byte claims, and its payload bits."""
    for length, mask, mark in (
        (2, 0xE0, 0xC0),
        (3, 0xF0, 0xE0),
        (4, 0xF8, 0xF0),
        (5, 0xFC, 0xF8),
        (6, 0xFE, 0xFC),
    ):
        if lead & mask == mark:
            return length, lead & ~mask & 0xFF
    return 1, lead
