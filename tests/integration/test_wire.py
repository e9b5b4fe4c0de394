"""The guest from outside: a wire of our own (`wire`), on which every frame of the guest is heard.

One boot of the unchanged release: it configures itself, gives evidence at each of its addresses, and is then scanned
and attacked. The same scanner looks at the same image without its packet filter, and sees what it must see there.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import ROOT, Goldsmith, private_temporary
from wire.cable import Cable
from wire.frames import ICMPV6, TCP, UDP, ethernet, icmpv6, ip, read
from wire.intruder import CLOSED, Attempt, answered, attempts, below_ip, fragments_without_end
from wire.scan import ALL_PORTS, Findings, scan
from wire.segment import (
    ALL_NODES,
    ARP,
    LEASED_4,
    LEASED_6,
    LINK_LOCAL_ROUTER,
    ROUTER_4,
    ROUTER_MAC,
    Segment,
    arp,
    multicast_mac,
    packed,
    shown,
)
from wire.talk import ask
from wire.traffic import Named, name, unnamed

from builder.artifacts import Lock
from builder.boot.qemu import Wiring, boot_devices
from builder.boot.session import EVIDENCE_PORT, RunningMachine, running_machine
from builder.launches import launches
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from measurements.platforms.qemu import VirtioNet
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration

LIMIT = 200.0  # seconds until the guest is configured, on a machine that emulates
PATIENCE = 60.0  # seconds for an evidence document
#: Linux gives up fragments after 30 s over IPv4 (ip_frag_time) and 60 s over IPv6 (RFC 8200, 4.5), and says so.
FRAGMENT_LIFETIME = 62.0
KINDS = ("IPv4", "link-local", "autoconfigured", "DHCPv6")
#: UDP ports of the sample that is taken without the filter: nobody listens there either.
UDP_SAMPLE = range(7000, 7020)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An evidence document and what it is to be verified with."""

    nonce: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a boot on the wire brought.

    Attributes:
        segment: the guest's network, with every frame that it sent from power-on on.
        addresses: by kind; the other fields are by these kinds too.
        exchanges: evidence by kind of address.
        findings: by kind of address and protocol.
        answers: what drew an answer: by kind of address, attempt, and then what was said.
        served: attempts that the open port is to answer, by kind of address.
    """

    segment: Segment
    attestation_key: str
    addresses: dict[str, bytes]
    exchanges: dict[str, Exchange]
    findings: dict[tuple[str, int], Findings]
    answers: dict[str, dict[str, list[str]]]
    served: dict[str, set[str]]

    def unnamed(self) -> list[str]:
        """Describe the frames that docs/hardening.md does not name."""
        return unnamed(
            self.segment.heard, mac=self.segment.mac, addresses=self.segment.addresses, port=EVIDENCE_PORT
        )

    def kinds(self) -> set[Named | None]:
        """Return the kinds of frames that were heard."""
        return {
            name(read(frame), mac=self.segment.mac, addresses=self.segment.addresses, port=EVIDENCE_PORT)
            for frame in self.segment.heard
        }


@contextmanager
def plugged_in(release: Path, lock: Lock, store: Store) -> Iterator[tuple[Segment, RunningMachine]]:
    """Boot a release's disk on a wire, and wait until it has all its addresses."""
    recipe = load_recipe(find_recipe("base", base=Path(__file__).parent))
    tools = unpack_toolbox(lock, store)
    chosen = next(
        item
        for item in launches(recipe.platforms, firmware(recipe.firmware, lock, store))
        if item.boot is BootPath.DISK
    )
    mac = next(device.mac for device in boot_devices() if isinstance(device, VirtioNet))
    with private_temporary() as folder:
        path = folder / "wire"
        wiring = Wiring(tpm=folder, variables=folder, disk=release / "disk.raw", wire=path)
        with (
            Cable.socket(path) as listener,
            running_machine(tools, chosen.firmware, chosen.machine, BootPath.DISK, wiring, folder) as running,
            Cable.plugged(listener, timeout=30) as cable,
        ):
            segment = Segment(cable, mac)
            if not segment.receive_until(
                lambda: segment.configured, deadline=time.monotonic() + LIMIT, check=running.check
            ):
                known = ", ".join(map(shown, segment.addresses)) or "none"
                raise running.failure(f"the guest did not configure all its addresses, but {known}")
            yield segment, running


def addresses_of(segment: Segment) -> dict[str, bytes]:
    assert segment.link_local and segment.autoconfigured
    return dict(zip(KINDS, (LEASED_4, segment.link_local, segment.autoconfigured, LEASED_6), strict=True))


def exchange(segment: Segment, running: RunningMachine, address: bytes, port: int) -> Exchange:
    """Ask for evidence from our ``port``."""
    nonce = secrets.token_bytes(32)
    request = json.dumps({"nonce": nonce.hex()}).encode() + b"\n"
    deadline = time.monotonic() + PATIENCE
    evidence = ask(segment, address, (port, EVIDENCE_PORT), request, deadline=deadline, check=running.check)
    return Exchange(nonce=nonce, evidence=evidence)


@pytest.fixture(scope="module")
def look(release: Path, lock: Lock, store: Store) -> Look:
    """Everything that is done to the genuine guest, in one boot."""
    with plugged_in(release, lock, store) as (segment, running):
        addresses = addresses_of(segment)
        exchanges, answers, served, findings = {}, {}, {}, {}
        for number, (kind, address) in enumerate(addresses.items()):
            exchanges[kind] = exchange(segment, running, address, 20000 + number)
        for kind, address in addresses.items():
            lone = fragments_without_end(segment, address, EVIDENCE_PORT)
            answers[kind] = answered(segment, address, EVIDENCE_PORT, lone)
        unfinished = time.monotonic()
        for kind, address in addresses.items():
            tried = list(attempts(segment, address, EVIDENCE_PORT))
            served[kind] = {attempt.what for attempt in tried if attempt.served}
            answers[kind] |= answered(segment, address, EVIDENCE_PORT, iter(tried))
        tried = [*below_ip(segment, EVIDENCE_PORT), *_what_is_named(segment)]
        answers["below IP"] = answered(segment, LEASED_4, EVIDENCE_PORT, iter(tried))
        served["below IP"] = set()
        for kind, address in addresses.items():
            for protocol in (TCP, UDP):
                findings[kind, protocol] = scan(segment, address, protocol, service=EVIDENCE_PORT)
        segment.listen(max(1.0, unfinished + FRAGMENT_LIFETIME - time.monotonic()))
        exchange(segment, running, LEASED_4, 20100)  # all that has not stopped the service
        running.check()
        return Look(
            segment=segment,
            attestation_key=running.attestation_key,
            addresses=addresses,
            exchanges=exchanges,
            findings=findings,
            answers=answers,
            served=served,
        )


def _what_is_named(segment: Segment) -> Iterator[Attempt]:
    """Yield what the image answers, so that the wire is seen to carry such answers."""
    request = arp(1, (ROUTER_MAC, ROUTER_4), (bytes(6), LEASED_4))
    yield Attempt(what="ARP request", frames=(ethernet(segment.mac, ROUTER_MAC, ARP, request),))
    assert segment.link_local
    group = packed("ff02::1:ff00:0")[:13] + segment.link_local[13:]
    asked = icmpv6(LINK_LOCAL_ROUTER, group, 135, 0, bytes(4) + segment.link_local + b"\x01\x01" + ROUTER_MAC)
    packet = ip(LINK_LOCAL_ROUTER, group, ICMPV6, asked, hop_limit=255)
    yield Attempt(
        what="neighbour solicitation", frames=(segment.framed(packet, receiver=multicast_mac(group)),)
    )
    # Router alert (RFC 2711), and a query for all groups (RFC 3810, 5.1).
    query = icmpv6(LINK_LOCAL_ROUTER, ALL_NODES, 130, 0, bytes(24))
    alerted = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0]) + query
    packet = ip(LINK_LOCAL_ROUTER, ALL_NODES, 0, alerted, hop_limit=1)
    yield Attempt(what="listener query", frames=(segment.framed(packet, receiver=multicast_mac(ALL_NODES)),))


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_comes_over_every_address_and_verifies(
    look: Look, kind: str, goldsmith: Goldsmith, release: Path, tmp_path: Path
):
    """The machine on the wire has the registers of the machine on QEMU's own network."""
    said = look.exchanges[kind]
    (tmp_path / "evidence").write_bytes(said.evidence)
    (tmp_path / "key").write_text(look.attestation_key)
    done = goldsmith(
        "verify", "--golden", release / "golden.dsse.json", "--key", release / "release.pub",
        "--evidence", tmp_path / "evidence", "--nonce", said.nonce.hex(), "--ak", tmp_path / "key", timeout=60,
    )  # fmt: skip
    assert done.code == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_evidence_port_is_open_and_no_other(look: Look, kind: str):
    tcp, udp = look.findings[kind, TCP], look.findings[kind, UDP]
    assert (tcp.opened, udp.opened) == ({EVIDENCE_PORT}, set())
    assert (tcp.refused, udp.refused) == (set(), set())


@pytest.mark.parametrize("kind", (*KINDS, "below IP"))
def test_nothing_else_that_an_intruder_sends_is_answered(look: Look, kind: str):
    unexpected = {what: said for what, said in look.answers[kind].items() if what not in look.served[kind]}
    assert unexpected == {}
    # The odd ways of calling the service, which it does answer, show that attempts of their kind arrive.
    assert set(look.answers[kind]) == look.served[kind]


def test_the_guest_says_nothing_but_what_is_named(look: Look):
    assert look.unnamed() == []


def test_everything_that_is_named_was_heard(look: Look):
    """Else the test before would not show that it can hear."""
    assert look.kinds() == set(Named)


def test_without_the_filter_the_same_scan_sees_closed_ports(
    goldsmith: Goldsmith, store: Store, lock: Lock, tmp_path: Path, signing_key: Path
):
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    (recipes / "base/golden.json").unlink(missing_ok=True)
    rules = recipes / "common/hardening/rules.nft"
    text = rules.read_text()
    assert text.count("policy drop;") == 3
    rules.write_text(text.replace("policy drop;", "policy accept;"))
    recipe = recipes / "base/recipe.yaml"
    waiver = 'audit:\n  waive:\n    GS-NET-002: "the scan without a filter, for a test"\n'
    recipe.write_text(f"{recipe.read_text()}{waiver}")
    done = goldsmith(
        "build", recipe, "--offline", "--out", tmp_path / "out", "--key", signing_key, timeout=300,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    with plugged_in(tmp_path / "out", lock, store) as (segment, running):
        exchange(segment, running, LEASED_4, 20000)
        for address in (LEASED_4, addresses_of(segment)["autoconfigured"]):
            findings = scan(segment, address, TCP, service=EVIDENCE_PORT)
            assert findings.opened == {EVIDENCE_PORT}
            assert findings.refused == set(ALL_PORTS) - {EVIDENCE_PORT}
            # Linux limits ICMP errors (net.ipv4.icmp_ratelimit), so the first few.
            findings = scan(segment, address, UDP, service=EVIDENCE_PORT, ports=UDP_SAMPLE)
            assert findings.opened == set()
            assert findings.refused
            drawn = answered(segment, address, EVIDENCE_PORT, attempts(segment, address, EVIDENCE_PORT))
            assert {f"ACK to {port}" for port in CLOSED} <= set(drawn)
        heard = unnamed(segment.heard, mac=segment.mac, addresses=segment.addresses, port=EVIDENCE_PORT)
        assert len(heard) > len(ALL_PORTS)
