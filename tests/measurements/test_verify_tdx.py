"""TDX quotes against a golden document: one that hardware signed passes, and each check refuses its attack."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import tdx_quotes
import tdx_recorded
from attester import SIGNING_KEY, signed
from gpu_evidence import EXPECTED
from hypothesis import given, settings
from hypothesis import strategies as st
from tdx_verifying import failed, own_quote, run, run_own

from measurements import envelope, keys
from measurements.policy import Unproven
from measurements.tdx import intel
from measurements.verify.release import launch_to_json
from measurements.verify.verdict import Status


@pytest.mark.parametrize("event_log", [None, tdx_recorded.ccel()], ids=["registers-alone", "with-its-log"])
def test_quote_of_a_real_machine(event_log):
    verdict = run(event_log=event_log)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert [check.number for check in verdict.checks] == [*range(1, 21)]
    assert verdict.shape == "qemu-tdx/unpublished/direct/8-vcpus/65536-mib"
    assert [(item.name, item.equal, item.pinned) for item in verdict.values] == [
        (name, True, True) for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    ]


# 1 to 3
def test_document_signed_by_a_stranger():
    stranger = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    verdict = run(golden=envelope.sign_document(tdx_recorded.release(), [stranger]))
    assert [*failed(verdict)] == ["document signatures"]
    assert verdict.checks[17].status is Status.SKIPPED and not verdict.values


def test_one_signature_where_two_are_demanded():
    other = keys.generate(keys.KeyAlgorithm.ED25519).public()
    assert "document signatures" in failed(run(signers=(SIGNING_KEY.public(), other), threshold=2))


@pytest.mark.parametrize("golden", [b"", b"{}", b"\xff" * 100])
def test_document_that_is_junk(golden):
    assert "document signatures" in failed(run(golden=golden))


def test_rollback_to_a_version_below_the_floor():
    assert [*failed(run(svn=4))] == ["validity"]


def test_document_of_another_image_signed_by_the_same_key():
    assert [*failed(run(image="gpu-cc"))] == ["validity"]


# 4
@pytest.mark.parametrize("quote", [b"", bytes(5000), tdx_recorded.QUOTE[:-600]])
def test_quote_that_is_junk(quote):
    verdict = run(quote)
    assert [*failed(verdict)] == ["structure"] and verdict.checks[17].status is Status.SKIPPED


# 5 to 13: the chain of trust, with quotes of a platform of our own
def test_platform_of_our_own_passes():
    verdict = run_own()
    assert verdict.passed, verdict.failures


ATTACKS = {
    "roots_that_nobody_trusts": (None, {"roots": (intel.sgx_root_ca(),)}, "certificates"),
    "expired_collateral": (None, {"now": tdx_quotes.NOW + timedelta(days=60)}, "collateral"),
    "quoting_enclave_that_the_machine_did_not_certify": (own_quote(pck="authority"), {}, "QE report"),
    "attestation_key_of_another_enclave": (own_quote(bound_key="other"), {}, "attestation key"),
    "body_that_the_key_did_not_sign": (own_quote(signing_key="other"), {}, "signature"),
    "enclave_that_is_not_intels": (own_quote(enclave={"signer": bytes(32)}), {}, "QE identity"),
    "module_that_is_not_intels": (own_quote(signer=b"x" * 48), {}, "TDX module"),
    "module_that_is_out_of_date": (own_quote(svn=bytes([3, 0, *([1] * 14)])), {}, "TCB status"),
    "debug_mode": (own_quote(attributes=1 << 28 | 1), {}, "attributes"),
    "features_that_were_not_allowed": (own_quote(xfam=0x600E7), {}, "attributes"),
    "old_quote": (own_quote(report_data=bytes(64)), {}, "report data"),
    "another_owner": (own_quote(mrowner=b"x" * 48), {}, "registers"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_on_the_quote(attack):
    quote, demands, check = ATTACKS[attack]
    assert check in failed(run_own(quote, **demands))


def test_certificate_that_intel_revoked():
    revoked = tdx_quotes.Platform(revoked=("pck",))
    assert "revocation" in failed(run_own(own_quote(revoked), platform=revoked))


def test_without_collateral_the_verdict_says_so():
    verdict = run(tcb=Unproven(reason="not fetched"))
    assert verdict.passed and any("collateral" in line for line in verdict.warnings)


# 20
def test_image_that_expects_gpus():
    golden = signed(replace(tdx_recorded.release(), gpu=EXPECTED))
    assert [*failed(run(golden=golden))] == ["GPUs"]
    verdict = run(golden=golden, gpu=Unproven(reason="by its evidence"))
    assert verdict.passed and "NO GPU IS JUDGED" in verdict.warnings[0]


def test_json_has_the_contracts_shape():
    told = json.loads(json.dumps(launch_to_json(run())))
    assert told["verdict"] == "pass"
    assert set(told["registers"]) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert told["registers"]["rtmr1"]["predicted"] == told["registers"]["rtmr1"]["observed"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_quotes_never_pass_and_never_raise(data):
    mutated = bytearray(tdx_recorded.QUOTE)
    position = data.draw(st.integers(0, 48 + 584 + 4 + 64 + 64 - 1))
    mutated[position] ^= data.draw(st.integers(1, 255))
    assert not run(bytes(mutated)).passed
