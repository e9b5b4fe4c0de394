"""One TCP connection over frames: enough to send a request and read the answer to its end (RFC 9293)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from .frames import ACK, FIN, PSH, RST, SYN, TCP, FrameError, Packet, TcpSegment, ip, read_tcp, tcp
from .segment import Segment

#: Seconds until what was not acknowledged is sent again.
AGAIN = 1.0
_ISN = 0x10000000
#: Maximum segment size (RFC 9293, 3.7.1) for both families.
_MSS = struct.pack(">BBH", 2, 4, 1440)
_MASK = 0xFFFFFFFF


class ConnectionFailedError(RuntimeError):
    """The guest refused, or did not answer in time."""


def ask(
    segment: Segment,
    address: bytes,
    ports: tuple[int, int],
    request: bytes,
    *,
    deadline: float,
    check: Callable[[], None] = lambda: None,
) -> bytes:
    """Connect, send a request of at most one segment, and return all bytes until the guest closes.

    Args:
        ports: ours and the guest's.
        deadline: `time.monotonic` time at which to give up.
        check: called several times a second; what it raises ends the exchange.

    Raises:
        ConnectionFailedError: a reset, or no end in time.
    """
    connection = _Connection(segment, address, ports, request)
    while not connection.over:
        if time.monotonic() > deadline:
            raise ConnectionFailedError(f"no complete answer in time; {len(connection.answer)} bytes came")
        check()
        connection.remind()
        for packet in segment.receive(0.2):
            connection.take(packet)
    return bytes(connection.answer)


class _Connection:
    def __init__(self, segment: Segment, address: bytes, ports: tuple[int, int], request: bytes) -> None:
        self._segment, self._address, self._ports, self._request = segment, address, ports, request
        self._established = self._acknowledged = self._closed = self.over = False
        self._next = 0  # sequence number that the guest's next byte has
        self._said = float("-inf")
        self.answer = bytearray()

    def remind(self) -> None:
        """Send again what the guest has not acknowledged."""
        if self._acknowledged or time.monotonic() - self._said < AGAIN:
            return
        self._said = time.monotonic()
        if not self._established:
            self._send(SYN, _ISN, options=_MSS)
        else:
            self._send(PSH | ACK, _ISN + 1, data=self._request)

    def take(self, packet: Packet) -> None:
        """Follow one packet of the guest, where it belongs to this connection."""
        if packet.protocol != TCP or packet.source != self._address:
            return
        try:
            said = read_tcp(packet)
        except FrameError:
            return
        if (said.destination, said.source) != self._ports:
            return
        if said.flags & RST:
            # A port that is not served yet refuses: the next reminder tries again.
            if self._established:
                raise ConnectionFailedError(f"the guest reset the connection after {len(self.answer)} bytes")
        elif not self._established:
            self._establish(said)
        else:
            self._follow(said)

    def _establish(self, said: TcpSegment) -> None:
        if said.flags & (SYN | ACK) == SYN | ACK and said.acknowledgement == _ISN + 1:
            self._established = True
            self._next = (said.sequence + 1) & _MASK
            self._said = float("-inf")
            self.remind()

    def _follow(self, said: TcpSegment) -> None:
        end = _ISN + 1 + len(self._request)
        self._acknowledged |= said.acknowledgement == end
        if said.sequence == self._next:
            self.answer += said.data
            self._next = (self._next + len(said.data)) & _MASK
            if said.flags & FIN:
                self._next = (self._next + 1) & _MASK
                self._closed = True
                self._send(FIN | ACK, end)
                return
        # The guest has closed, and knows that this side has.
        self.over = self._closed and said.acknowledgement == end + 1
        if said.data or said.flags & (SYN | FIN):
            self._send(ACK, end if self._acknowledged else _ISN + 1)

    def _send(self, flags: int, sequence: int, *, data: bytes = b"", options: bytes = b"") -> None:
        source = self._segment.ours(self._address)
        said = TcpSegment(
            source=self._ports[0], destination=self._ports[1], sequence=sequence, acknowledgement=self._next,
            flags=flags, data=data,
        )  # fmt: skip
        packet = ip(source, self._address, TCP, tcp(source, self._address, said, options=options))
        self._segment.send([self._segment.framed(packet)])
