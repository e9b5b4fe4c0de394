"""The socket that a machine's network card is plugged into (QEMU's ``-netdev stream``).

Each frame stands behind its length, a big-endian u32. The socket loses nothing, and neither does QEMU: it stops
reading while the guest's receive ring is full. So sending blocks, never drops, and pacing comes by itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from .frames import MAX_FRAME

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 18


class CableError(RuntimeError):
    """The other end is not there, is gone, or does not speak frames."""


class Cable:
    """One end of a wire; the other is a network card's."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._buffer = bytearray()
        self._unsent = bytearray()

    @classmethod
    @contextlib.contextmanager
    def socket(cls, path: Path) -> Iterator[socket.socket]:
        """Listen at ``path``, for a machine to be plugged in; see `plugged`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(os.fspath(path))
            listener.listen(1)
            yield listener

    @classmethod
    @contextlib.contextmanager
    def plugged(cls, listener: socket.socket, *, timeout: float) -> Iterator[Self]:
        """Wait for the machine.

        Raises:
            CableError: it does not come.
        """
        listener.settimeout(timeout)
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise CableError(f"no machine was plugged in within {timeout:.0f} s") from error
        with connection:
            yield cls(connection)

    def send(self, frames: Iterable[bytes]) -> None:
        """Queue frames; `receive` moves them."""
        self._unsent += b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)

    def receive(self, timeout: float) -> list[bytes]:
        """Send what is queued, and return the frames that have come; wait at most ``timeout`` seconds for one.

        Raises:
            CableError: the machine is gone, or what it sends are no frames.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            readable, writable, _ = select.select(
                [self._connection], [self._connection] if self._unsent else [], [], left
            )
            if writable:
                self._write()
            if readable:
                self._read()
            if frames := self._frames():
                return frames
            if not left:
                return []

    def _write(self) -> None:
        try:
            del self._unsent[: self._connection.send(bytes(self._unsent[:_CHUNK]))]
        except BlockingIOError:
            return
        except OSError as error:
            raise CableError(f"the machine is gone: {error}") from error

    def _read(self) -> None:
        try:
            chunk = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise CableError(f"the machine is gone: {error}") from error
        if not chunk:
            raise CableError("the machine was unplugged")
        self._buffer += chunk

    def _frames(self) -> list[bytes]:
        found, start, held = [], 0, self._buffer
        while len(held) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, start)
            if length > MAX_FRAME:
                raise CableError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
            end = start + _LENGTH.size + length
            if len(held) < end:
                break
            found.append(bytes(held[start + _LENGTH.size : end]))
            start = end
        del held[:start]
        return found
