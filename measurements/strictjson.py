"""JSON from strangers: bounded, without duplicate names, floats or surprises, read field by field.

``json.loads`` accepts more than RFC 8259 and I-JSON (RFC 7493) allow: NaN, duplicate names, lone surrogates,
integers of any length, and nesting that ends the interpreter. Everything signed or attested is read through
this module instead.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from measurements.errors import FormatError, LimitError

#: RFC 7493, 2.2: integers beyond are not exact for every reader.
MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 16

# Possessive, and an unterminated string matches too: hostile text is scanned once, in linear time.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def loads(data: bytes, *, what: str, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one JSON text.

    Args:
        data: UTF-8, without a byte order mark.
        what: how messages name the input ("golden document").
        max_bytes: the longest text to look at.
        max_depth: the deepest nesting of arrays and objects.

    Raises:
        FormatError: not JSON, a duplicate name, a float, NaN or Infinity, a lone surrogate.
        LimitError: too long, too deep, or an integer beyond ±(2^53 - 1).
    """
    if len(data) > max_bytes:
        raise LimitError(f"{what}: {len(data)} bytes; at most {max_bytes} are read")
    _check_depth(data, what, max_depth)

    def refuse_float(text: str) -> NoReturn:
        raise FormatError(f"{what}: number {text[:32]!r}; expected an integer without fraction or exponent")

    def integer(text: str) -> int:
        if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
            raise LimitError(f"{what}: integer {text[:32]} is beyond 2^53 - 1")
        if text == "-0":
            raise FormatError(f"{what}: number '-0'; expected 0")
        return int(text)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in items:
            if name in result:
                raise FormatError(f"{what}: the name {name[:64]!r} appears twice in one object")
            result[name] = value
        return result

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_float=refuse_float,
            parse_int=integer,
            parse_constant=refuse_float,
        )
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{what}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    if "\\u" in text:
        _refuse_surrogates(value, what)
    return value


def _check_depth(data: bytes, what: str, max_depth: int) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > max_depth:
                raise LimitError(f"{what}: nested deeper than {max_depth}")
        elif token in (b"]", b"}"):
            depth -= 1


def _refuse_surrogates(value: Any, what: str) -> None:
    for text in _strings(value):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise FormatError(f"{what}: a string holds a lone surrogate, which is no Unicode character")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)


@dataclass(slots=True)
class Fields:
    """One JSON object being read; every accessor checks type and limits and remembers that the name was read.

    Attributes:
        value: the parsed object; anything else is refused.
        where: path for messages ("golden document: image").
    """

    value: Any
    where: str
    _read: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise FormatError(f"{self.where}: expected an object, got {kind_of(self.value)}")

    def end(self) -> None:
        """Raise FormatError when the object has a name that nobody read."""
        for name in self.value:
            if name not in self._read:
                raise FormatError(f"{self.where}: unknown name {name[:64]!r}; expected {sorted(self._read)}")

    def raw(self, name: str) -> Any:
        """Return the value of ``name``, of any type; FormatError when it is missing."""
        self._read.add(name)
        try:
            return self.value[name]
        except KeyError:
            raise FormatError(f"{self.where}: {name!r} is missing") from None

    def has(self, name: str) -> bool:
        """Say whether ``name`` is there, and mark it as read."""
        self._read.add(name)
        return name in self.value

    def text(self, name: str, *, max_length: int, pattern: re.Pattern[str] | None = None) -> str:
        """Return a string of at most ``max_length`` characters that matches ``pattern`` as a whole."""
        value = self.raw(name)
        if not isinstance(value, str):
            raise FormatError(f"{self.where}: {name!r} is {kind_of(value)}; expected a string")
        if len(value) > max_length:
            raise LimitError(f"{self.where}: {name!r} has {len(value)} characters; at most {max_length}")
        if pattern is not None and pattern.fullmatch(value) is None:
            raise FormatError(
                f"{self.where}: {name!r} is {value[:80]!r}; expected to match {pattern.pattern}"
            )
        return value

    def optional_text(self, name: str, *, max_length: int) -> str | None:
        """Return a string, or ``None`` for null; the name itself must be there."""
        return None if self.raw(name) is None else self.text(name, max_length=max_length)

    def integer(self, name: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        """Return an integer from ``minimum`` to ``maximum``."""
        value = self.raw(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise FormatError(f"{self.where}: {name!r} is {kind_of(value)}; expected an integer")
        if not minimum <= value <= maximum:
            raise LimitError(f"{self.where}: {name!r} is {value}; expected {minimum} to {maximum}")
        return value

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {name!r} is {kind_of(value)}; expected true or false")
        return value

    def array(self, name: str, *, max_items: int, min_items: int = 0) -> list[Any]:
        """Return an array of ``min_items`` to ``max_items``."""
        value = self.raw(name)
        if not isinstance(value, list):
            raise FormatError(f"{self.where}: {name!r} is {kind_of(value)}; expected an array")
        if not min_items <= len(value) <= max_items:
            raise LimitError(
                f"{self.where}: {name!r} has {len(value)} items; expected {min_items} to {max_items}"
            )
        return value

    def fields(self, name: str) -> Fields:
        """Return a nested object."""
        return Fields(self.raw(name), f"{self.where}: {name}")

    def hex(self, name: str, *, size: int | None = None, max_size: int = 0) -> bytes:
        """Return bytes from lower-case hexadecimal: exactly ``size`` bytes, or at most ``max_size``."""
        return decode_hex(self.raw(name), where=f"{self.where}: {name!r}", size=size, max_size=max_size)

    def base64(self, name: str, *, max_size: int) -> bytes:
        """Return at most ``max_size`` bytes from padded base64."""
        return decode_base64(self.raw(name), where=f"{self.where}: {name!r}", max_size=max_size)


def kind_of(value: Any) -> str:
    """Return JSON's word for the type of ``value``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    kinds = {str: "a string", int: "a number", list: "an array", dict: "an object"}
    return kinds.get(type(value), "something else")


_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_BASE64 = re.compile(r"[A-Za-z0-9+/\-_]*={0,2}")


def decode_hex(value: Any, *, where: str, size: int | None = None, max_size: int = 0) -> bytes:
    """Decode lower-case hexadecimal of exactly ``size`` bytes, or of at most ``max_size``.

    Raises:
        FormatError: another type, upper case, odd or wrong length.
        LimitError: longer than ``max_size``.
    """
    if not isinstance(value, str):
        raise FormatError(f"{where} is {kind_of(value)}; expected hexadecimal text")
    limit = max_size if size is None else size
    if size is None and len(value) > 2 * limit:
        raise LimitError(f"{where} has {len(value) // 2} bytes; at most {limit}")
    if size is not None and len(value) != 2 * size:
        raise FormatError(f"{where} has {len(value)} hex digits; expected {2 * size}")
    if _HEX.fullmatch(value) is None:
        raise FormatError(f"{where} is not lower-case hexadecimal")
    return bytes.fromhex(value)


def decode_base64(value: Any, *, where: str, max_size: int) -> bytes:
    """Decode padded base64, standard or URL-safe (RFC 4648, 4 and 5), of at most ``max_size`` bytes.

    Raises:
        FormatError: another type, a foreign character, white space, wrong padding, both alphabets mixed, or
            bits set behind the last byte (so two texts never mean the same bytes).
        LimitError: longer than ``max_size``.
    """
    if not isinstance(value, str):
        raise FormatError(f"{where} is {kind_of(value)}; expected base64 text")
    if len(value) > 4 * ((max_size + 2) // 3):
        raise LimitError(f"{where} has about {len(value) * 3 // 4} bytes; at most {max_size}")
    url_safe = "-" in value or "_" in value
    if _BASE64.fullmatch(value) is None or (url_safe and ("+" in value or "/" in value)):
        raise FormatError(f"{where} is not base64")
    standard = value.translate(str.maketrans("-_", "+/"))
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{where} is not base64: {error}") from None
    if base64.b64encode(data).decode() != standard:
        raise FormatError(f"{where} is not canonical base64: bits are set behind the last byte")
    if len(data) > max_size:
        raise LimitError(f"{where} has {len(data)} bytes; at most {max_size}")
    return data
