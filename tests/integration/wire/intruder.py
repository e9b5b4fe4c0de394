"""What an intruder on the guest's link would send besides connections: each attempt, and what was said to it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .frames import (
    ACK,
    ARP,
    DESTINATION_OPTIONS,
    FIN,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    PSH,
    ROUTING,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    FrameError,
    TcpSegment,
    ethernet,
    icmp,
    icmpv6,
    ip,
    ipv4,
    ipv6,
    read,
    read_tcp,
    sealed,
    syn,
    tcp,
    udp,
)
from .scan import PROBE_PORTS, Prober
from .segment import (
    BROADCAST_4,
    BROADCAST_MAC,
    NOBODY_4,
    NOBODY_6,
    ROUTER_4,
    ROUTER_ADVERTISEMENT,
    ROUTER_MAC,
    STRANGER_4,
    Segment,
    arp,
    multicast_mac,
    packed,
)
from .traffic import Named, describe, name

#: Ports at which nobody listens, most of them famous.
CLOSED = (1, 22, 53, 80, 443, 8439, 8441, 65535)
OUR_PORT = 30303
_FLAGS = {
    "no flags": 0,
    "FIN": FIN,
    "FIN PSH URG": FIN | PSH | URG,
    "ACK": ACK,
    "RST": RST,
    "SYN ACK": SYN | ACK,
    "SYN FIN": SYN | FIN,
    "SYN RST": SYN | RST,
    "all flags": 0x3F,
}
#: A listening port answers these with a reset (RFC 9293, 3.10.7.2).
_RESET = ("ACK", "SYN ACK")
_MORE_FRAGMENTS = 0x2000
_LOOPBACK = {4: packed("127.0.0.1"), 16: packed("::1")}
_ELSEWHERE = {4: packed("203.0.113.9"), 16: packed("2001:db8:3::9")}
_MAPPED = packed("::ffff:192.0.2.15")
#: Smaller numbers are lengths (IEEE 802.3, 3.2.6).
_FIRST_ETHERTYPE = 0x0600


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Frames that belong together.

    Attributes:
        what: a name, unique among the attempts on one address.
        frames: in their order.
        served: whether the open port answers: where it is no more than an odd way of calling it.
    """

    what: str
    frames: tuple[bytes, ...]
    served: bool = False


def answered(
    segment: Segment, address: bytes, port: int, attempts: Iterator[Attempt]
) -> dict[str, list[str]]:
    """Make each attempt; return what was said to those that drew an answer.

    What the guest says of itself at any time (address resolution, neighbour discovery, listeners, DHCP) is no answer.

    Args:
        address: of the guest; its open TCP ``port`` proves that each attempt arrived.

    Raises:
        ScanError: the port stopped answering.
    """
    prober = Prober(segment, address, port)
    answers: dict[str, list[str]] = {}
    for attempt in attempts:
        start = len(segment.heard)
        prober.deliver(attempt.frames)
        said = [item for frame in segment.heard[start:] if (item := _answer(segment, frame, port))]
        if said:
            answers[attempt.what] = said
    return answers


def _answer(segment: Segment, frame: bytes, port: int) -> str | None:
    try:
        packet = read(frame)
        kind = name(packet, mac=segment.mac, addresses=segment.addresses, port=port)
        if kind not in (None, Named.SERVICE):
            return None
        if kind is Named.SERVICE and read_tcp(packet).destination in PROBE_PORTS:
            return None
    except FrameError as error:
        return f"{error}: {frame.hex()}"
    return describe(packet)


def attempts(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    """Yield every attempt on one of the guest's addresses; ``port`` is its open TCP port."""
    yield from _odd_flags(segment, address, port)
    yield from _odd_segments(segment, address, port)
    yield from _protocols(segment, address, port)
    yield from _messages(segment, address)
    yield from _spoofed(segment, address, port)
    yield from _groups(segment, address, port)
    yield from (_ipv4_oddities if len(address) == 4 else _ipv6_oddities)(segment, address, port)


def fragments_without_end(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    """Yield first fragments whose rest never comes: after 30 s (IPv4) or 60 s (IPv6) a host may complain."""
    source = segment.ours(address)
    for target in (port, CLOSED[0]):
        whole = syn(source, address, (OUR_PORT, target)) + bytes(12)
        if len(address) == 4:
            packet = ipv4(source, address, TCP, whole, identification=target, fragment=_MORE_FRAGMENTS)
        else:
            packet = ipv6(source, address, FRAGMENT, _fragment_header(TCP, 0, target, more=True) + whole)
        yield Attempt(what=f"first fragment of a SYN to {target}", frames=(segment.framed(packet),))


def below_ip(segment: Segment, port: int) -> Iterator[Attempt]:
    """Yield what is no IP: every EtherType, 802.3 frames, VLANs, and address resolution for others."""
    (address,) = (item for item in segment.addresses if len(item) == 4)
    packet = _call(segment, address, port)
    tagged = struct.pack(">HH", 1, IPV4) + packet
    for start in range(0, 1 << 16, 0x1000):
        kinds = range(max(start, _FIRST_ETHERTYPE), start + 0x1000)
        frames = tuple(
            ethernet(segment.mac, ROUTER_MAC, kind, tagged) for kind in kinds if kind not in (IPV4, ARP, IPV6)
        )
        yield Attempt(what=f"EtherTypes {kinds.start:#06x} to {kinds.stop - 1:#06x}", frames=frames)
    snap = bytes.fromhex("aaaa03000000") + IPV4.to_bytes(2, "big") + packet
    plain = [("SNAP", snap), ("spanning tree", bytes.fromhex("424203") + bytes(35))]
    for what, payload in plain:
        yield Attempt(
            what=f"802.3, {what}", frames=(ethernet(segment.mac, ROUTER_MAC, len(payload), payload),)
        )
    for target in (_LOOPBACK[4], NOBODY_4, STRANGER_4, packed("192.0.2.77"), packed("224.0.0.1")):
        for operation in (1, 3, 8):  # request, reverse request, inverse request
            message = arp(operation, (ROUTER_MAC, ROUTER_4), (bytes(6), target))
            frame = ethernet(BROADCAST_MAC, ROUTER_MAC, ARP, message)
            yield Attempt(what=f"ARP {operation} for {target.hex()}", frames=(frame,))


def _call(segment: Segment, address: bytes, port: int, source: bytes | None = None) -> bytes:
    """Return an IP packet that asks for a connection."""
    source = segment.ours(address) if source is None else source
    return ip(source, address, TCP, syn(source, address, (OUR_PORT, port)))


def _segment(target: int, flags: int) -> TcpSegment:
    return TcpSegment(
        source=OUR_PORT, destination=target, sequence=1, acknowledgement=1 if flags & ACK else 0, flags=flags, data=b""
    )  # fmt: skip


def _odd_flags(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    source = segment.ours(address)
    for target in (*CLOSED, port):
        for what, flags in _FLAGS.items():
            packet = ip(source, address, TCP, tcp(source, address, _segment(target, flags)))
            served = target == port and what in _RESET
            yield Attempt(what=f"{what} to {target}", frames=(segment.framed(packet),), served=served)


def _odd_segments(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    source = segment.ours(address)
    whole = syn(source, address, (OUR_PORT, port))
    for what, message in {
        "a wrong checksum": whole[:16] + bytes([whole[16] ^ 1]) + whole[17:],
        "a header of 16 bytes": sealed(source, address, TCP, whole[:12] + b"\x40" + whole[13:]),
        "a header longer than the packet": sealed(source, address, TCP, whole[:12] + b"\xf0" + whole[13:]),
        "half a header": whole[:10],
    }.items():
        yield Attempt(what=f"SYN with {what}", frames=(segment.framed(ip(source, address, TCP, message)),))


def _protocols(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    """Every other protocol number; a tunnel's payload is a connection attempt from within."""
    source = segment.ours(address)
    inner = _call(segment, address, port)
    gre = struct.pack(">HH", 0, IPV4 if len(address) == 4 else IPV6) + inner
    sctp = struct.pack(">HHII", OUR_PORT, port, 0, 0) + struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
    payloads = {4: inner, 41: inner, 47: gre, 132: sctp}
    for protocol in range(256):
        if protocol not in (TCP, UDP, ICMP, ICMPV6):
            packet = ip(source, address, protocol, payloads.get(protocol, bytes(32)))
            yield Attempt(what=f"protocol {protocol}", frames=(segment.framed(packet),))


def _messages(segment: Segment, address: bytes) -> Iterator[Attempt]:
    """Every ICMP type, as it would come from beyond the link; over IPv6 as from the link too."""
    source = segment.ours(address)
    about = _quotation(address, source)
    for kind in range(256):
        if len(address) == 4:
            bodies = ((bytes(4), 64), (bytes(4) + about, 64))
        else:
            # Not a router advertisement from the link: the guest would take it for one, and lose its router.
            near = () if kind == ROUTER_ADVERTISEMENT else ((bytes(4) + about, 255),)
            bodies = ((bytes(4), 64), (bytes(4) + about, 64), *near)
        for body, hops in bodies:
            message = icmp(kind, 0, body) if len(address) == 4 else icmpv6(source, address, kind, 0, body)
            packet = ip(source, address, ICMP if len(address) == 4 else ICMPV6, message, hop_limit=hops)
            yield Attempt(
                what=f"ICMP type {kind}, {len(body)} bytes, hop limit {hops}",
                frames=(segment.framed(packet),),
            )


def _quotation(source: bytes, destination: bytes) -> bytes:
    """Return a packet that the guest might have sent, for an error to be about."""
    return ip(source, destination, UDP, udp(source, destination, (68, 67), bytes(8)))


def _spoofed(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    family = len(address)
    sources = {"the guest itself": address, "loopback": _LOOPBACK[family]}
    if family == 4:
        sources |= {"nobody": NOBODY_4, "a group": packed("224.0.0.1"), "everybody": BROADCAST_4}
    else:
        sources |= {"nobody": NOBODY_6, "a group": packed("ff02::1"), "an IPv4 address": _MAPPED}
    for what, source in sources.items():
        yield Attempt(
            what=f"SYN from {what}", frames=(segment.framed(_call(segment, address, port, source)),)
        )
    targets = {"loopback": _LOOPBACK[family], "another host": _ELSEWHERE[family]}
    if family == 16:
        targets |= {"an IPv4 address": _MAPPED, "nobody": NOBODY_6}
    else:
        targets |= {"nobody": NOBODY_4, "network 127": packed("127.1.2.3")}
    for what, target in targets.items():
        yield Attempt(what=f"SYN to {what}", frames=(segment.framed(_call(segment, target, port)),))
    call = _call(segment, address, port)
    receivers = {"everybody's": BROADCAST_MAC, "somebody else's": bytes.fromhex("020000000077")}
    for what, receiver in receivers.items():
        yield Attempt(what=f"SYN to {what} MAC", frames=(segment.framed(call, receiver=receiver),))


def _groups(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    """To many at once: connections, datagrams that devices answer to, and echo requests."""
    if len(address) == 4:
        groups = [packed(f"224.0.0.{last}") for last in (1, 2, 22, 251, 252)]
        groups += [BROADCAST_4, packed("192.0.2.0"), packed("255.255.255.255"), packed("239.255.255.250")]
    else:
        groups = [packed(f"ff02::{last}") for last in ("1", "2", "16", "fb", "1:2", "1:3", "c")]
        groups += [packed("ff01::1"), packed("ff05::1"), packed("ff02::1:ff00:0")[:13] + address[13:]]
    for group in groups:
        source = segment.ours(address)
        messages = {
            f"SYN to {target}": (TCP, syn(source, group, (OUR_PORT, target))) for target in (port, 22)
        }
        for target in (7, 53, 67, 68, 137, 546, 547, 1900, 5353, 5355, port):
            messages[f"datagram to {target}"] = (UDP, udp(source, group, (OUR_PORT, target), bytes(16)))
        if len(address) == 4:
            messages["echo request"] = (ICMP, icmp(8, 0, bytes(12)))
            messages["membership query"] = (2, icmp(0x11, 0, bytes(4)))
        else:
            messages["echo request"] = (ICMPV6, icmpv6(source, group, 128, 0, bytes(12)))
            messages["node information query"] = (ICMPV6, icmpv6(source, group, 139, 0, bytes(12) + group))
        many = group[-4:] in (b"\xff" * 4, BROADCAST_4, packed("192.0.2.0"))
        receiver = BROADCAST_MAC if many else multicast_mac(group)
        for what, (protocol, message) in messages.items():
            frame = segment.framed(ip(source, group, protocol, message, hop_limit=1), receiver=receiver)
            yield Attempt(what=f"{what} of {group.hex()}", frames=(frame,))


def _ipv4_oddities(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    source = segment.ours(address)
    route = bytes([11, 4]) + ROUTER_4 + address + b"\x01"
    options = {
        "loose source route": (bytes([131]) + route, False),
        "strict source route": (bytes([137]) + route, False),
        "record route": (bytes([7, 7, 4]) + bytes(4) + b"\x01", True),
        "timestamp": (bytes([68, 8, 5, 0]) + bytes(4), True),
    }
    for what, (option, served) in options.items():
        for target in (port, CLOSED[1]):
            packet = ipv4(source, address, TCP, syn(source, address, (OUR_PORT, target)), options=option)
            yield Attempt(
                what=f"{what}, SYN to {target}",
                frames=(segment.framed(packet),),
                served=served and target == port,
            )
    for target in (port, CLOSED[2]):
        whole = syn(source, address, (OUR_PORT, target))
        yield Attempt(
            what=f"two fragments of a SYN to {target}",
            frames=tuple(
                segment.framed(ipv4(source, address, TCP, part, identification=7, fragment=place))
                for part, place in ((whole[:8], _MORE_FRAGMENTS), (whole[8:], 1))
            ),
            served=target == port,
        )
    # Pieces that disagree about the port: what the filter judged must be what the service gets.
    opened, closed = (syn(source, address, (OUR_PORT, target)) for target in (port, CLOSED[1]))
    disagreeing = {
        "a fragment said twice": ((closed[:16], 0), (opened[:16], 0), (closed[16:], 2)),
        "fragments that overlap": ((opened[:16], 0), (closed[8:], 1)),
        "a fragment over another": ((opened[:8], 0), (closed[:16], 0), (opened[16:], 2)),
    }
    for number, (what, parts) in enumerate(disagreeing.items()):
        frames = []
        for part, place in parts:
            more = 0 if 8 * place + len(part) == len(opened) else _MORE_FRAGMENTS
            packet = ipv4(source, address, TCP, part, identification=8 + number, fragment=more | place)
            frames.append(segment.framed(packet))
        yield Attempt(what=what, frames=tuple(frames))


def _ipv6_oddities(segment: Segment, address: bytes, port: int) -> Iterator[Attempt]:
    source = segment.ours(address)
    for target in (port, CLOSED[1]):
        message = syn(source, address, (OUR_PORT, target))
        served = target == port
        unknown = bytes([0xDE, 4]) + bytes(4)  # highest bits 11: complain, but not to a group (RFC 8200, 4.2)
        padding = bytes([1, 4]) + bytes(4)
        chains = {
            "routing type 0": ((ROUTING, bytes([0, 1]) + bytes(4) + address), False),
            "routing type 2": ((ROUTING, bytes([2, 1]) + bytes(4) + address), False),
            "segment routing": ((ROUTING, bytes([4, 1, 0, 0, 0, 0]) + address), False),
            "unknown hop-by-hop option": ((HOP_BY_HOP, unknown), False),
            "unknown destination option": ((DESTINATION_OPTIONS, unknown), False),
            "padded hop-by-hop header": ((HOP_BY_HOP, padding), served),
            "padded destination header": ((DESTINATION_OPTIONS, padding), served),
            "a single fragment": ((FRAGMENT, None), served),
        }
        for what, ((kind, data), answer) in chains.items():
            header = (
                _fragment_header(TCP, 0, target)
                if data is None
                else bytes([TCP, (2 + len(data)) // 8 - 1]) + data
            )
            frame = segment.framed(ipv6(source, address, kind, header + message))
            yield Attempt(what=f"{what}, SYN to {target}", frames=(frame,), served=answer)
        # Only the first fragment shows a port, and the filter lets no other pass.
        parts = (
            (_fragment_header(TCP, 0, target + 1, more=True), message[:8]),
            (_fragment_header(TCP, 1, target + 1), message[8:]),
        )
        frames = tuple(segment.framed(ipv6(source, address, FRAGMENT, head + part)) for head, part in parts)
        yield Attempt(what=f"two fragments of a SYN to {target}", frames=frames)


def _fragment_header(following: int, offset: int, identification: int, *, more: bool = False) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | more, identification)
