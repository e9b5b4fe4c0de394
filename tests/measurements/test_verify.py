"""One test per check that passes, and one per attack that the check is there for: checks 1 to 11."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from attester import (
    NONCE,
    OTHER_AK,
    SIGNING_KEY,
    VECTORS,
    Machine,
    document,
    other_shape,
    policy,
    prediction,
    public_pem,
    sign_attest,
    write_attest,
    write_log,
)
from verifying import ENVELOPE, encode, failed, run

from measurements import evidence as evidence_file
from measurements import keys
from measurements.attestation_key import load_attestation_key
from measurements.envelope import sign_document
from measurements.events import EventType, HashAlgorithm
from measurements.policy import ExpectedNonce, PinnedKey, Unproven
from measurements.verify import CHECKS, verify


def test_honest_machine_passes():
    verdict = run()
    assert verdict.passed, verdict.failures
    assert verdict.warnings == ()
    assert verdict.shape == prediction().shape.name
    assert [check.number for check in verdict.checks] == list(range(1, 17)) == list(range(1, len(CHECKS) + 1))
    assert all(item.equal for item in verdict.registers if item.pinned)
    assert len(verdict.registers) == 3 * 16


@pytest.mark.parametrize("path", sorted((VECTORS / "quote").glob("swtpm-*.json")), ids=lambda path: path.stem)
def test_quotes_of_a_real_tpm_pass(path):
    key = load_attestation_key(evidence_file.parse(path.read_bytes()).attestation_key)
    verdict = verify(ENVELOPE, path.read_bytes(), policy(attestation_key=PinnedKey(key=key)))
    assert verdict.passed, verdict.failures


def test_the_other_shape_is_recognised():
    machine = Machine()
    machine.change(machine.find(1, EventType.PLATFORM_CONFIG_FLAGS, 1), b"ACPI tables of four processors")
    assert run(machine).shape == other_shape().shape.name
    assert "PCR 1" in failed(run(machine, shape=prediction().shape.name))[13]


def test_an_acceptable_alternative_passes():
    machine = Machine()
    machine.records.append(machine.records[machine.find(5, EventType.EFI_ACTION, 1)])
    verdict = run(machine)
    assert verdict.passed, verdict.failures


# 1
def test_document_signed_by_a_stranger():
    stranger = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    assert 1 in failed(run(envelope=sign_document(document(), [stranger])))


def test_one_signature_where_two_are_demanded():
    other = keys.generate(keys.KeyAlgorithm.ED25519)
    assert 1 in failed(run(signers=(SIGNING_KEY.public(), other.public()), threshold=2))


# 2
def test_signed_bytes_that_are_no_golden_document():
    from measurements.envelope import PAYLOAD_TYPE, pre_authentication_encoding

    body = b'{"_type":"https://in-toto.io/Statement/v1"}'
    signature = SIGNING_KEY.sign(pre_authentication_encoding(PAYLOAD_TYPE, body))
    value = {
        "payload": encode(body),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": encode(signature)}],
    }
    verdict = run(envelope=json.dumps(value).encode())
    assert list(failed(verdict)) == [2]
    assert verdict.registers == ()


# 3
@pytest.mark.parametrize("moment", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)])
def test_document_outside_its_validity(moment):
    assert list(failed(run(now=moment))) == [3]


def test_rollback_to_a_version_below_the_floor():
    assert "SVN 3 is below the floor 4" in failed(run(minimum_svn=4))[3]


def test_document_of_another_image_signed_by_the_same_key():
    assert list(failed(run(image="gpu"))) == [3]
    assert run(image="base").passed


def test_without_a_time_the_verdict_says_so():
    verdict = run(now=None)
    assert verdict.passed
    assert "gives no time" in verdict.warnings[0]


# 4
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_evidence_that_is_junk(data):
    assert 4 in failed(verify(ENVELOPE, data, policy()))


# 5
def test_replayed_evidence():
    assert set(failed(run(nonce=ExpectedNonce(value=b"another nonce 16")))) == {5, 8}


def test_unproven_freshness_is_a_warning_and_needs_a_reason():
    verdict = run(nonce=Unproven(reason="archived evidence"))
    assert verdict.passed
    assert "archived evidence" in verdict.warnings[0]


# 6
def test_quote_by_another_key_than_the_pinned_one():
    assert "not the pinned" in failed(run(Machine(key=OTHER_AK)))[6]


def test_key_swapped_in_the_evidence():
    def swap(value):
        value["attestation_key"]["public"] = public_pem(OTHER_AK)

    assert set(failed(run(edit=swap))) == {6, 7}


def test_unproven_key_is_a_warning():
    verdict = run(attestation_key=Unproven(reason="a software TPM"))
    assert verdict.passed
    assert "software" in verdict.warnings[0]


# 7
def test_structure_signed_by_the_key_that_no_tpm_generated():
    assert "TPM_GENERATED_VALUE" in failed(run(evidence=Machine().evidence(magic=0x12345678)))[7]


def test_certify_structure_passed_off_as_a_quote():
    assert "TPM_ST_ATTEST_QUOTE" in failed(run(evidence=Machine().evidence(kind=0x8017)))[7]


def test_quote_changed_after_signing():
    def flip(value):
        data = bytearray(base64.b64decode(value["quotes"][1]["attest"]))
        data[-1] ^= 1
        value["quotes"][1]["attest"] = encode(bytes(data))

    assert 7 in failed(run(edit=flip))


# 8
def test_old_quote_under_a_fresh_nonce():
    def relabel(value):
        value["nonce"] = NONCE.hex()

    verdict = run(evidence=Machine().evidence(nonce=b"an old nonce, 20 byt"), edit=relabel)
    assert list(failed(verdict)) == [8]


def test_quote_for_another_nonce_than_its_evidence_says_even_where_freshness_is_unproven():
    def relabel(value):
        value["nonce"] = "77" * 16

    assert list(failed(run(edit=relabel, nonce=Unproven(reason="test")))) == [8]


# 9
def test_quote_that_leaves_out_a_pinned_register():
    values = {index: value for index, value in Machine().values(HashAlgorithm.SHA256).items() if index != 12}
    message = write_attest(HashAlgorithm.SHA256, values)

    def cut(value):
        quote = value["quotes"][1]
        quote["attest"], quote["signature"] = encode(message), encode(sign_attest(message))
        del quote["pcrs"]["12"]

    found = failed(run(edit=cut))
    assert "leaves out the pinned PCR 12" in found[9]
    assert 10 not in found


def test_value_handed_in_that_the_quote_does_not_cover():
    verdict = run(evidence=Machine().evidence(registers=set(range(16)) - {12}))
    assert "covers PCR" in failed(verdict)[9]


def test_quote_of_one_bank_passed_off_as_another():
    verdict = run(evidence=Machine().evidence(selected_bank=HashAlgorithm.SHA512))
    assert "expected this bank" in failed(verdict)[9]


def test_sha1_alone_never_suffices():
    verdict = run(Machine(banks=(HashAlgorithm.SHA1,)))
    assert {9, 13} <= set(failed(verdict))


def test_one_strong_bank_suffices():
    assert run(Machine(banks=(HashAlgorithm.SHA384,))).passed


# 10
def test_values_that_were_not_quoted():
    evil = Machine()
    evil.words.append((12, "evil"))

    def lie(value):
        honest = Machine().evidence()
        for quote, wanted in zip(value["quotes"], honest["quotes"], strict=True):
            quote["pcrs"] = wanted["pcrs"]
        value["event_log"], value["userspace_log"] = honest["event_log"], honest["userspace_log"]

    assert list(failed(run(evil, edit=lie))) == [10]


# 11
def test_event_left_out_of_the_log():
    def cut(value):
        machine = Machine()
        del machine.records[machine.find(4, EventType.EFI_BOOT_SERVICES_APPLICATION)]
        value["event_log"] = encode(write_log(machine.records))

    found = failed(run(edit=cut))
    assert "do not fold to the quoted PCR 4" in found[11]
    assert 14 in found


def test_words_of_the_log_changed_under_an_honest_digest():
    def reword(value):
        machine = Machine()
        at = machine.find(5, EventType.EFI_ACTION)
        machine.records[at] = replace(machine.records[at], data=b"nothing happened")
        value["event_log"] = encode(write_log(machine.records))

    assert "contradicts itself in PCR 5" in failed(run(edit=reword))[11]


def test_userspace_log_left_out():
    def cut(value):
        value["userspace_log"] = None

    assert "quoted PCR 11" in failed(run(edit=cut))[11]


@pytest.mark.parametrize("log", [b"", b"\0" * 64, b"\xff" * 64, write_log(Machine().records)[:-3]])
def test_hostile_event_log(log):
    def put(value):
        value["event_log"] = encode(log)

    assert 11 in failed(run(edit=put))


def test_log_without_the_quoted_bank():
    def put(value):
        value["event_log"] = encode(write_log(Machine().records, (HashAlgorithm.SHA1, HashAlgorithm.SHA384)))

    assert "no sha256 digests" in failed(run(edit=put))[11]
