"""The guest's network: what a real guest asks is answered as it has to be, and what it says is learned."""

import contextlib
import os
import socket
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import recorded, talk
from .cable import Cable, CableError
from .dhcp import Leases
from .frames import FrameError, read, read_ports
from .segment import LEASED_4, LEASED_6, NETMASK_4, PREFIX_6, ROUTER_4, ROUTER_MAC, Segment, read_arp
from .simulated import SimulatedHost


def leases():
    return Leases(mac=ROUTER_MAC, ipv4=LEASED_4, router=ROUTER_4, netmask=NETMASK_4, ipv6=LEASED_6)


@contextlib.contextmanager
def guest():
    """Yield our side of a link and a function that says frames as the guest and returns what came back."""
    here, there = socket.socketpair()
    with here, there:
        segment = Segment(Cable(here), recorded.MAC)

        def say(*frames):
            other = Cable(there)
            other.send(frames)
            other.receive(0)
            segment.receive(1)
            segment.receive(0.01)
            return [read(frame) for frame in other.receive(0.2)]

        yield segment, say


def test_the_routers_address_is_resolved_and_nobody_elses():
    with guest() as (_, say):
        (answer,) = say(recorded.ARP_REQUEST)
        assert read_arp(answer)[:3] == (2, ROUTER_MAC, ROUTER_4)
        assert say(recorded.ARP_REQUEST[:-1] + b"\x07") == []


def test_a_solicitation_brings_router_prefix_and_dhcp():
    with guest() as (_, say):
        (answer,) = say(recorded.ROUTER_SOLICITATION)
        assert (answer.payload[0], answer.hop_limit, answer.receiver.hex()) == (134, 255, "333300000001")
        assert answer.payload[5] == 0xC0, "managed and other configuration (RFC 4861, 4.2)"
        assert PREFIX_6 in answer.payload
        assert b"\x01\x01" + ROUTER_MAC in answer.payload


def test_announced_addresses_are_learned():
    with guest() as (segment, say):
        assert segment.link_local is None
        assert say(recorded.NEIGHBOUR_SOLICITATION) == []
        assert segment.link_local == recorded.LINK_LOCAL
        assert not segment.configured


def test_networkd_gets_its_addresses():
    with guest() as (segment, say):
        (offer,) = say(recorded.DHCP_DISCOVER)
        assert read_ports(offer.payload) == (67, 68)
        assert segment.addresses == set()
        (lease,) = say(recorded.DHCP_REQUEST)
        message = lease.payload[8:]
        assert message[:4] == bytes([2, 1, 6, 0])
        assert message[4:8] == bytes.fromhex("8671da6a"), "the transaction of the request"
        assert message[16:20] == LEASED_4
        assert message[240:243] == bytes([53, 1, 5])
        assert segment.addresses == {LEASED_4}
        (advertised,) = say(recorded.DHCPV6_SOLICIT)
        said = advertised.payload[8:]
        assert said[:4] == bytes.fromhex("02a38f8a")
        assert LEASED_6 in said
        assert bytes.fromhex("0001000e00020000ab11d54faedb8bcc40f9") in said, "the client's identity"
        assert LEASED_6 not in segment.addresses


def test_a_request_over_ipv6_is_granted():
    server = leases()
    request = b"\x03\0\0\x01" + struct.pack(">HHIII", 3, 12, 1, 0, 0)
    assert (server.answer_6(request) or b"")[0] == 7
    assert server.granted == {LEASED_6}
    assert server.answer_6(b"\x08\0\0\x01") is None, "a release"


@settings(max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_random_dhcp_is_answered_or_refused(data, cut):
    genuine = recorded.DHCP_DISCOVER[42:]
    for message in (data, genuine[:cut] + data):
        for answer in (leases().answer_4, leases().answer_6):
            with contextlib.suppress(FrameError):
                answer(message)


def test_what_cannot_be_read_is_kept():
    with guest() as (segment, say):
        assert say(recorded.SYN_ACK_4[:40]) == []
        assert segment.heard == [recorded.SYN_ACK_4[:40]]


def test_a_cable_waits_for_its_machine_and_notices_when_it_goes(tmp_path):
    path = tmp_path / "wire"
    with Cable.socket(path) as listener:
        with pytest.raises(CableError, match="plugged in"), Cable.plugged(listener, timeout=0.05):
            pass
        with socket.socket(socket.AF_UNIX) as machine:
            machine.connect(os.fspath(path))
            with Cable.plugged(listener, timeout=5) as cable:
                machine.sendall(b"\0\0\0\x03ab")
                assert cable.receive(0.05) == []
                machine.sendall(b"c\0\0\0\x01d")
                assert cable.receive(1) == [b"abc", b"d"]
                machine.shutdown(socket.SHUT_RDWR)
                with pytest.raises(CableError, match="unplugged"):
                    cable.receive(1)


def test_a_frame_beyond_the_limit_is_refused():
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"\x7f\0\0\0")
        with pytest.raises(CableError, match="limit"):
            Cable(here).receive(1)


def test_a_cable_carries_more_than_its_buffers_hold():
    here, there = socket.socketpair()
    frames = [bytes([number % 251]) * 1500 for number in range(2000)]
    with here, there:
        one, other = Cable(here), Cable(there)
        one.send(frames)
        thread = threading.Thread(target=one.receive, args=(2,), daemon=True)
        thread.start()
        got = []
        while len(got) < len(frames) and (more := other.receive(2)):
            got += more
        other.send([b"enough"])
        other.receive(0)
        thread.join()
        assert got == frames


def test_no_answer_is_an_error():
    with (
        SimulatedHost(filtered=True).plugged() as segment,
        pytest.raises(talk.ConnectionFailedError, match="0 bytes"),
    ):
        talk.ask(segment, LEASED_4, (20000, 8440), b"?", deadline=time.monotonic() + 0.3)


def test_a_port_that_refuses_is_asked_again_until_the_deadline(monkeypatch):
    monkeypatch.setattr(talk, "AGAIN", 0.01)
    host = SimulatedHost()
    with host.plugged() as segment, pytest.raises(talk.ConnectionFailedError):
        talk.ask(segment, LEASED_4, (20000, 8440), b"?", deadline=time.monotonic() + 1)
    assert host.arrived > 1
