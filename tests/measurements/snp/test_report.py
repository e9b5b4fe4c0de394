"""Attestation reports that hardware signed (tests/vectors/snp); expected fields as other parsers read them."""

import contextlib

import pytest
import snp_reports
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.snp import report
from measurements.snp.policy import GuestPolicy
from measurements.snp.report import FirmwareVersion, Signer
from measurements.snp.tcb import Product, TcbVersion, product_of

TURIN = snp_reports.report("turin-v5")


def test_fields_of_a_report_of_version_5():
    """virtee/sev (rev c7b6bbb) prints this report in the tests of YAXI's routex-client."""
    found = report.parse(TURIN)
    tcb = TcbVersion(fmc=0, bootloader=1, tee=0, snp=2, microcode=71)
    assert (found.version, found.guest_svn, found.vmpl, found.product) == (5, 0, 0, Product.TURIN)
    assert found.policy == GuestPolicy(smt_allowed=True)
    assert found.tcbs(Product.TURIN) == dict.fromkeys(("current", "reported", "committed", "launch"), tcb)
    # PLATFORM_INFO is 0x67; bit 6 has no name in the specification.
    assert found.platform_info == {
        "smt_enabled",
        "tsme_enabled",
        "ecc_enabled",
        "alias_check_complete",
        "bit_6",
    }
    assert (found.signer, found.chip_masked, found.author_key_enabled) == (Signer.VCEK, False, False)
    assert (
        found.report_data.hex().startswith("e0fd0bdb6aa4030a6ddea9073e1fcec5")
        and len(found.report_data) == 64
    )
    assert found.measurement.hex().startswith("f924dd18f168df60fbea937f0b0862")
    assert found.measurement.hex().endswith("dee624")
    assert found.host_data == bytes(32) and found.id_key_digest == found.author_key_digest == bytes(48)
    assert found.report_id.hex().startswith("a5e6fb0b3a3da122") and found.report_id_ma == b"\xff" * 32
    assert found.chip_id == bytes.fromhex("3b42092f69c656d3").ljust(64, b"\0")
    assert found.current == found.committed == FirmwareVersion(major=1, minor=55, build=61)
    assert (found.launch_mitigations, found.current_mitigations) == (0, 0)


def test_fields_of_a_report_of_version_2():
    """As go-sev-guest 0.15.0 and omne-attest 0.1.0 describe it: debugging is allowed, 01 02 03 04 05 is the data."""
    found = report.parse(snp_reports.report("milan-v2"))
    assert found.policy.value == 0xB0000 and found.policy.debug_allowed
    assert found.report_data == bytes.fromhex("0102030405").ljust(64, b"\0")
    assert found.product is None and found.launch_mitigations is None
    assert found.tcbs(Product.MILAN)["reported"] == TcbVersion(bootloader=2, tee=0, snp=5, microcode=68)
    told = report.to_json(found)
    assert told["product"] is None and told["tcb"]["reported"] == "0x4405000000000002"
    assert report.to_json(found, Product.MILAN)["tcb"]["reported"]["microcode"] == 68


def test_fields_of_reports_from_genoa():
    third, fifth = (report.parse(snp_reports.report(name)) for name in ("genoa-v3", "genoa-v5"))
    assert third.product is fifth.product is Product.GENOA
    # The measurement that the contract which holds this report expects of it.
    assert third.measurement.hex() == (
        "45fcf00a5bc0888f451cddaecba9a9f783543e72b319e14df388c82a3dcebbd348b0b0c5aef22c5432e65c8997fe6fc6"
    )
    assert (third.version, third.vmpl, third.launch_mitigations) == (3, 1, None)
    # KDS gave its certificate for blSPL=10, snpSPL=27, ucodeSPL=88.
    assert fifth.tcbs(Product.GENOA)["reported"] == TcbVersion(bootloader=10, tee=0, snp=27, microcode=88)
    assert (fifth.launch_mitigations, fifth.current_mitigations) == (0xB, 0xB)


@pytest.mark.parametrize("name", snp_reports.NAMES)
def test_json_has_every_field(name):
    told = report.to_json(report.parse(snp_reports.report(name)))
    assert told["measurement"] == report.parse(snp_reports.report(name)).measurement.hex()
    assert told["policy"]["value"].startswith("0x") and len(told) == 22


def changed(offset, data, base=TURIN):
    return base[:offset] + data + base[offset + len(data) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TURIN[:-1], "has 1183 bytes, expected 1184"),
        (TURIN + b"\0", "has 1185 bytes"),
        (changed(0, b"\4"), "of version 4; known are 2, 3 and 5"),
        (changed(0x0A, b"\1"), "bit 17 is zero"),
        (changed(0x0F, b"\1"), "reserved bit"),
        (changed(0x34, b"\2"), "signed with algorithm 2"),
        (changed(0x48, b"\x20"), "KEY_INFO 0x20"),
        (changed(0x48, b"\x08"), "unknown signer"),
        (changed(0x4C, b"\1"), "attestation report at offset 76: reserved bytes are not zero"),
        (changed(0x188, b"\x17"), "CPU family 0x17, model 0x2: no known processor"),
        (changed(0x18B, b"\1"), "offset 395: reserved bytes"),
        (changed(0x1EB, b"\1"), "reserved bytes"),
        (changed(0x210, b"\1"), "reserved bytes"),
        (changed(0x188, b"\x19", snp_reports.report("milan-v2")), "reserved bytes"),
        (changed(0x1F8, b"\1", snp_reports.report("genoa-v3")), "reserved bytes"),
    ],
)
def test_malformed_reports(data, message):
    with pytest.raises(FormatError, match=message):
        report.parse(data)


# AMD 57230 and virtee/sev name these; Bergamo and Siena are a0 to af, Turin Dense 11.
@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
    ],
)
def test_generations(family, model, product):
    assert product_of(family, model) is product


def test_parts_below_a_floor():
    floor = TcbVersion(bootloader=3, tee=0, snp=8, microcode=115)
    assert floor.below(floor) == ()
    assert TcbVersion(bootloader=2, tee=1, snp=9, microcode=114).below(floor) == ("bootloader", "microcode")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(snp_reports.NAMES), st.data())
def test_hostile_reports_raise_nothing_else(name, data):
    mutated = bytearray(snp_reports.report(name))
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        report.to_json(report.parse(bytes(mutated)))


@settings(max_examples=100)
@given(st.binary(max_size=1300))
def test_random_bytes_raise_nothing_else(data):
    with contextlib.suppress(FormatError):
        report.parse(data.ljust(1184, b"\0") if len(data) > 600 else data)
