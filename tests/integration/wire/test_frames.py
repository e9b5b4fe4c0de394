"""Building and reading frames, against frames of the Linux kernel."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    FrameError,
    TcpSegment,
    checksum,
    ethernet,
    icmp,
    icmpv6,
    ip,
    ipv4,
    ipv6,
    quoted,
    read,
    read_ports,
    read_tcp,
    syn,
    tcp,
    to_each_port,
    udp,
)
from .segment import LEASED_4, LEASED_6, ROUTER_4, STRANGER_4, STRANGER_6, arp, packed, read_arp

ROUTER_MAC = bytes.fromhex("020000000001")


def test_checksum_of_the_standard_example():
    """RFC 1071, 3: the sum of these words is DDF2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_both_zeros_of_the_sum():
    assert (checksum(bytes(8)), checksum(b"\xff" * 8), checksum(b"\xff\xff\0")) == (0xFFFF, 0, 0)


def test_a_segment_is_built_as_the_kernel_builds_it():
    segment = TcpSegment(
        source=8440, destination=0x9C40, sequence=0xFCCB31E3, acknowledgement=0x10000001, flags=SYN | ACK, data=b""
    )  # fmt: skip
    built = tcp(LEASED_4, STRANGER_4, segment, options=bytes.fromhex("020405b4"), window=0xFAF0)
    packet = ipv4(LEASED_4, STRANGER_4, TCP, built, fragment=0x4000)
    assert ethernet(ROUTER_MAC, recorded.MAC, IPV4, packet) == recorded.SYN_ACK_4.ljust(60, b"\0")


def test_a_solicitation_is_built_as_the_kernel_builds_it():
    source, group = recorded.LINK_LOCAL, packed("ff02::2")
    message = icmpv6(source, group, 133, 0, bytes(4) + b"\x01\x01" + recorded.MAC)
    packet = ipv6(source, group, ICMPV6, message, hop_limit=255)
    flow = recorded.ROUTER_SOLICITATION[14:18]  # the kernel's flow label is random
    frame = ethernet(packed("ff02::2")[12:].rjust(6, b"\x33"), recorded.MAC, IPV6, flow + packet[4:])
    assert frame[6:] == recorded.ROUTER_SOLICITATION[6:]


def test_address_resolution_is_built_and_read_as_the_kernel_does():
    message = arp(1, (recorded.MAC, LEASED_4), (bytes(6), ROUTER_4))
    assert ethernet(b"\xff" * 6, recorded.MAC, ARP, message)[:42] == recorded.ARP_REQUEST
    assert read_arp(read(recorded.ARP_REQUEST)) == (1, recorded.MAC, LEASED_4, bytes(6), ROUTER_4)


@pytest.mark.parametrize("frame", recorded.ALL.values(), ids=recorded.ALL)
def test_the_kernels_frames_are_read_and_a_changed_bit_is_noticed(frame):
    packet = read(frame)
    assert packet.sender == recorded.MAC
    if packet.ethertype in (IPV4, IPV6):
        damaged = bytearray(frame)
        damaged[-1] ^= 0x10
        with pytest.raises(FrameError, match="checksum"):
            read(bytes(damaged))


def test_what_a_segment_says():
    said = read_tcp(read(recorded.SYN_ACK_6))
    assert (said.source, said.destination, said.flags, said.acknowledgement) == (
        8440, 0x9C42, SYN | ACK, 0x10000001,
    )  # fmt: skip


def test_padding_is_not_payload():
    frame = ethernet(
        recorded.MAC, ROUTER_MAC, IPV4, ip(STRANGER_4, LEASED_4, UDP, udp(STRANGER_4, LEASED_4, (1, 2), b"x"))
    )
    assert len(frame) == 60
    assert read(frame).payload[8:] == b"x"


@pytest.mark.parametrize(("source", "destination"), [(STRANGER_4, LEASED_4), (STRANGER_6, LEASED_6)])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_patched_ports_are_those_of_frames_built_anew(source, destination, protocol):
    def build(port):
        message = (
            syn(source, destination, (40404, port))
            if protocol == TCP
            else udp(source, destination, (40404, port), b"odd")
        )
        kind = IPV4 if len(source) == 4 else IPV6
        return ethernet(recorded.MAC, ROUTER_MAC, kind, ip(source, destination, protocol, message))

    ports = range(0, 1 << 16, 251)
    for port, frame in zip(ports, to_each_port(build(0), ports), strict=True):
        assert frame == build(port)
        assert read_ports(read(frame).payload) == (40404, port)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_patched_frame_has_a_right_checksum(protocol):
    message = syn(STRANGER_6, LEASED_6, (1, 0)) if protocol == TCP else udp(STRANGER_6, LEASED_6, (1, 0), b"")
    template = ethernet(recorded.MAC, ROUTER_MAC, IPV6, ip(STRANGER_6, LEASED_6, protocol, message))
    assert sum(1 for frame in to_each_port(template, range(1 << 16)) if read(frame)) == 1 << 16


def test_an_error_names_the_packet_that_it_is_about():
    asked = ip(STRANGER_4, LEASED_4, UDP, udp(STRANGER_4, LEASED_4, (67, 7000), b""))
    said = ip(LEASED_4, STRANGER_4, 1, icmp(3, 3, bytes(4) + asked))
    destination, protocol, message = quoted(read(ethernet(ROUTER_MAC, recorded.MAC, IPV4, said)))
    assert (destination, protocol, read_ports(message)) == (LEASED_4, UDP, (67, 7000))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        ethernet(recorded.MAC, ROUTER_MAC, IPV6, bytes(40)),
        ethernet(recorded.MAC, ROUTER_MAC, IPV4, ipv4(ROUTER_4, LEASED_4, TCP, b"", fragment=0x2000)),
        ethernet(recorded.MAC, ROUTER_MAC, IPV6, ipv6(STRANGER_6, LEASED_6, 44, bytes(8))),
        ethernet(recorded.MAC, ROUTER_MAC, IPV6, ipv6(STRANGER_6, LEASED_6, 0, b"\0\x09" + bytes(6))),
        ethernet(recorded.MAC, ROUTER_MAC, IPV6, ipv6(STRANGER_6, LEASED_6, 60, b"\x3c" + bytes(7)) * 9),
        ethernet(recorded.MAC, ROUTER_MAC, IPV4, ipv4(ROUTER_4, LEASED_4, TCP, bytes(10))),
    ],
)
def test_what_contradicts_itself_is_refused(frame):
    with pytest.raises(FrameError):
        read(frame)


def _try(frame: bytes) -> None:
    try:
        packet = read(frame)
        for reader in (read_tcp, quoted, read_arp, lambda item: read_ports(item.payload)):
            try:
                reader(packet)
            except FrameError:
                continue
    except FrameError:
        pass


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data):
    _try(data)
    for kind in (IPV4, IPV6, ARP):
        _try(struct.pack(">6s6sH", recorded.MAC, ROUTER_MAC, kind) + data)


@settings(max_examples=150)
@given(st.sampled_from(sorted(recorded.ALL.values())), st.data())
def test_mutations_and_truncations_are_read_or_refused(frame, data):
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    _try(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
