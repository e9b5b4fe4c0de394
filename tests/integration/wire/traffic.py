"""What a guest may say of itself, as docs/hardening.md names it, and what a frame is otherwise."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from .frames import (
    ACK,
    ARP,
    HOP_BY_HOP,
    ICMPV6,
    IPV4,
    IPV6,
    SYN,
    TCP,
    UDP,
    FrameError,
    Packet,
    quoted,
    read,
    read_ports,
    read_tcp,
)
from .segment import NOBODY_4, NOBODY_6, is_link_local, packed, read_arp, shown

#: RFC 3810, 5.2.14; RFC 8415, 7.1.
LISTENERS, DHCPV6_SERVERS = packed("ff02::16"), packed("ff02::1:2")
LISTENER_REPORT = 143
_TARGET = slice(8, 24)  # of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4)
_DISCOVERY_LENGTH = 24


class Named(StrEnum):
    """The kinds of frames that the image sends (docs/hardening.md, "Network")."""

    ARP = "ARP"
    ROUTER_SOLICITATION = "router solicitation"
    NEIGHBOUR_SOLICITATION = "neighbour solicitation"
    NEIGHBOUR_ADVERTISEMENT = "neighbour advertisement"
    LISTENER_REPORT = "multicast listener report"
    DHCP = "DHCP request"
    DHCPV6 = "DHCPv6 request"
    SERVICE = "answer of the service"


def name(packet: Packet, *, mac: bytes, addresses: Collection[bytes], port: int) -> Named | None:
    """Return which named kind a packet is; none where it is none of them.

    Args:
        mac: the guest's.
        addresses: all of the guest's own.
        port: the TCP port of its service.
    """
    if packet.sender != mac:
        return None
    own = packet.source in addresses
    try:
        if packet.ethertype == ARP:
            return _name_arp(packet, mac, addresses)
        if packet.protocol == ICMPV6:
            return _name_icmpv6(packet, addresses)
        if packet.protocol == UDP and not packet.extensions:
            return _name_dhcp(packet, own=own)
        if packet.protocol == TCP and not packet.extensions and own:
            said = read_tcp(packet)
            answer = said.source == port and said.flags & (SYN | ACK) != SYN
            return Named.SERVICE if answer else None
    except FrameError:
        pass
    return None


def _name_arp(packet: Packet, mac: bytes, addresses: Collection[bytes]) -> Named | None:
    operation, sender_mac, sender, _, _ = read_arp(packet)
    asked = operation == 1 and (sender in addresses or sender == NOBODY_4)
    answered = operation == 2 and sender in addresses
    return Named.ARP if sender_mac == mac and (asked or answered) else None


def _name_icmpv6(packet: Packet, addresses: Collection[bytes]) -> Named | None:
    kind, own = packet.payload[0], packet.source in addresses
    if kind == LISTENER_REPORT:
        right = (
            packet.destination == LISTENERS and packet.hop_limit == 1 and packet.extensions == (HOP_BY_HOP,)
        )
        source = packet.source == NOBODY_6 or (own and is_link_local(packet.source))
        return Named.LISTENER_REPORT if right and source else None
    if packet.hop_limit != 255 or packet.extensions or not (own or packet.source == NOBODY_6):
        return None
    if kind == 133:
        return Named.ROUTER_SOLICITATION
    if len(packet.payload) < _DISCOVERY_LENGTH:
        return None
    if kind == 135:
        return Named.NEIGHBOUR_SOLICITATION
    if kind == 136 and own and packet.payload[_TARGET] in addresses:
        return Named.NEIGHBOUR_ADVERTISEMENT
    return None


def _name_dhcp(packet: Packet, *, own: bool) -> Named | None:
    ports = read_ports(packet.payload)
    if packet.ethertype == IPV4 and ports == (68, 67) and (own or packet.source == NOBODY_4):
        return Named.DHCP
    if packet.ethertype == IPV6 and ports == (546, 547) and packet.destination == DHCPV6_SERVERS:
        return Named.DHCPV6 if own and is_link_local(packet.source) else None
    return None


def unnamed(frames: Collection[bytes], *, mac: bytes, addresses: Collection[bytes], port: int) -> list[str]:
    """Describe those of the guest's frames that no kind names, those too that cannot be read."""
    found = []
    for frame in frames:
        try:
            packet = read(frame)
        except FrameError as error:
            found.append(f"{error}: {frame.hex()}")
            continue
        if name(packet, mac=mac, addresses=addresses, port=port) is None:
            found.append(describe(packet))
    return found


def describe(packet: Packet) -> str:
    """Say in a line what a packet is."""
    if packet.protocol < 0:
        return f"EtherType {packet.ethertype:#06x} to {shown(packet.receiver)}: {packet.payload[:32].hex()}"
    said = f"protocol {packet.protocol}"
    try:
        if packet.protocol == TCP:
            segment = read_tcp(packet)
            said = f"TCP {segment.source} to {segment.destination}, flags {segment.flags:#04x}"
        elif packet.protocol == UDP:
            said = "UDP {} to {}".format(*read_ports(packet.payload))
        else:
            said += f", type {packet.payload[0]}, code {packet.payload[1]}" if packet.payload[1:] else ""
            destination, protocol, _ = quoted(packet)
            said += f", about protocol {protocol} to {shown(destination)}"
    except (FrameError, ValueError):
        pass
    return f"{shown(packet.source)} to {shown(packet.destination)}: {said}"
