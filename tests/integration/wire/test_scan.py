"""The scanner and the list of attempts, against hosts whose ports are known."""

import pytest

from . import scan as scanning
from .frames import TCP, UDP
from .intruder import CLOSED, answered, attempts, below_ip
from .scan import ALL_PORTS, ScanError, scan
from .segment import LEASED_4, LEASED_6
from .simulated import SimulatedHost

PORTS = range(8000, 9000)
both = pytest.mark.parametrize("address", [LEASED_4, LEASED_6], ids=["IPv4", "IPv6"])


@both
def test_a_filtering_host_shows_its_open_ports_alone(address):
    with SimulatedHost(
        tcp=frozenset({8440, 8555}), udp=frozenset({8500}), filtered=True
    ).plugged() as segment:
        findings = scan(segment, address, TCP, service=8440, ports=PORTS)
        assert (findings.opened, findings.refused, findings.repeated) == ({8440, 8555}, set(), 0)
        findings = scan(segment, address, UDP, service=8440, ports=PORTS)
        assert (findings.opened, findings.refused) == ({8500}, set())


@both
def test_a_refusing_host_shows_every_port(address):
    with SimulatedHost(tcp=frozenset({8440}), udp=frozenset({8500})).plugged() as segment:
        findings = scan(segment, address, TCP, service=8440, ports=PORTS)
        assert (findings.opened, findings.refused) == ({8440}, set(PORTS) - {8440})
        findings = scan(segment, address, UDP, service=8440, ports=PORTS)
        assert (findings.opened, findings.refused) == ({8500}, set(PORTS) - {8500})


def test_the_first_and_the_last_port_are_scanned():
    assert (ALL_PORTS[0], ALL_PORTS[-1]) == (0, 65535)
    with SimulatedHost(tcp=frozenset({0, 8440, 65535}), filtered=True).plugged() as segment:
        ends = scan(segment, LEASED_4, TCP, service=8440, ports=(0, 65535))
        assert ends.opened == {0, 65535}


def test_a_window_that_was_lost_is_sent_again(monkeypatch):
    monkeypatch.setattr(scanning, "PATIENCE", 0.2)
    host = SimulatedHost(tcp=frozenset({8440}), lost=range(300, 520))
    with host.plugged() as segment:
        findings = scan(segment, LEASED_4, TCP, service=8440, ports=PORTS)
        assert findings.repeated == 1
        assert findings.refused == set(PORTS) - {8440}


def test_a_silent_host_is_no_closed_host(monkeypatch):
    monkeypatch.setattr(scanning, "PATIENCE", 0.05)
    with SimulatedHost(filtered=True).plugged() as segment, pytest.raises(ScanError, match="8440"):
        scan(segment, LEASED_4, TCP, service=8440, ports=PORTS)


@both
def test_attempts_have_names_and_are_told_apart_by_who_answers(address):
    with SimulatedHost(tcp=frozenset({8440})).plugged() as segment:
        tried = list(attempts(segment, address, 8440))
        assert len({attempt.what for attempt in tried}) == len(tried) > 800
        flags = [attempt for attempt in tried if attempt.what.endswith("to 22") and len(attempt.frames) == 1]
        drawn = answered(
            segment, address, 8440, (item for item in flags if item.what.startswith(("ACK", "FIN")))
        )
        assert set(drawn) == {"ACK to 22", "FIN to 22", "FIN PSH URG to 22"}
        assert all("flags 0x14" in said for answers in drawn.values() for said in answers)
        assert 22 in CLOSED


def test_every_ethertype_but_three_is_tried():
    with SimulatedHost().plugged() as segment:
        frames = [frame for attempt in below_ip(segment, 8440) for frame in attempt.frames]
    kinds = {int.from_bytes(frame[12:14], "big") for frame in frames if frame[:6] == segment.mac}
    assert set(range(0x600, 0x10000)) - kinds == {0x0800, 0x0806, 0x86DD}
