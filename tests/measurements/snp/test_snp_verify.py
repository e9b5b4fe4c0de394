"""Verification of reports: those of real machines pass, and every check refuses the attack that it is there for."""

from dataclasses import replace
from datetime import timedelta

import pytest
import snp_reports
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.snp import report
from measurements.snp.policy import GuestPolicy
from measurements.snp.tcb import Product, TcbVersion
from measurements.snp.verify import CHECKS, Expectations, report_data_of, verify
from measurements.verify.verdict import Status

KEY = ec.generate_private_key(ec.SECP384R1())
ANY_TCB = TcbVersion(bootloader=0, tee=0, snp=0, microcode=0)


@pytest.fixture(scope="module")
def authority():
    return snp_reports.Authority()


def expectations(data, **changes):
    """Return what a verifier would expect of a report that is exactly as it should be."""
    parsed = report.parse(data)
    return replace(
        Expectations(
            now=snp_reports.NOW,
            report_data=parsed.report_data,
            measurements=frozenset((parsed.measurement,)),
            policy=parsed.policy,
            minimum_tcb=ANY_TCB,
            product=None if parsed.product else Product.MILAN,
            vmpl=parsed.vmpl,
            host_data=parsed.host_data,
            id_key_digest=parsed.id_key_digest,
            author_key_digest=parsed.author_key_digest,
        ),
        **changes,
    )


def failed(verdict):
    """Return the checks that failed or were skipped, by name."""
    assert not verdict.passed
    return {
        check.name: check.detail
        for check in verdict.checks
        if check.status in (Status.FAILED, Status.SKIPPED)
    }


@pytest.mark.parametrize("name", snp_reports.NAMES)
def test_reports_of_real_machines(name):
    data = snp_reports.report(name)
    verdict = verify(data, [snp_reports.certificate(name)], expectations(data))
    assert verdict.passed and not verdict.warnings
    assert tuple(check.name for check in verdict.checks) == CHECKS
    assert {check.status for check in verdict.checks} == {Status.OK}


def test_certificate_that_amd_issued_years_later():
    """Every request gives a new certificate for the same key."""
    data = snp_reports.report("milan-v2")
    assert verify(data, [snp_reports.certificate("milan-v2-2026")], expectations(data)).passed


def real(name="genoa-v5", *, data=None, given=None, **changes):
    original = snp_reports.report(name)
    return verify(
        original if data is None else data,
        [snp_reports.certificate(name)] if given is None else given,
        expectations(original, **changes),
    )


@pytest.mark.parametrize("offset", [0x50, 0x90, 0xC0, 0xE0, 0x140, 0x1E8, 0x2A0, 0x2E8])
def test_one_flipped_bit(offset):
    data = bytearray(snp_reports.report("genoa-v5"))
    data[offset] ^= 1
    assert "signature" in failed(real(data=bytes(data)))


def test_report_of_another_machine_with_this_machines_certificate():
    found = failed(real("genoa-v5", given=[snp_reports.certificate("genoa-v3")]))
    assert "signature" in found and "TCB version" in found["endorsement key"]


def test_report_of_another_generation():
    found = failed(real("genoa-v5", given=[snp_reports.certificate("turin-v5")]))
    assert "of a Genoa, the certificate of a Turin" in found["endorsement key"]


def test_an_old_report_is_replayed():
    fresh = report_data_of(b"n" * 32)
    assert set(failed(real(report_data=fresh))) == {"report data"}


def test_another_guest():
    found = failed(real(measurements=frozenset((bytes(48), b"\1" * 48))))
    assert set(found) == {"measurement"} and "none of 2 expected launch digests" in found["measurement"]


def test_no_launch_digest_is_acceptable():
    assert set(failed(real(measurements=frozenset()))) == {"measurement"}


def test_a_guest_that_its_host_may_debug():
    found = failed(real("milan-v2", policy=GuestPolicy()))
    assert found == {"guest policy": "0xb0000 is weaker than 0x30000 in debug_allowed"}


def test_firmware_below_the_floor():
    floor = TcbVersion(bootloader=10, tee=0, snp=28, microcode=88)
    assert "in snp" in failed(real(minimum_tcb=floor))["TCB"]
    assert real(minimum_tcb=replace(floor, snp=27)).passed


def test_a_less_privileged_level():
    found = failed(real("genoa-v3", vmpl=0))
    assert found == {"privilege level": "VMPL 1; expected at most 0"}


def test_other_host_data():
    assert set(failed(real(host_data=b"h" * 32))) == {"host data"}


@pytest.mark.parametrize(
    "change", [{"id_key_digest": b"k" * 48}, {"author_key_digest": b"k" * 48}, {"minimum_guest_svn": 1}]
)
def test_other_identity(change):
    assert set(failed(real(**change))) == {"identity"}


def test_after_the_certificate_expired():
    assert "is valid from" in failed(real(now=snp_reports.NOW + timedelta(days=3650)))["certificate chain"]


def test_without_the_certificate():
    found = failed(real(given=[]))
    assert "0 certificates of a VCEK or VLEK among 0" in found["certificate chain"]
    assert found["signature"] == "an earlier check failed" and "TCB" in found


def test_two_certificates():
    both = [snp_reports.certificate("genoa-v5"), snp_reports.certificate("genoa-v3")]
    assert "2 certificates" in failed(real(given=both))["certificate chain"]


@pytest.mark.parametrize("data", [b"", bytes(1184), b"\xff" * 1184, snp_reports.report("genoa-v5")[:-1]])
def test_hostile_reports_fail_the_first_check(data):
    found = failed(real(data=data))
    assert set(found) == set(CHECKS) - {"certificate chain"}


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"-----BEGIN CERTIFICATE-----", bytes(1 << 19)])
def test_hostile_certificates_fail_the_second_check(data):
    assert set(failed(real(given=[data]))) == {"certificate chain", "endorsement key", "signature", "TCB"}


def test_a_report_of_version_2_without_its_generation():
    assert "the verifier must" in failed(real("milan-v2", product=None))["endorsement key"]


def test_another_generation_than_expected():
    assert "expected: Turin" in failed(real(product=Product.TURIN))["endorsement key"]


def test_what_is_not_expected_is_a_warning():
    nothing = Unproven(reason="not given")
    verdict = real(report_data=nothing, measurements=nothing, minimum_tcb=nothing)
    assert verdict.passed
    assert verdict.warnings == ("report data: not given", "measurement: not given", "TCB: not given")


def ours(authority, data, *, endorsement=None, **changes):
    certificate = endorsement or authority.endorse(KEY.public_key())
    given = [
        snp_reports.der(certificate),
        snp_reports.der(authority.middle),
        snp_reports.der(authority.vlek_middle),
    ]
    return verify(data, given, expectations(data, **{"trusted": (authority.root,)} | changes))


def test_an_authority_that_the_verifier_trusts(authority):
    assert ours(authority, snp_reports.forged(KEY)).passed


def test_a_forged_chain_beside_a_forged_report(authority):
    data = snp_reports.forged(KEY)
    certificate = snp_reports.der(authority.endorse(KEY.public_key()))
    given = [certificate, snp_reports.der(authority.middle), snp_reports.der(authority.root)]
    assert "certificate chain" in failed(verify(data, given, expectations(data)))


def test_report_of_another_chip(authority):
    found = failed(ours(authority, snp_reports.forged(KEY, chip_id=b"x" * 64)))
    assert set(found) == {"endorsement key"} and "the report is of chip" in found["endorsement key"]


def test_report_of_an_older_tcb(authority):
    found = failed(ours(authority, snp_reports.forged(KEY, tcb=(9, 0, 27, 88))))
    assert set(found) == {"endorsement key"} and "is bootloader 9" in found["endorsement key"]


def test_a_vlek_in_place_of_a_vcek(authority):
    vlek = authority.endorse(KEY.public_key(), vlek="Some Cloud")
    found = failed(ours(authority, snp_reports.forged(KEY), endorsement=vlek))
    assert set(found) == {"endorsement key"} and "signed by a VCEK" in found["endorsement key"]


def test_vlek(authority):
    vlek = authority.endorse(KEY.public_key(), vlek="Some Cloud")
    verdict = ours(authority, snp_reports.forged(KEY, key_info=1 << 2), endorsement=vlek)
    assert verdict.passed and verdict.checks[1].detail == "VLEK of Some Cloud, Genoa"


def test_a_host_that_masks_the_chips_name(authority):
    verdict = ours(authority, snp_reports.forged(KEY, chip_id=bytes(64), key_info=2))
    assert verdict.passed and "masks the chip's id" in verdict.checks[2].detail


def test_a_report_that_nobody_signed(authority):
    found = failed(ours(authority, snp_reports.forged(KEY, key_info=7 << 2)))
    assert "signed by a NONE" in found["endorsement key"]


def test_nonces():
    assert report_data_of(b"n" * 16) == b"n" * 16 + bytes(48)
    for nonce in (b"n" * 15, b"n" * 65):
        with pytest.raises(FormatError, match="expected 16 to 64"):
            report_data_of(nonce)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_input_never_passes_and_never_raises(data):
    mutated = bytearray(snp_reports.report("turin-v5"))
    position = data.draw(st.integers(0, 0x2A0 + 143))
    mutated[position] ^= data.draw(st.integers(1, 255))
    assert not real("turin-v5", data=bytes(mutated)).passed
