"""Strict reading of JSON values: every key known, every type checked, every message naming the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError

MAX_TEXT: Final = 1024


class Reader:
    """Reads the members of one JSON object.

    Args:
        value: what a JSON parser returned.
        what: name of the object, for messages.
        required: keys that must be there.
        optional: keys that may be there; any other key is an error.

    Raises:
        FormatError: not an object, a missing key or an unknown one.
    """

    __slots__ = ("_members", "_what")

    def __init__(
        self, value: object, what: str, required: Sequence[str], *, optional: Sequence[str] = ()
    ) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{what} is {type(value).__name__}; expected an object")
        missing = [key for key in required if key not in value]
        unknown = [key for key in value if key not in required and key not in optional]
        if missing or unknown:
            detail = [f"lacks {key!r}" for key in missing] + [f"has unknown key {key!r}" for key in unknown]
            raise FormatError(f"{what} {', '.join(detail)}")
        self._members = value
        self._what = what

    def has(self, key: str) -> bool:
        """Whether the member is there."""
        return key in self._members

    def value(self, key: str) -> object:
        """Return the member unchecked."""
        result: object = self._members[key]
        return result

    def text(self, key: str, *, minimum: int = 1) -> str:
        """Return a string of ``minimum`` to 1024 characters."""
        value = self._members[key]
        if not isinstance(value, str) or not minimum <= len(value) <= MAX_TEXT:
            raise self._error(key, f"a string of {minimum} to {MAX_TEXT} characters")
        return value

    def integer(self, key: str, maximum: int) -> int:
        """Return a number from 0 to ``maximum``."""
        value = self._members[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise self._error(key, f"a number from 0 to {maximum}")
        return value

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        value = self._members[key]
        if not isinstance(value, bool):
            raise self._error(key, "true or false")
        return value

    def hex(self, key: str, *sizes: int) -> bytes:
        """Return bytes from lower-case hexadecimal; ``sizes`` are the lengths allowed, in bytes."""
        value = self._members[key]
        expected = f"{' or '.join(str(size) for size in sizes[:4])} bytes in lower-case hexadecimal"
        if not isinstance(value, str) or len(value) > 2 * MAX_TEXT or value != value.lower():
            raise self._error(key, expected)
        try:
            data = bytes.fromhex(value)
        except ValueError:
            raise self._error(key, expected) from None
        if len(data) not in sizes or data.hex() != value:
            raise self._error(key, expected)
        return data

    def guid(self, key: str) -> UUID:
        """Return a GUID from its registry form."""
        text = self.text(key)
        try:
            guid = UUID(text)
        except ValueError:
            raise self._error(key, "a GUID") from None
        if str(guid) != text:
            raise self._error(key, "a GUID in lower-case registry form")
        return guid

    def array(self, key: str, maximum: int) -> list[object]:
        """Return a list of at most ``maximum`` members."""
        value = self._members[key]
        if not isinstance(value, list):
            raise self._error(key, "a list")
        if len(value) > maximum:
            raise LimitError(f"{self._what} {key!r} has {len(value)} members; the limit is {maximum}")
        return value

    def _error(self, key: str, expected: str) -> FormatError:
        got = repr(self._members[key])
        return FormatError(f"{self._what} {key!r} is {got[:80]}; expected {expected}")
