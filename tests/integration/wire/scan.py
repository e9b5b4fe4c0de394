"""Sending many frames to a guest with proof that they were processed, and reading what they found.

The proof: behind every window of frames goes a probe, a connection attempt to the guest's open port. A card with one
receive queue hands frames over in their order, so an answered probe says that the guest had the window before it. A
window whose probe stays unanswered is sent again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .frames import (
    ACK,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
    UDP,
    FrameError,
    Packet,
    TcpSegment,
    ip,
    quoted,
    read,
    read_ports,
    read_tcp,
    syn,
    tcp,
    to_each_port,
    udp,
)
from .segment import LINK_LOCAL_ROUTER, Segment

ALL_PORTS = range(1 << 16)
WINDOW = 256
ATTEMPTS = 5
#: Seconds for a probe's answer; a guest on a software CPU needs milliseconds.
PATIENCE = 3.0
#: Our ports: of probes (used in turn), of the TCP scan, and of the UDP scan, which comes from where answers to DHCP
#: come from: a packet filter has to let more of that in than from anywhere else.
PROBE_PORTS = range(50000, 60000)
SCAN_PORT = 40404
DHCP_SERVER_PORT = {4: 67, 16: 547}
_UNREACHABLE = {(ICMP, 3), (ICMPV6, 1)}


class ScanError(RuntimeError):
    """The guest stopped answering at its open port: nothing can be said about the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a port scan found.

    Attributes:
        opened: ports that answered: SYN and ACK, or a datagram.
        refused: ports that said that nobody is there: reset, or ICMP unreachable.
        repeated: windows that had to be sent more than once.
    """

    opened: frozenset[int]
    refused: frozenset[int]
    repeated: int


class Prober:
    """Delivers frames to a guest's address, and proves it at its open TCP port."""

    def __init__(self, segment: Segment, address: bytes, port: int) -> None:
        self._segment, self._address, self._port = segment, address, port
        self._source = segment.ours(address)
        self._ports = itertools.cycle(PROBE_PORTS)

    def deliver(self, frames: Iterable[bytes], *, window: int = WINDOW) -> int:
        """Send frames, and return how many windows had to be sent more than once.

        Raises:
            ScanError: a window's probe stays unanswered.
        """
        repeated = 0
        remaining = iter(frames)
        while batch := list(itertools.islice(remaining, window)):
            attempts = 1
            while not self._sent(batch):
                if attempts == ATTEMPTS:
                    raise ScanError(f"the open port {self._port} did not answer {ATTEMPTS} probes in a row")
                attempts += 1
            repeated += attempts > 1
        return repeated

    def _sent(self, batch: list[bytes]) -> bool:
        probe = next(self._ports)
        packet = ip(self._source, self._address, TCP, syn(self._source, self._address, (probe, self._port)))
        self._segment.send([*batch, self._segment.framed(packet)])
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            answers = [self._hang_up(item) for item in self._segment.receive(left) if item.protocol == TCP]
            if (self._address, probe) in answers:
                return True
        return False

    def _hang_up(self, packet: Packet) -> tuple[bytes, int] | None:
        """Answer an accepted connection with a reset; return who accepted which of our ports."""
        said = read_tcp(packet)
        if said.flags & (SYN | ACK) != SYN | ACK:
            return None
        reset = TcpSegment(
            source=said.destination, destination=said.source, sequence=said.acknowledgement,
            acknowledgement=0, flags=RST, data=b"",
        )  # fmt: skip
        source, destination = packet.destination, packet.source
        self._segment.send(
            [self._segment.framed(ip(source, destination, TCP, tcp(source, destination, reset)))]
        )
        return packet.source, said.destination


def scan(
    segment: Segment, address: bytes, protocol: int, *, service: int, ports: Iterable[int] = ALL_PORTS
) -> Findings:
    """Scan ports of one of the guest's addresses: SYN segments, or datagrams.

    Args:
        protocol: TCP or UDP.
        service: TCP port that is open there.

    Raises:
        ScanError: the service stopped answering.
    """
    source, own = segment.ours(address), SCAN_PORT
    if protocol == TCP:
        template = syn(source, address, (own, 0))
    else:
        source = LINK_LOCAL_ROUTER if len(address) == 16 else source
        own = DHCP_SERVER_PORT[len(address)]
        template = udp(source, address, (own, 0), b"anybody there?")
    frames = to_each_port(segment.framed(ip(source, address, protocol, template)), ports)
    start = len(segment.heard)
    repeated = Prober(segment, address, service).deliver(frames)
    # What a queue held back, for an address that had to be resolved first.
    segment.listen(0.5)
    return found(segment.heard[start:], address, protocol, own, repeated=repeated)


def found(heard: Iterable[bytes], address: bytes, protocol: int, own: int, *, repeated: int = 0) -> Findings:
    """Read the answers to a scan of ``address`` from our port ``own``."""
    opened, refused = set(), set()
    for frame in heard:
        try:
            packet = read(frame)
            if packet.protocol == protocol == TCP and packet.source == address:
                said = read_tcp(packet)
                if said.destination == own:
                    (refused if said.flags & RST else opened).add(said.source)
            elif packet.protocol == protocol == UDP and packet.source == address:
                there, here = read_ports(packet.payload)
                if here == own:
                    opened.add(there)
            elif (packet.protocol, packet.payload[:1] and packet.payload[0]) in _UNREACHABLE:
                destination, about, message = quoted(packet)
                here, there = read_ports(message)
                if (destination, about, here) == (address, protocol, own):
                    refused.add(there)
        except FrameError:  # no answer to a scan; whoever asks what else was said sees it
            continue
    return Findings(opened=frozenset(opened), refused=frozenset(refused), repeated=repeated)
