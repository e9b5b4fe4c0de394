"""A host of a few lines, to see what the scanner makes of one whose ports are known."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import recorded
from .cable import Cable
from .frames import (
    ACK,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    TcpSegment,
    ethernet,
    icmp,
    icmpv6,
    ip,
    read,
    read_ports,
    read_tcp,
    tcp,
    udp,
)  # fmt: skip
from .segment import ROUTER_MAC, Segment


@dataclass(slots=True, kw_only=True)
class SimulatedHost:
    """A host that has the recorded guest's addresses.

    Attributes:
        tcp: open ports.
        udp: open ports.
        filtered: drops what is for other ports; else it refuses.
        lost: numbers of the frames that never arrive, counted from zero.
        arrived: frames that arrived so far, lost ones too.
    """

    tcp: frozenset[int] = frozenset()
    udp: frozenset[int] = frozenset()
    filtered: bool = False
    lost: range = range(0)
    arrived: int = field(default=0)

    @contextlib.contextmanager
    def plugged(self) -> Iterator[Segment]:
        """Run it at the other end of a cable."""
        here, there = socket.socketpair()
        thread = threading.Thread(target=self._run, args=(there,), daemon=True)
        thread.start()
        with here:
            segment = Segment(Cable(here), recorded.MAC)
            segment.addresses |= recorded.ADDRESSES
            yield segment
        thread.join(timeout=10)

    def _run(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while head := stream.read(4):
                frame = stream.read(int.from_bytes(head, "big"))
                number, self.arrived = self.arrived, self.arrived + 1
                answer = None if number in self.lost else self._answer(read(frame))
                if answer:
                    with contextlib.suppress(OSError):
                        stream.write(struct.pack(">I", len(answer)) + answer)
                        stream.flush()

    def _answer(self, packet: Packet) -> bytes | None:
        if packet.destination not in recorded.ADDRESSES or packet.protocol not in (TCP, UDP):
            return None
        here, there = packet.destination, packet.source
        source, port = read_ports(packet.payload)
        if packet.protocol == TCP:
            said = read_tcp(packet)
            if said.flags & RST or (self.filtered and port not in self.tcp):
                return None
            accepted = port in self.tcp and said.flags == SYN
            answer = TcpSegment(
                source=port, destination=source, sequence=7, acknowledgement=said.sequence + 1,
                flags=SYN | ACK if accepted else RST | ACK, data=b"",
            )  # fmt: skip
            return self._framed(ip(here, there, TCP, tcp(here, there, answer)))
        if port in self.udp:
            return self._framed(ip(here, there, UDP, udp(here, there, (port, source), b"here")))
        if self.filtered:
            return None
        about = ip(there, here, UDP, packet.payload)
        if len(here) == 4:
            return self._framed(ip(here, there, ICMP, icmp(3, 3, bytes(4) + about)))
        return self._framed(ip(here, there, ICMPV6, icmpv6(here, there, 1, 4, bytes(4) + about)))

    def _framed(self, packet: bytes) -> bytes:
        return ethernet(ROUTER_MAC, recorded.MAC, IPV6 if packet[0] >> 4 == 6 else IPV4, packet)
