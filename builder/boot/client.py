"""Asks a guest for evidence, over its network port or its virtio-serial port (docs/evidence-service.md)."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import BootError
from measurements.evidence.document import MAX_EVIDENCE_BYTES

_CHUNK = 1 << 16
#: A port forwarder accepts before the guest listens, and may then never connect: so try again beside it.
_RETRY = 2.0
#: OVMF opens virtio-serial ports too and swallows what arrives before the operating system runs: so say it again.
_REPEAT = 3.0
_MAX_OPEN = 4
_POLL = 0.1

Address = tuple[str, int] | Path


@dataclass(eq=False, slots=True, kw_only=True)
class _Attempt:
    connection: socket.socket
    line: bytes
    unsent: bytes
    sent: float = float("inf")
    answer: bytearray = field(default_factory=bytearray)


def request_evidence(
    address: Address, nonce: bytes, *, deadline: float, check: Callable[[], None] = lambda: None
) -> bytes:
    """Return the guest's evidence document for ``nonce``, as the bytes it sent; nothing in it is verified.

    Args:
        address: (host, port), or the socket of the virtio-serial port.
        nonce: 16 to 64 bytes.
        deadline: `time.monotonic` time at which to give up.
        check: called several times a second; what it raises ends the wait.

    Raises:
        BootError: no answer in time, an answer above the size limit, or the service's own error.
    """
    request = json.dumps({"nonce": nonce.hex()}).encode() + b"\n"
    limit = _MAX_OPEN if isinstance(address, tuple) else 1
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        started = float("-inf")
        while time.monotonic() < deadline:
            check()
            if len(selector.get_map()) < limit and time.monotonic() - started >= _RETRY:
                started = time.monotonic()
                _start(address, request, selector, stack)
            if isinstance(address, Path):
                _repeat(selector)
            for key, events in selector.select(_POLL) if selector.get_map() else _pause():
                answer = _advance(key.data, events, selector)
                if answer is not None:
                    return _checked(answer)
    raise BootError("the guest did not answer the request for evidence in time")


def _start(
    address: Address, request: bytes, selector: selectors.BaseSelector, stack: contextlib.ExitStack
) -> None:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    connection.setblocking(False)
    target = address if isinstance(address, tuple) else str(address)
    with contextlib.suppress(BlockingIOError, ConnectionError, FileNotFoundError):
        connection.connect(target)
    attempt = _Attempt(connection=connection, line=request, unsent=request)
    selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, attempt)


def _repeat(selector: selectors.BaseSelector) -> None:
    """Send the request once more where nothing has come back; the guest answers the first it sees."""
    for key in list(selector.get_map().values()):
        attempt: _Attempt = key.data
        if not attempt.answer and time.monotonic() - attempt.sent >= _REPEAT:
            attempt.unsent, attempt.sent = attempt.line, float("inf")
            selector.modify(attempt.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, attempt)


def _pause() -> tuple[()]:
    time.sleep(_POLL)
    return ()


def _advance(attempt: _Attempt, events: int, selector: selectors.BaseSelector) -> bytes | None:
    """Move one connection on; return its answer once a whole line is there."""
    connection = attempt.connection
    try:
        if events & selectors.EVENT_WRITE and attempt.unsent:
            attempt.unsent = attempt.unsent[connection.send(attempt.unsent) :]
            if not attempt.unsent:
                attempt.sent = time.monotonic()
                selector.modify(connection, selectors.EVENT_READ, attempt)
        if events & selectors.EVENT_READ:
            chunk = connection.recv(_CHUNK)
            attempt.answer += chunk
            if b"\n" in chunk:
                return bytes(attempt.answer)
            if len(attempt.answer) > MAX_EVIDENCE_BYTES:
                raise BootError(f"the guest's evidence is larger than {MAX_EVIDENCE_BYTES} bytes")
            if not chunk:
                raise ConnectionResetError
    except BlockingIOError:
        return None
    except OSError:  # nobody listens yet, or the guest closed: another attempt follows
        selector.unregister(connection)
        connection.close()
    return None


def _checked(line: bytes) -> bytes:
    if line.startswith(b'{"error"'):
        with contextlib.suppress(ValueError):
            raise BootError(f"the guest refuses to give evidence: {str(json.loads(line)['error'])[:400]}")
    return line
