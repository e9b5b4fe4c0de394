"""Which frames are named: those of a real guest; and what merely looks like them is not."""

import pytest

from . import recorded
from .frames import (
    ACK,
    ARP,
    ICMPV6,
    IPV4,
    IPV6,
    SYN,
    TCP,
    UDP,
    TcpSegment,
    ethernet,
    icmp,
    icmpv6,
    ip,
    ipv6,
    read,
    tcp,
    udp,
)
from .segment import (
    BROADCAST_MAC,
    LEASED_4,
    LEASED_6,
    LINK_LOCAL_ROUTER,
    NOBODY_4,
    ROUTER_4,
    ROUTER_MAC,
    STRANGER_4,
    STRANGER_6,
    arp,
    packed,
)
from .traffic import LISTENERS, Named, describe, name, unnamed

GUEST = {"mac": recorded.MAC, "addresses": recorded.ADDRESSES, "port": 8440}
LINK_LOCAL, EVERYBODY = recorded.LINK_LOCAL, packed("255.255.255.255")


def said(kind, packet, *, sender=recorded.MAC):
    return ethernet(ROUTER_MAC, sender, kind, packet)


def neighbour(kind, source, target, *, hop_limit=255):
    message = icmpv6(source, LINK_LOCAL_ROUTER, kind, 0, bytes(4) + target)
    return said(IPV6, ip(source, LINK_LOCAL_ROUTER, ICMPV6, message, hop_limit=hop_limit))


def segment(source, flags, port=8440, to=STRANGER_4, sender=recorded.MAC):
    built = TcpSegment(source=port, destination=9, sequence=1, acknowledgement=1, flags=flags, data=b"")
    return said(IPV4, ip(source, to, TCP, tcp(source, to, built)), sender=sender)


def datagram(source, destination, ports):
    kind = IPV4 if len(source) == 4 else IPV6
    return said(kind, ip(source, destination, UDP, udp(source, destination, ports, b"")))


@pytest.mark.parametrize("kind", recorded.ALL)
def test_the_kernels_frames_are_named(kind):
    assert name(read(recorded.ALL[kind]), **GUEST) == Named(kind)


def test_an_own_address_may_be_advertised():
    assert name(read(neighbour(136, LINK_LOCAL, LEASED_6)), **GUEST) is Named.NEIGHBOUR_ADVERTISEMENT


def report(group, *, hop_limit):
    message = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0]) + icmpv6(LINK_LOCAL, group, 143, 0, bytes(4))
    return said(IPV6, ipv6(LINK_LOCAL, group, 0, message, hop_limit=hop_limit))


REFUSED = {
    "another machine's": segment(LEASED_4, SYN | ACK, sender=ROUTER_MAC),
    "the first packet of a connection": segment(LEASED_4, SYN),
    "another port": segment(LEASED_4, SYN | ACK, port=22),
    "an address that is not its own": segment(STRANGER_4, SYN | ACK, to=LEASED_4),
    "an ARP answer for another": said(ARP, arp(2, (recorded.MAC, ROUTER_4), (ROUTER_MAC, LEASED_4))),
    "an ARP question as another": said(ARP, arp(1, (recorded.MAC, ROUTER_4), (bytes(6), LEASED_4))),
    "an ARP answer with another MAC": said(ARP, arp(2, (ROUTER_MAC, LEASED_4), (ROUTER_MAC, ROUTER_4))),
    "a reverse ARP": said(ARP, arp(3, (recorded.MAC, LEASED_4), (recorded.MAC, LEASED_4))),
    "an advertisement for another": neighbour(136, LINK_LOCAL, STRANGER_6),
    "a solicitation from beyond a router": neighbour(135, LINK_LOCAL, LINK_LOCAL_ROUTER, hop_limit=64),
    "a solicitation as another": neighbour(135, STRANGER_6, LINK_LOCAL_ROUTER),
    "a router advertisement": neighbour(134, LINK_LOCAL, LEASED_6),
    "a redirect": neighbour(137, LINK_LOCAL, LEASED_6),
    "an echo answer": said(IPV4, ip(LEASED_4, STRANGER_4, 1, icmp(0, 0, bytes(4)))),
    "an ICMPv6 error": neighbour(1, LEASED_6, bytes(40)),
    "a DHCP answer": datagram(LEASED_4, EVERYBODY, (67, 68)),
    "a DHCP question to another port": datagram(NOBODY_4, EVERYBODY, (68, 53)),
    "a DHCPv6 question to anyone": datagram(LINK_LOCAL, STRANGER_6, (546, 547)),
    "a DHCPv6 question from afar": datagram(LEASED_6, packed("ff02::1:2"), (546, 547)),
    "a name to be resolved": datagram(LEASED_4, STRANGER_4, (40000, 53)),
    "a listener report to others": report(packed("ff02::1"), hop_limit=1),
    "a listener report from afar": report(LISTENERS, hop_limit=64),
    "another EtherType": ethernet(BROADCAST_MAC, recorded.MAC, 0x88CC, bytes(46)),
    "membership in a group": said(IPV4, ip(LEASED_4, packed("224.0.0.22"), 2, bytes(8))),
}  # fmt: skip


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED)
def test_what_is_not_named_is_told(frame):
    assert len(unnamed([frame], **GUEST)) == 1


def test_what_cannot_be_read_is_told():
    assert unnamed([recorded.SYN_ACK_4[:40]], **GUEST) == [
        f"an IPv4 header that contradicts itself: {recorded.SYN_ACK_4[:40].hex()}"
    ]


def test_a_description_says_who_what_and_about_what():
    asked = ip(STRANGER_4, LEASED_4, UDP, udp(STRANGER_4, LEASED_4, (67, 7000), b""))
    error = said(IPV4, ip(LEASED_4, STRANGER_4, 1, icmp(3, 3, bytes(4) + asked)))
    assert describe(read(error)) == (
        "192.0.2.15 to 198.51.100.7: protocol 1, type 3, code 3, about protocol 17 to 192.0.2.15"
    )
    assert describe(read(recorded.SYN_ACK_4)).endswith("TCP 8440 to 40000, flags 0x12")
