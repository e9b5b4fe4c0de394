"""Writes DER (ITU-T X.690, 8 and 10): what signatures need, and nothing that leaves a choice."""

from __future__ import annotations

_LONG_FORM = 0x80


def element(tag: int, *parts: bytes) -> bytes:
    """Return tag ‖ length ‖ parts; the length in its shortest form (10.1)."""
    body = b"".join(parts)
    if len(body) < _LONG_FORM:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(length))) + length + body


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of encoded parts."""
    return element(0x30, *parts)


def set_of(*parts: bytes) -> bytes:
    """Return a SET OF encoded parts, sorted by their encodings (11.6)."""
    return element(0x31, *sorted(parts))


def explicit(number: int, *parts: bytes) -> bytes:
    """Return encoded parts behind a constructed context-specific tag, ``[number]``."""
    return element(0xA0 | number, *parts)


def implicit_string(number: int, content: bytes) -> bytes:
    """Return a string whose own tag is replaced by the primitive ``[number]``."""
    return element(0x80 | number, content)


def integer(value: int) -> bytes:
    """Return an INTEGER of zero or more, in the fewest bytes (8.3)."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(content: bytes) -> bytes:
    """Return an OCTET STRING."""
    return element(0x04, content)


def null() -> bytes:
    """Return NULL."""
    return element(0x05)


def object_identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER written as numbers and dots (8.19)."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    body = bytearray()
    for arc in (40 * first + second, *others):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        body += bytes(reversed(groups))
    return element(0x06, bytes(body))
