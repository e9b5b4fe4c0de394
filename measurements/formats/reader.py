"""A bounds-checked little-endian cursor: the only way in which the parsers of this package read bytes."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from measurements.errors import FormatError

GUID_SIZE: Final = 16


class Reader:
    """Reads integers, GUIDs and runs of bytes in order and never past the end.

    Offsets in messages are relative to the start of ``data`` plus ``base``, so that a reader over a part
    of a structure still names the place in the whole.

    Args:
        data: the bytes to read; never copied, except by ``take``.
        structure: name of what is being read ("EFI_SIGNATURE_LIST"); stands in every message.
        base: offset of ``data`` within the whole.
    """

    __slots__ = ("_base", "_data", "_position", "_structure")

    def __init__(self, data: bytes | bytearray | memoryview, structure: str, *, base: int = 0) -> None:
        self._data = memoryview(data).cast("B")
        self._structure = structure
        self._base = base
        self._position = 0

    @property
    def offset(self) -> int:
        """Offset of the next byte within the whole."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._position

    def error(self, message: str, *, offset: int | None = None) -> FormatError:
        """Return (not raise) a FormatError that names the structure and the offset."""
        return FormatError(
            f"{self._structure} at offset {self.offset if offset is None else offset}: {message}"
        )

    def view(self, length: int, field: str = "data") -> memoryview:
        """Return the next ``length`` bytes without copying them.

        Raises:
            FormatError: fewer bytes remain.
        """
        if length < 0 or length > self.remaining:
            raise self.error(
                f"{field} needs {length} bytes, {self.remaining} remain; the input is cut or corrupt"
            )
        start = self._position
        self._position += length
        return self._data[start : self._position]

    def take(self, length: int, field: str = "data") -> bytes:
        """Return a copy of the next ``length`` bytes; raises like ``view``."""
        return bytes(self.view(length, field))

    def rest(self) -> bytes:
        """Return a copy of all bytes that remain."""
        return self.take(self.remaining)

    def skip(self, length: int, field: str = "data") -> None:
        """Pass over ``length`` bytes; raises like ``view``."""
        self.view(length, field)

    def peek(self, length: int) -> bytes:
        """Return up to ``length`` of the next bytes and stay in place."""
        return bytes(self._data[self._position : self._position + max(length, 0)])

    def part(self, length: int, structure: str) -> Reader:
        """Return a reader confined to the next ``length`` bytes, and pass over them; raises like ``view``."""
        start = self.offset
        return Reader(self.view(length, structure), structure, base=start)

    def u8(self, field: str = "u8") -> int:
        """Return the next byte as a number."""
        return self._integer(1, field)

    def u16(self, field: str = "u16") -> int:
        """Return the next 2 bytes as a little-endian number."""
        return self._integer(2, field)

    def u32(self, field: str = "u32") -> int:
        """Return the next 4 bytes as a little-endian number."""
        return self._integer(4, field)

    def u64(self, field: str = "u64") -> int:
        """Return the next 8 bytes as a little-endian number."""
        return self._integer(8, field)

    def guid(self, field: str = "GUID") -> UUID:
        """Return the next 16 bytes as a GUID in EFI's mixed byte order (UEFI 2.10, appendix A)."""
        return UUID(bytes_le=self.take(GUID_SIZE, field))

    def _integer(self, size: int, field: str) -> int:
        return int.from_bytes(self.view(size, field), "little")
