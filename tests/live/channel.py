"""The host's half of the live tests' command channel; the guest's, and the protocol, are `guest/agent.py`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest import agent

#: What firmware and kernel may write to the port before the agent greets, bytes.
MAX_NOISE = 1 << 20
_CHUNK = 1 << 12
_POLL = 0.5  # seconds


class ChannelError(Exception):
    """The guest does not answer, or not in the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command's end: exit code (minus the signal's number where one killed it) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class Channel:
    """A connection to the agent, one command at a time.

    Args:
        connection: the virtio-serial port's socket, connected.
        check: called while waiting; what it raises ends the wait.
    """

    def __init__(self, connection: socket.socket, check: Callable[[], None] = lambda: None) -> None:
        self._connection, self._check = connection, check
        self._connection.settimeout(_POLL)
        self._deadline = 0.0
        self._unread = b""

    def await_greeting(self, deadline: float) -> None:
        """Wait for the agent, and skip what others wrote before; ``deadline`` is `time.monotonic` time."""
        self._deadline = deadline
        seen = bytearray()
        while agent.GREETING not in seen:
            if len(seen) > MAX_NOISE:
                raise ChannelError(f"more than {MAX_NOISE} bytes came over the port, and no greeting")
            seen += self._read(_CHUNK)
        self._unread = bytes(seen.partition(agent.GREETING)[2])

    def run(self, *arguments: str, feed: bytes = b"", user: int = 0, limit: int = 30) -> Ran:
        """Run a program in the guest.

        Args:
            arguments: the program and its arguments.
            feed: its standard input.
            user: its user and group id, without other groups; 0 keeps every privilege.
            limit: seconds after which the agent kills it.

        Raises:
            ChannelError: it ran longer or wrote more than allowed, or the guest broke the protocol.
        """
        self._deadline = time.monotonic() + limit + 60  # an emulated machine is slow to say so
        fields = [str(user).encode(), str(limit).encode(), feed, *(word.encode() for word in arguments)]
        self._write(agent.encode(fields))
        try:
            answer = agent.read_frame(self._read)
        except agent.FrameError as error:
            raise ChannelError(f"{arguments}: the guest sent {error}") from error
        return ran(answer, arguments)

    def put(self, program: bytes, path: str) -> None:
        """Write an executable file in the guest.

        Raises:
            ChannelError: the guest cannot.
        """
        done = self.run("", path, feed=program)
        if done.status != 0:
            raise ChannelError(f"cannot write {path} in the guest: {done.stderr.decode(errors='replace')}")

    def _read(self, size: int) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        while True:
            try:
                data = self._connection.recv(size)
            except TimeoutError:
                self._wait()
                continue
            except ConnectionError:
                data = b""
            if not data:
                self._check()
                raise ChannelError("the machine closed the channel")
            return data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._connection.send(view) :]
            except TimeoutError:
                self._wait()
            except ConnectionError:
                self._check()
                raise ChannelError("the machine closed the channel") from None

    def _wait(self) -> None:
        self._check()
        if time.monotonic() > self._deadline:
            raise ChannelError("the guest did not answer in time")


def ran(fields: list[bytes], arguments: tuple[str, ...]) -> Ran:
    """Return an answer's meaning.

    Raises:
        ChannelError: it is none, or the agent stopped the command.
    """
    if len(fields) != 3:
        raise ChannelError(f"{arguments}: an answer of {len(fields)} fields; expected 3")
    status, stdout, stderr = fields
    word = status.decode("ascii", "replace")
    if word in agent.REFUSALS:
        raise ChannelError(f"{arguments}: stopped by the agent ({word}); it had written {stdout[-400:]!r}")
    try:
        return Ran(status=int(word), stdout=stdout, stderr=stderr)
    except ValueError:
        raise ChannelError(f"{arguments}: status {word!r}") from None


def connect(path: Path) -> socket.socket:
    """Connect to a virtio-serial port's socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(path))
    return connection
