"""Ethernet, IPv4, IPv6, TCP, UDP and ICMP: building frames, whole or odd, and reading those of the guest.

Addresses are packed bytes throughout: 6 for a MAC, 4 for IPv4, 16 for IPv6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT_HEADER, DESTINATION_OPTIONS = 0, 43, 44, 59, 60
FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
#: A frame's least length without its check sequence (IEEE 802.3, 4.4.2).
MIN_FRAME = 60
MAX_FRAME = 65535
MAX_EXTENSIONS = 8

_ETHERNET = struct.Struct(">6s6sH")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIBBHHH")
_UDP = struct.Struct(">HHHH")
#: Where each protocol's checksum lies in its header.
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2, ICMP: 2}


class FrameError(ValueError):
    """The bytes are no frame that this module can read, or one of its checksums is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A frame, read.

    Attributes:
        frame: all of it.
        receiver: destination MAC.
        sender: source MAC.
        ethertype: what the frame carries.
        source: IPv4 or IPv6 address; empty where the frame carries something else.
        destination: likewise.
        hop_limit: hop limit or time to live.
        extensions: numbers of the IPv6 extension headers that stand before the payload.
        protocol: of the payload; -1 where the frame carries no IP.
        payload: what IP carries, or what Ethernet carries where that is not IP.
    """

    frame: bytes
    receiver: bytes
    sender: bytes
    ethertype: int
    source: bytes = b""
    destination: bytes = b""
    hop_limit: int = 0
    extensions: tuple[int, ...] = ()
    protocol: int = -1
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSegment:
    """A TCP segment's header and data (RFC 9293, 3.1)."""

    source: int
    destination: int
    sequence: int
    acknowledgement: int
    flags: int
    data: bytes


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 0xFFFF, so the number is congruent to the sum of its 16-bit words.
    total = int.from_bytes(data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def ethernet(receiver: bytes, sender: bytes, ethertype: int, payload: bytes) -> bytes:
    """Return a frame, padded as a card would."""
    return (_ETHERNET.pack(receiver, sender, ethertype) + payload).ljust(MIN_FRAME, b"\0")


def ip(source: bytes, destination: bytes, protocol: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """Return an IPv4 or IPv6 packet, as the addresses say."""
    build = ipv4 if len(source) == 4 else ipv6
    return build(source, destination, protocol, payload, hop_limit=hop_limit)


def ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    identification: int = 0,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """Return an IPv4 packet (RFC 791, 3.1).

    Args:
        fragment: flags and offset, the header's fourth word.
        options: a multiple of four bytes.
    """
    length = _IPV4.size + len(options)
    header = _IPV4.pack(
        0x40 | length // 4, 0, length + len(payload), identification, fragment, hop_limit, protocol, 0,
        source, destination,
    ) + options  # fmt: skip
    return _with_checksum(header, 10, b"") + payload


def ipv6(
    source: bytes, destination: bytes, next_header: int, payload: bytes, *, hop_limit: int = 64
) -> bytes:
    """Return an IPv6 packet (RFC 8200, 3)."""
    return _IPV6.pack(6 << 28, len(payload), next_header, hop_limit, source, destination) + payload


def tcp(
    source: bytes,
    destination: bytes,
    segment: TcpSegment,
    *,
    options: bytes = b"",
    window: int = 0xFFFF,
) -> bytes:
    """Return a TCP segment between two addresses; options are a multiple of four bytes."""
    header = _TCP.pack(
        segment.source, segment.destination, segment.sequence, segment.acknowledgement,
        (_TCP.size + len(options)) // 4 << 4, segment.flags, window, 0, 0,
    )  # fmt: skip
    return sealed(source, destination, TCP, header + options + segment.data)


def syn(source: bytes, destination: bytes, ports: tuple[int, int], *, sequence: int = 0) -> bytes:
    """Return the first segment of a connection from one port to another."""
    segment = TcpSegment(
        source=ports[0], destination=ports[1], sequence=sequence, acknowledgement=0, flags=SYN, data=b""
    )
    return tcp(source, destination, segment)


def udp(source: bytes, destination: bytes, ports: tuple[int, int], data: bytes) -> bytes:
    """Return a datagram from one port to another (RFC 768)."""
    return sealed(source, destination, UDP, _UDP.pack(*ports, _UDP.size + len(data), 0) + data)


def icmp(kind: int, code: int, body: bytes) -> bytes:
    """Return an ICMP message (RFC 792)."""
    return _with_checksum(struct.pack(">BBH", kind, code, 0) + body, _CHECKSUM_AT[ICMP], b"")


def icmpv6(source: bytes, destination: bytes, kind: int, code: int, body: bytes) -> bytes:
    """Return an ICMPv6 message (RFC 4443, 2.1)."""
    return sealed(source, destination, ICMPV6, struct.pack(">BBH", kind, code, 0) + body)


def sealed(source: bytes, destination: bytes, protocol: int, message: bytes) -> bytes:
    """Return the message with its checksum over itself and the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1)."""
    return _with_checksum(
        message, _CHECKSUM_AT[protocol], _pseudo_header(source, destination, protocol, len(message))
    )


def to_each_port(template: bytes, ports: Iterable[int]) -> Iterator[bytes]:
    """Return copies of a TCP or UDP frame whose destination port is zero, one for each port.

    Only port and checksum differ, so both are patched in (RFC 1624, equation 3).
    """
    packet = read(template)
    header = (template[_ETHERNET.size] & 15) * 4 if packet.ethertype == IPV4 else _IPV6.size
    start = _ETHERNET.size + header
    port_at, sum_at = start + 2, start + _CHECKSUM_AT[packet.protocol]
    before, between, after = template[:port_at], template[port_at + 2 : sum_at], template[sum_at + 2 :]
    base = 0xFFFF - int.from_bytes(template[sum_at : sum_at + 2], "big")
    for port in ports:
        total = base + port
        total = (total & 0xFFFF) + (total >> 16)
        # UDP has no checksum 0: that means none at all (RFC 768); for TCP both zeros are one.
        yield b"%b%b%b%b%b" % (
            before, port.to_bytes(2, "big"), between, ((0xFFFF - total) or 0xFFFF).to_bytes(2, "big"), after,
        )  # fmt: skip


def read(frame: bytes) -> Packet:
    """Read a frame.

    Raises:
        FrameError: it is cut off, contradicts itself, is a fragment, or has a wrong checksum.
    """
    if not _ETHERNET.size <= len(frame) <= MAX_FRAME:
        raise FrameError(f"a frame of {len(frame)} bytes")
    receiver, sender, ethertype = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if ethertype == IPV4:
        fields = _read_ipv4(body)
    elif ethertype == IPV6:
        fields = _read_ipv6(body)
    else:
        return Packet(frame=frame, receiver=receiver, sender=sender, ethertype=ethertype, payload=body)
    packet = Packet(frame=frame, receiver=receiver, sender=sender, ethertype=ethertype, **fields)
    _check_sum(packet)
    return packet


def read_tcp(packet: Packet) -> TcpSegment:
    """Read the segment that a TCP packet carries.

    Raises:
        FrameError: it is cut off.
    """
    data = packet.payload
    if packet.protocol != TCP or len(data) < _TCP.size:
        raise FrameError("no TCP segment")
    source, destination, sequence, acknowledgement, offset, flags, *_ = _TCP.unpack_from(data)
    length = offset >> 4 << 2
    if not _TCP.size <= length <= len(data):
        raise FrameError(f"a TCP header of {length} bytes in {len(data)}")
    return TcpSegment(
        source=source, destination=destination, sequence=sequence, acknowledgement=acknowledgement,
        flags=flags, data=data[length:],
    )  # fmt: skip


def read_ports(message: bytes) -> tuple[int, int]:
    """Return source and destination port of a TCP or UDP message, or of the first eight bytes of one.

    Raises:
        FrameError: it is cut off.
    """
    if len(message) < _UDP.size:
        raise FrameError("no ports")
    source, destination = struct.unpack_from(">HH", message)
    return source, destination


def quoted(packet: Packet) -> tuple[bytes, int, bytes]:
    """Return (destination, protocol, first bytes) of the packet that an ICMP error is about.

    Raises:
        FrameError: it quotes nothing that can be read.
    """
    inner = packet.payload[8:]
    if packet.protocol == ICMP and len(inner) >= _IPV4.size:
        fields = _IPV4.unpack_from(inner)
        return fields[9], fields[6], inner[(fields[0] & 15) * 4 :]
    if packet.protocol == ICMPV6 and len(inner) >= _IPV6.size:
        return inner[24:40], inner[6], inner[_IPV6.size :]
    raise FrameError("no ICMP error")


def _read_ipv4(body: bytes) -> dict[str, object]:
    if len(body) < _IPV4.size:
        raise FrameError("an IPv4 header that is cut off")
    first, _, total, _, fragment, hop_limit, protocol, _, source, destination = _IPV4.unpack_from(body)
    length = (first & 15) * 4
    if first >> 4 != 4 or not _IPV4.size <= length <= total <= len(body):
        raise FrameError("an IPv4 header that contradicts itself")
    if checksum(body[:length]):
        raise FrameError("a wrong IPv4 checksum")
    if fragment & 0x3FFF:
        raise FrameError("a fragment")
    return {
        "source": source, "destination": destination, "hop_limit": hop_limit, "protocol": protocol,
        "payload": body[length:total],
    }  # fmt: skip


def _read_ipv6(body: bytes) -> dict[str, object]:
    if len(body) < _IPV6.size:
        raise FrameError("an IPv6 header that is cut off")
    first, length, following, hop_limit, source, destination = _IPV6.unpack_from(body)
    payload = body[_IPV6.size : _IPV6.size + length]
    if first >> 28 != 6 or len(payload) != length:
        raise FrameError("an IPv6 header that contradicts itself")
    extensions: list[int] = []
    while following in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
        if following == FRAGMENT:
            raise FrameError("a fragment")
        if len(payload) < 8 or len(payload) < (size := 8 + 8 * payload[1]):
            raise FrameError("an extension header that is cut off")
        extensions.append(following)
        if len(extensions) > MAX_EXTENSIONS:
            raise FrameError(f"more than {MAX_EXTENSIONS} extension headers")
        following, payload = payload[0], payload[size:]
    return {
        "source": source, "destination": destination, "hop_limit": hop_limit, "protocol": following,
        "payload": payload, "extensions": tuple(extensions),
    }  # fmt: skip


def _check_sum(packet: Packet) -> None:
    if packet.protocol not in _CHECKSUM_AT:
        return
    at, data = _CHECKSUM_AT[packet.protocol], packet.payload
    if len(data) < at + 2:
        raise FrameError("a message that is cut off before its checksum")
    if packet.protocol == ICMP:
        wrong = checksum(data)
    else:
        pseudo = _pseudo_header(packet.source, packet.destination, packet.protocol, len(data))
        wrong = checksum(pseudo + data)
    without = packet.protocol == UDP and packet.ethertype == IPV4 and data[at : at + 2] == b"\0\0"
    if wrong and not without:
        raise FrameError(f"a wrong checksum in protocol {packet.protocol}")


def _pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack(">HH", protocol, length)
    return source + destination + struct.pack(">II", length, protocol)


def _with_checksum(message: bytes, at: int, pseudo: bytes) -> bytes:
    value = checksum(pseudo + message[:at] + b"\0\0" + message[at + 2 :])
    return message[:at] + (value or 0xFFFF).to_bytes(2, "big") + message[at + 2 :]
