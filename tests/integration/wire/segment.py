"""The network that the guest finds itself in: a router that is also the only neighbour.

It answers what a guest needs to configure itself (ARP, neighbour discovery, router advertisements, DHCP, DHCPv6),
learns the guest's addresses from what the guest says, and keeps every frame that the guest ever sent.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Callable, Iterable

from . import dhcp
from .cable import Cable
from .frames import (
    ARP,
    ICMPV6,
    IPV6,
    UDP,
    FrameError,
    Packet,
    ethernet,
    icmpv6,
    ip,
    read,
    read_ports,
    udp,
)  # fmt: skip


def packed(text: str) -> bytes:
    """Return an IPv4 or IPv6 address as bytes."""
    return ipaddress.ip_address(text).packed


def shown(address: bytes) -> str:
    """Return packed bytes as an address: MAC, IPv4 or IPv6."""
    return address.hex(":") if len(address) == 6 else str(ipaddress.ip_address(address))


#: Documentation addresses (RFC 5737, RFC 3849); the stranger is beyond the router.
ROUTER_MAC = bytes.fromhex("020000000001")
ROUTER_4, NETMASK_4, BROADCAST_4 = packed("192.0.2.1"), packed("255.255.255.0"), packed("192.0.2.255")
LEASED_4, LEASED_6 = packed("192.0.2.15"), packed("2001:db8:1::15")
PREFIX_6 = packed("2001:db8:1::")
LINK_LOCAL_ROUTER, ROUTER_6 = packed("fe80::1"), packed("2001:db8:1::1")
STRANGER_4, STRANGER_6 = packed("198.51.100.7"), packed("2001:db8:2::7")
NOBODY_4, NOBODY_6 = bytes(4), bytes(16)
ALL_NODES, ALL_ROUTERS = packed("ff02::1"), packed("ff02::2")
BROADCAST_MAC = b"\xff" * 6

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = (
    133,
    134,
    135,
    136,
)
_LIFETIME = 7200  # seconds; longer than any test
_ARP = struct.Struct(">HHBBH6s4s6s4s")


def multicast_mac(group: bytes) -> bytes:
    """Return the MAC of an IPv6 or IPv4 group (RFC 2464, 7; RFC 1112, 6.4)."""
    if len(group) == 16:
        return b"\x33\x33" + group[12:]
    return b"\x01\x00\x5e" + bytes([group[1] & 0x7F]) + group[2:]


def is_link_local(address: bytes) -> bool:
    """Whether this is an address of fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def arp(operation: int, sender: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> bytes:
    """Return an ARP message (RFC 826) between (MAC, IPv4 address) pairs."""
    return _ARP.pack(1, 0x0800, 6, 4, operation, *sender, *target)


def read_arp(packet: Packet) -> tuple[int, bytes, bytes, bytes, bytes]:
    """Return operation, sender's MAC and address, target's MAC and address.

    Raises:
        FrameError: no ARP for Ethernet and IPv4.
    """
    if packet.ethertype != ARP or len(packet.payload) < _ARP.size:
        raise FrameError("no ARP message")
    *kind, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(packet.payload)
    if kind != [1, 0x0800, 6, 4]:
        raise FrameError("ARP for something else than IPv4 over Ethernet")
    return operation, sender_mac, sender, target_mac, target


class Segment:
    """The guest's link and all that is on it.

    Attributes:
        mac: the guest's.
        heard: every frame that came from the guest, in order.
        addresses: the guest's own: leased, or announced by duplicate address detection.
    """

    def __init__(self, cable: Cable, mac: bytes) -> None:
        self._cable = cable
        self.mac = mac
        self.heard: list[bytes] = []
        self.addresses: set[bytes] = set()
        self._leases = dhcp.Leases(
            mac=ROUTER_MAC, ipv4=LEASED_4, router=ROUTER_4, netmask=NETMASK_4, ipv6=LEASED_6
        )

    @property
    def link_local(self) -> bytes | None:
        """The guest's address in fe80::/10, once it is known."""
        return next((item for item in sorted(self.addresses) if is_link_local(item)), None)

    @property
    def autoconfigured(self) -> bytes | None:
        """The guest's address in the advertised prefix that no server gave out, once it is known."""
        return next(
            (item for item in sorted(self.addresses) if item[:8] == PREFIX_6[:8] and item != LEASED_6), None
        )

    @property
    def configured(self) -> bool:
        """Whether the guest has all the addresses that this network offers."""
        wanted = {LEASED_4, LEASED_6, self.link_local, self.autoconfigured}
        return wanted <= self.addresses

    def ours(self, destination: bytes) -> bytes:
        """Return the address of this side that a packet to ``destination`` should come from."""
        if len(destination) == 4:
            return STRANGER_4
        return LINK_LOCAL_ROUTER if is_link_local(destination) or destination[0] == 0xFF else STRANGER_6

    def framed(self, packet: bytes, *, receiver: bytes | None = None) -> bytes:
        """Return an IP packet as a frame from the router to the guest."""
        ethertype = IPV6 if packet[0] >> 4 == 6 else 0x0800
        return ethernet(receiver or self.mac, ROUTER_MAC, ethertype, packet)

    def send(self, frames: Iterable[bytes]) -> None:
        """Put frames on the wire, as `receive` is called."""
        self._cable.send(frames)

    def receive(self, timeout: float) -> list[Packet]:
        """Return what has come from the guest, at most ``timeout`` seconds later; answer what the router answers.

        Frames that cannot be read are kept in `heard` and not returned.

        Raises:
            CableError: the machine is gone.
        """
        packets = []
        for frame in self._cable.receive(timeout):
            self.heard.append(frame)
            try:
                packet = read(frame)
                self._serve(packet)
            except FrameError:
                continue
            packets.append(packet)
        return packets

    def receive_until(self, done: Callable[[], bool], *, deadline: float, check: Callable[[], None]) -> bool:
        """Receive until ``done``, or the `time.monotonic` time ``deadline``; say whether it was in time.

        Args:
            check: called several times a second; what it raises ends the wait.
        """
        while not done():
            if time.monotonic() > deadline:
                return False
            check()
            self.receive(0.2)
        return True

    def listen(self, seconds: float) -> None:
        """Receive for so long, whatever comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.receive(left)

    def _serve(self, packet: Packet) -> None:
        if packet.ethertype == ARP:
            operation, sender_mac, sender, _, target = read_arp(packet)
            if operation == 1 and target == ROUTER_4:
                answer = arp(2, (ROUTER_MAC, ROUTER_4), (sender_mac, sender))
                self.send([ethernet(sender_mac, ROUTER_MAC, ARP, answer)])
        elif packet.protocol == ICMPV6:
            self._serve_discovery(packet)
        elif packet.protocol == UDP:
            self._serve_dhcp(packet)

    def _serve_discovery(self, packet: Packet) -> None:
        kind, body = packet.payload[0], packet.payload[4:]
        if kind == ROUTER_SOLICITATION:
            self._discovery(ALL_NODES, ROUTER_ADVERTISEMENT, _advertisement())
        elif kind == NEIGHBOUR_SOLICITATION and len(body) >= 20:
            target = body[4:20]
            if packet.source == NOBODY_6:  # duplicate address detection (RFC 4862, 5.4)
                self.addresses.add(target)
            elif target in (LINK_LOCAL_ROUTER, ROUTER_6):
                # Router, solicited, override; and where to send frames (RFC 4861, 4.4 and 4.6.1).
                flags = struct.pack(">I", 0xE0000000)
                self._discovery(
                    packet.source, NEIGHBOUR_ADVERTISEMENT, flags + target + b"\x02\x01" + ROUTER_MAC, target
                )

    def _discovery(
        self, destination: bytes, kind: int, body: bytes, source: bytes = LINK_LOCAL_ROUTER
    ) -> None:
        message = icmpv6(source, destination, kind, 0, body)
        receiver = multicast_mac(destination) if destination[0] == 0xFF else self.mac
        self.send([self.framed(ip(source, destination, ICMPV6, message, hop_limit=255), receiver=receiver)])

    def _serve_dhcp(self, packet: Packet) -> None:
        ports, data = read_ports(packet.payload), packet.payload[8:]
        if ports == (68, 67):
            source, destination, answer = ROUTER_4, LEASED_4, self._leases.answer_4(data)
        elif ports == (546, 547):
            source, destination, answer = LINK_LOCAL_ROUTER, packet.source, self._leases.answer_6(data)
        else:
            return
        if answer:
            self.addresses |= self._leases.granted
            message = udp(source, destination, (ports[1], ports[0]), answer)
            self.send([self.framed(ip(source, destination, UDP, message))])


def _advertisement() -> bytes:
    """Return a router advertisement's body: a default router, addresses from prefix and from DHCPv6.

    RFC 4861, 4.2 (hop limit, M and O, lifetimes), 4.6.1 (link-layer address), 4.6.2 (prefix: L and A), 4.6.4 (MTU).
    """
    head = struct.pack(">BBHII", 64, 0xC0, _LIFETIME, 0, 0)
    prefix = struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, _LIFETIME, _LIFETIME, 0, PREFIX_6)
    return head + b"\x01\x01" + ROUTER_MAC + prefix + struct.pack(">BBHI", 5, 1, 0, 1500)
