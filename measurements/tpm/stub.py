"""What systemd-stub does with a UKI's sections: the command line and the initrd that the kernel gets.

Implements systemd 257, src/boot/stub.c settle_command_line, generate_embedded_initrds and combine_initrds.
Other releases differ in which sections they know and which archives they add; their values are not predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.formats.uki import BootImage
from measurements.tpm import stub_cpio

#: Releases whose measurements of sections (PCR 11) and initrd (PCR 9) are known.
KNOWN_RELEASES: Final = (257,)
#: Later stubs extend PCR 1 as well.
PCR1_UNCHANGED_UNTIL: Final = 257

_SPACE = 0x20
_DELETE = 0x7F

#: Section, file name below .extra; in the order of systemd 257's INITRD_PCRSIG ... INITRD_PROFILE.
_ARCHIVES: Final = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
)
_DIRECTORY = ".extra"


def require_known_release(image: BootImage) -> None:
    """Let the stubs pass whose rules are known.

    Raises:
        NotPredictableError: another release, or no systemd-stub at all.
    """
    if image.stub not in KNOWN_RELEASES:
        name = (
            "a stub that does not name itself (.sdmagic)"
            if image.stub is None
            else f"systemd-stub {image.stub}"
        )
        known = ", ".join(map(str, KNOWN_RELEASES))
        raise NotPredictableError(
            f"not predictable: the UKI has {name}; the rules of systemd-stub {known} are known"
        )


def command_line(image: BootImage) -> bytes | None:
    """Return the LoadOptions that the kernel gets from ``.cmdline``, UTF-16LE with NUL; ``None`` without
    section.

    Whitespace and control characters: dropped at both ends, turned into spaces within (util.c
    mangle_stub_cmdline).
    """
    if ".cmdline" not in image.sections:
        return None
    characters = [_SPACE if c <= _SPACE or c == _DELETE else c for c in _utf16(image.data(".cmdline"))]
    while characters and characters[-1] == _SPACE:
        characters.pop()
    start = next((i for i, c in enumerate(characters) if c != _SPACE), 0)
    return b"".join(c.to_bytes(2, "little") for c in (*characters[start:], 0))


def initrd_chunks(image: BootImage) -> tuple[bytes | memoryview, ...]:
    """Return the initrd that the stub serves to the kernel, in pieces; empty when there is none.

    ``.ucode``, ``.initrd``, then one archive each for ``.pcrsig``, ``.pcrpkey``, ``.osrel`` and ``.profile``,
    padded to 4 bytes; a single piece stays unpadded.
    """
    pieces = [image.chunks(name) for name in (".ucode", ".initrd") if name in image.sections]
    pieces += [
        (stub_cpio.archive(_DIRECTORY, {file: image.data(name)}),)
        for name, file in _ARCHIVES
        if name in image.sections
    ]
    if len(pieces) == 1:
        return pieces[0]
    return tuple(chunk for piece in pieces for chunk in (*piece, bytes(-sum(map(len, piece)) % 4)))


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
