"""One test per check that passes, and one per attack that the check is there for."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from attester import (
    AK,
    NONCE,
    NOW,
    OTHER_AK,
    SIGNING_KEY,
    VECTORS,
    Machine,
    document,
    other_shape,
    policy,
    prediction,
    public_pem,
    record,
    sign_attest,
    signed,
    write_attest,
    write_log,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import evidence as evidence_file
from measurements import keys
from measurements.attestation_key import load_attestation_key
from measurements.envelope import sign_document
from measurements.errors import FormatError
from measurements.events import EventType, HashAlgorithm, Stability
from measurements.policy import CertificateChain, ExpectedNonce, PinnedKey, Unproven
from measurements.verify import CHECKS, Status, to_json, verify

ENVELOPE = signed()


def run(machine=None, *, envelope=ENVELOPE, edit=None, evidence=None, **demands):
    value = evidence or (machine or Machine()).evidence()
    if edit is not None:
        edit(value)
    return verify(envelope, json.dumps(value).encode(), policy(**demands))


def failed(verdict) -> dict[int, str]:
    assert not verdict.passed
    return {check.number: check.detail for check in verdict.checks if check.status is Status.FAILED}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_honest_machine_passes():
    verdict = run()
    assert verdict.passed, verdict.failures
    assert verdict.warnings == ()
    assert verdict.shape == prediction().shape.name
    assert [check.number for check in verdict.checks] == list(range(1, 15)) == list(range(1, len(CHECKS) + 1))
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


def certificate(subject, key, issuer, issuer_key, *, ca=False, days=(-1, 1), usage=None, path_length=None):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(value):
    from cryptography.hazmat.primitives.serialization import Encoding

    return value.public_bytes(Encoding.PEM).decode()


ROOT_KEY, MIDDLE_KEY = ec.derive_private_key(11, ec.SECP384R1()), ec.derive_private_key(12, ec.SECP256R1())
ROOT = certificate("root", ROOT_KEY, "root", ROOT_KEY, ca=True)
MIDDLE = certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True)
LEAF = certificate("ak", AK, "middle", MIDDLE_KEY)


def run_chain(*certificates, roots=(ROOT,), now=NOW):
    def add(value):
        value["attestation_key"]["certificates"] = [pem(item) for item in certificates]

    return run(edit=add, attestation_key=CertificateChain(roots=roots, now=now))


def test_certified_key_passes_with_and_without_the_root_in_the_chain():
    for chain in ((LEAF, MIDDLE), (LEAF, MIDDLE, ROOT)):
        verdict = run_chain(*chain)
        assert verdict.passed, verdict.failures
    direct = certificate("ak", AK, "root", ROOT_KEY)
    assert run_chain(direct).passed


CHAIN_ATTACKS = {
    "no_certificate": (),
    "intermediate_left_out": (LEAF,),
    "certificate_of_another_key": (certificate("ak", OTHER_AK, "middle", MIDDLE_KEY), MIDDLE),
    "self_signed": (certificate("ak", AK, "ak", AK),),
    "root_of_the_same_name": (LEAF, certificate("middle", MIDDLE_KEY, "root", OTHER_AK, ca=True)),
    "issuer_is_no_authority": (LEAF, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY)),
    "leaf_is_an_authority": (certificate("ak", AK, "middle", MIDDLE_KEY, ca=True), MIDDLE),
    "leaf_expired": (certificate("ak", AK, "middle", MIDDLE_KEY, days=(-9, -1)), MIDDLE),
    "intermediate_not_yet_valid": (
        LEAF, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True, days=(1, 2))),
    "leaf_must_not_sign": (
        certificate("ak", AK, "middle", MIDDLE_KEY, usage=x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=True,
            data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
            encipher_only=False, decipher_only=False)),
        MIDDLE,
    ),
    "unknown_critical_extension": (
        certificate("ak", AK, "middle", MIDDLE_KEY,
                    usage=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
        MIDDLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", CHAIN_ATTACKS)
def test_certificate_chain_attack(attack):
    assert list(failed(run_chain(*CHAIN_ATTACKS[attack]))) == [6]


def test_certificate_under_an_authority_that_may_not_have_any_below():
    root = certificate("root", ROOT_KEY, "root", ROOT_KEY, ca=True, path_length=0)
    assert "allows 0 authorities" in failed(run_chain(LEAF, MIDDLE, roots=(root,)))[6]


def test_certificate_of_a_stranger_root():
    stranger = certificate("root", OTHER_AK, "root", OTHER_AK, ca=True)
    assert list(failed(run_chain(LEAF, MIDDLE, roots=(stranger,)))) == [6]


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


# 12
def test_shape_that_the_document_does_not_have():
    verdict = run(shape="azure/unknown")
    assert "no launch shape 'azure/unknown'" in failed(verdict)[12]
    assert [check.status for check in verdict.checks[12:]] == [Status.SKIPPED, Status.SKIPPED]


def test_machine_that_fits_no_shape():
    machine = Machine()
    machine.change(machine.find(1, EventType.PLATFORM_CONFIG_FLAGS, 1), b"ACPI tables of eight processors")
    found = failed(run(machine))
    assert "no launch shape fits" in found[12]
    assert "VM shape differs" in found[13]


def test_verifier_that_does_not_control_the_vm_shape():
    machine = Machine()
    machine.change(machine.find(1, EventType.PLATFORM_CONFIG_FLAGS, 1), b"ACPI tables of eight processors")
    verdict = run(machine, pin=frozenset(Stability) - {Stability.NOT_PINNED, Stability.VM_SHAPE})
    assert verdict.passed, verdict.failures
    assert "leaves out PCR 1" in verdict.checks[12].detail
    one = next(item for item in verdict.registers if item.index == 1)
    assert (one.equal, one.pinned) == (False, False)
    assert "vm-shape" in one.reason


def test_policy_that_pins_nothing_cannot_be_made():
    for pin in (frozenset(), frozenset({Stability.NOT_PINNED})):
        with pytest.raises(FormatError):
            policy(pin=pin)


# 13: each names the part
def extra(register, kind, measured, data=None):
    machine = Machine()
    machine.records.append(record(register, kind, measured, data))
    return machine


def changed(register, kind, number, measured, data=None):
    machine = Machine()
    machine.change(machine.find(register, kind, number), measured, data)
    return machine


def wide(text):
    return text.encode("utf-16-le") + b"\0\0"


ATTACKS = {
    "root_replaced": (
        changed(11, EventType.IPL, 5, b"roothash=evil"), "PCR 11: uki .cmdline differs (the command line"),
    "initrd_replaced": (changed(11, EventType.IPL, 7, b"evil initrd"), "PCR 11: uki .initrd differs"),
    "kernel_replaced": (changed(11, EventType.IPL, 1, b"evil kernel"), "PCR 11: uki .linux differs"),
    "gpt_rewritten": (changed(5, EventType.EFI_GPT_EVENT, 0, b"evil", b"evil"), "PCR 5: disk GPT differs"),
    "firmware_replaced": (
        changed(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, 1, b"evil firmware"), "PCR 0: firmware differs"),
    "debug_image_with_a_console": (
        extra(12, EventType.IPL, wide("console=ttyS0 systemd.debug-shell")),
        "PCR 12: a command line injected at boot (by an add-on such as a debug image's"),
    "credential_injected": (
        extra(12, EventType.IPL, b"cpio", wide("Credentials initrd")),
        "PCR 12: credentials injected from the ESP"),
    "system_extension_injected": (
        extra(13, EventType.IPL, b"cpio", wide("System extension initrd")),
        "PCR 13: a system extension injected from the ESP"),
    "phase_not_reached": (
        Machine(words=[(11, word) for word in ("enter-initrd", "leave-initrd", "sysinit")]),
        "PCR 11: the machine stands at boot phase 'sysinit'"),
    "phase_faked": (
        Machine(words=[(11, word) for word in ("enter-initrd", "leave-initrd", "sysinit", "ready", "final")]),
        "PCR 11: a boot phase that the prediction does not reach"),
    "secure_boot_turned_on": (
        changed(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, 0, b"x" * 3, b"x" * 3),
        "PCR 7: Secure Boot state differs"),
    "another_boot_loader_first": (
        extra(4, EventType.EFI_BOOT_SERVICES_APPLICATION, b"evil.efi", b""),
        "PCR 4: another program was started before the image"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_named(attack):
    machine, message = ATTACKS[attack]
    found = failed(run(machine))
    assert message in found[13]
    assert 14 in found
    # evidence itself is sound, except that made-up words are also caught as such
    assert set(found) <= {11, 12, 13, 14}


def test_values_mixed_from_two_alternatives():
    """PCR 5 as one alternative has it in SHA-256 and as the other has it in SHA-384 is no alternative."""
    once, twice = Machine(), Machine()
    twice.records.append(twice.records[twice.find(5, EventType.EFI_ACTION, 1)])
    value = once.evidence()
    value["quotes"][2] = twice.evidence()["quotes"][2]
    found = failed(run(evidence=value))
    assert {11, 13} <= set(found)


# 14
def test_events_in_another_order_do_not_pass():
    machine = Machine()
    first, second = machine.find(9, EventType.EVENT_TAG, 0), machine.find(9, EventType.EVENT_TAG, 1)
    machine.records[first], machine.records[second] = machine.records[second], machine.records[first]
    assert {13, 14} <= set(failed(run(machine)))


def test_register_verdicts_say_why():
    verdict = run(ATTACKS["initrd_replaced"][0])
    wrong = {
        item.index: item
        for item in verdict.registers
        if item.bank == "sha256" and item.pinned and not item.equal
    }
    assert set(wrong) == {11}
    assert wrong[11].reason.startswith("uki .initrd differs")
    assert wrong[11].observed not in wrong[11].predicted


def test_json_has_the_contracts_shape():
    value = json.loads(json.dumps(to_json(run())))
    assert value["verdict"] == "pass"
    assert set(value["registers"]) == {"sha1", "sha256", "sha384"}
    registers = value["registers"]["sha256"]
    assert set(registers) == {str(index) for index in range(16)}
    assert isinstance(registers["11"]["predicted"], str)
    assert isinstance(registers["5"]["predicted"], list)
    assert registers["15"]["predicted"] is None
    assert registers["15"]["reason"] == "differs per instance"
    assert registers["11"]["equal"] is True


def test_a_skipped_check_never_passes():
    verdict = run(envelope=b"junk")
    assert not verdict.passed
    assert {check.status for check in verdict.checks if check.number in (12, 13, 14)} == {Status.SKIPPED}


EVIDENCE = json.dumps(Machine().evidence()).encode()


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_evidence_never_escapes_and_never_passes_unless_it_means_the_same(data):
    mutated = bytearray(EVIDENCE)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(32, 126))
    verdict = verify(ENVELOPE, bytes(mutated), policy())
    if verdict.passed:
        found, honest = evidence_file.parse(bytes(mutated)), evidence_file.parse(EVIDENCE)
        assert found.nonce == honest.nonce
        assert [quote.registers for quote in found.quotes] == [quote.registers for quote in honest.quotes]
