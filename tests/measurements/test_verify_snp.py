"""SEV-SNP reports against a golden document: an honest guest passes, and each check refuses its attack."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import snp_reports
from attester import NOW, SIGNING_KEY, signed
from cryptography.hazmat.primitives.asymmetric import ec
from gpu_evidence import EXPECTED
from hypothesis import given, settings
from hypothesis import strategies as st
from snp_verifying import (
    AUTHOR_KEY,
    AUTHORITY,
    CERTIFICATES,
    DIGEST,
    GOLDEN,
    ID_KEY,
    KEY,
    LAUNCHES,
    failed,
    policy,
    report,
    run,
    with_block,
)

from measurements import envelope, keys
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.snp.report import parse
from measurements.snp.tcb import Product, TcbVersion
from measurements.snp.verify import report_data_of
from measurements.verify.release import launch_to_json
from measurements.verify.snp import CHECKS
from measurements.verify.verdict import Status


def test_honest_guest_passes_and_its_launch_is_named():
    verdict = run()
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert [check.number for check in verdict.checks] == [*range(1, 17)]
    assert tuple(check.name for check in verdict.checks) == CHECKS
    assert verdict.shape == "qemu-snp/ovmf-amdsev/direct/EPYC-Milan/2-vcpus"
    (value,) = verdict.values
    assert (value.name, value.equal, value.predicted) == ("launch_digest", True, (value.observed,))


@pytest.mark.parametrize("name", snp_reports.NAMES)
def test_reports_of_real_machines(monkeypatch, name):
    """AMD's chain and signature, the nonce, the policy: all real. Nobody told what these guests were launched with,
    so no pages fold to their digests: the document's value is put in behind the check of its signature."""
    data = snp_reports.report(name)
    real = parse(data)
    known = replace(LAUNCHES[0], loaded=real.measurement, steps=())
    monkeypatch.setattr(envelope, "parse_statement", lambda _: replace(GOLDEN, sev_snp=(LAUNCHES[1], known)))
    demands = {
        "guest_policy": real.policy,
        "minimum_tcb": TcbVersion(bootloader=0, tee=0, snp=0, microcode=0),
        "product": None if real.product else Product.MILAN,
        "trusted": None,
        "vmpl": real.vmpl,
        "report_data": real.report_data,
        "host_data": real.host_data,
        "now": snp_reports.NOW,
    }
    verdict = run(data, given=[snp_reports.certificate(name)], **demands)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert verdict.shape == known.name
    stranger = replace(known, loaded=bytes(48))
    monkeypatch.setattr(envelope, "parse_statement", lambda _: replace(GOLDEN, sev_snp=(stranger,)))
    verdict = run(data, given=[snp_reports.certificate(name)], **demands)
    assert [*failed(verdict)] == ["launch shape"]


# 1
def test_document_signed_by_a_stranger():
    stranger = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    found = run(golden=envelope.sign_document(GOLDEN, [stranger]))
    assert [*failed(found)] == ["document signatures"]
    assert found.checks[14].status is Status.SKIPPED and not found.values


def test_one_signature_where_two_are_demanded():
    other = keys.generate(keys.KeyAlgorithm.ED25519).public()
    assert "document signatures" in failed(run(signers=(SIGNING_KEY.public(), other), threshold=2))


# 2
@pytest.mark.parametrize("golden", [b"", b"{}", b"\xff" * 100])
def test_document_that_is_junk(golden):
    verdict = run(golden=golden)
    assert "document signatures" in failed(verdict)


# 3
def test_rollback_to_a_version_below_the_floor():
    assert "SVN 3 is below the floor 4" in failed(run(svn=4))["validity"]


def test_document_of_another_image_signed_by_the_same_key():
    assert [*failed(run(image="gpu-cc"))] == ["validity"]


def test_document_that_expired():
    assert "validity" in failed(run(now=NOW + timedelta(days=5000)))


# 4
@pytest.mark.parametrize("data", [b"", bytes(1184), snp_reports.report("genoa-v5")[:-1]])
def test_report_that_is_junk(data):
    verdict = run(data)
    assert [*failed(verdict)] == ["report"]
    assert verdict.checks[14].status is Status.SKIPPED


# 5
def test_chain_that_the_attacker_made():
    assert "certificate chain" in failed(run(trusted=None))


def test_report_without_its_certificate():
    assert "certificate chain" in failed(run(given=[]))


# 6
def test_certificate_of_another_chip():
    other = AUTHORITY.endorse(KEY.public_key(), chip_id=b"x" * 64)
    found = failed(run(given=[snp_reports.der(other), CERTIFICATES[1]]))
    assert [*found] == ["endorsement key"]


# 7
def test_report_signed_by_another_key():
    forger = ec.generate_private_key(ec.SECP384R1())
    assert [*failed(run(report(key=forger)))] == ["signature"]


def test_digest_written_into_a_report_of_another_guest():
    data = bytearray(report(bytes(48)))
    data[DIGEST : DIGEST + 48] = LAUNCHES[1].launch_digest.value
    verdict = run(bytes(data))
    assert [*failed(verdict)] == ["signature"] and verdict.checks[14].status is Status.OK


# 8
def test_report_of_an_old_request():
    assert [*failed(run(report_data=report_data_of(b"m" * 32)))] == ["report data"]


def test_without_a_nonce_the_verdict_says_so():
    verdict = run(report_data=Unproven(reason="an archive"))
    assert verdict.passed and verdict.warnings == ("report data: an archive",)


# 9
def test_guest_that_its_host_may_debug():
    found = failed(run(report(policy=(0xB0000).to_bytes(8, "little"))))
    assert [*found] == ["guest policy"] and "debug_allowed" in found["guest policy"]


# 10
def test_firmware_of_the_processor_below_the_floor():
    assert [*failed(run(minimum_tcb=TcbVersion(bootloader=11, tee=0, snp=27, microcode=88)))] == ["TCB"]


# 11
def test_report_asked_for_by_a_less_privileged_level():
    assert [*failed(run(report(vmpl=(3).to_bytes(4, "little"))))] == ["privilege level"]


# 12
def test_host_data_that_the_host_made_up():
    assert [*failed(run(report(host=b"h" * 32)))] == ["host data"]


# 13, 14
def test_launch_with_an_id_block_of_the_release():
    verdict = run(with_block(), id_key_digest=ID_KEY, author_key_digest=AUTHOR_KEY)
    assert verdict.passed, verdict.failures
    assert verdict.checks[13].detail == "base 0.1.0, SVN 3"


def test_launch_without_the_id_block_that_is_demanded():
    assert {"identity", "ID block"} == set(failed(run(id_key_digest=ID_KEY)))


def test_id_block_of_another_owner():
    assert [*failed(run(with_block(id_key=b"x" * 48), id_key_digest=ID_KEY))] == ["identity"]
    found = failed(run(with_block(), id_key_digest=ID_KEY, author_key_digest=b"x" * 48))
    assert [*found] == ["identity"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"svn": 2}, "guest SVN is 2; expected 3"),
        ({"image": "gpu-cc"}, "family id is"),
        ({"version": "0.9"}, "image id is"),
    ],
)
def test_id_block_of_another_release_by_the_same_owner(change, words):
    found = failed(run(with_block(**change), id_key_digest=ID_KEY))
    assert [*found] == ["ID block"] and words in found["ID block"]


def test_author_key_without_an_id_key_cannot_be_demanded():
    with pytest.raises(FormatError, match="without the ID key"):
        policy(author_key_digest=AUTHOR_KEY)


# 16
def test_image_that_expects_gpus():
    """A report says nothing of them: an attacker could give the guest none, or others."""
    golden = signed(replace(GOLDEN, gpu=EXPECTED))
    found = failed(run(golden=golden))
    assert [*found] == ["GPUs"] and "judge the machine's evidence" in found["GPUs"]
    verdict = run(golden=golden, gpu=Unproven(reason="by its evidence"))
    assert verdict.passed and "NO GPU IS JUDGED" in verdict.warnings[0]


def test_json_has_the_contracts_shape():
    told = json.loads(json.dumps(launch_to_json(run())))
    assert told["verdict"] == "pass" and told["shape"] == LAUNCHES[1].name
    assert told["registers"]["launch_digest"]["equal"] is True
    assert told["registers"]["launch_digest"]["predicted"] == told["registers"]["launch_digest"]["observed"]


REPORT = report()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_reports_never_pass_and_never_raise(data):
    mutated = bytearray(REPORT)
    # Behind S of the signature the structure is reserved and signed by nobody; it must be zero.
    mutated[data.draw(st.integers(0, 0x2A0 + 143))] ^= data.draw(st.integers(1, 255))
    assert not run(bytes(mutated)).passed
