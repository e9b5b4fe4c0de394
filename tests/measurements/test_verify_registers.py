"""Attacks that checks 12 to 14 are there for; each verdict names the part."""

import json
from dataclasses import replace

import pytest
from attester import (
    Machine,
    document,
    other_shape,
    policy,
    prediction,
    record,
    signed,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from verifying import ENVELOPE, failed, run

from measurements import evidence as evidence_file
from measurements.errors import FormatError
from measurements.events import EventType, Stability
from measurements.verify import Status, to_json, verify


# 12
def test_shape_that_the_document_does_not_have():
    verdict = run(shape="azure/unknown")
    assert "no launch shape 'azure/unknown'" in failed(verdict)[12]
    assert [check.status for check in verdict.checks[12:14]] == [Status.SKIPPED, Status.SKIPPED]


def test_machine_that_fits_no_shape():
    machine = Machine()
    machine.change(machine.find(1, EventType.PLATFORM_CONFIG_FLAGS, 1), b"ACPI tables of eight processors")
    found = failed(run(machine))
    assert "no launch shape fits" in found[12]
    assert "VM shape differs" in found[13]


def sealed(value):
    return replace(value, shape=replace(value.shape, secure_boot=True))


def test_host_that_starts_a_sealed_release_without_secure_boot():
    """Its document allows that too: only the policy refuses it."""
    both = signed(document(prediction(), sealed(other_shape())))
    assert run(envelope=both).passed
    found = failed(run(envelope=both, secure_boot=True))
    assert "no launch shape fits" in found[12] and "/secure-boot" in found[12]
    assert 13 in found
    found = failed(run(envelope=both, secure_boot=True, shape=prediction().shape.name))
    assert "without Secure Boot" in found[12]
    found = failed(run(secure_boot=True))
    assert "the release is not sealed" in found[12]


def test_machine_with_secure_boot_where_it_is_wanted():
    envelope = signed(document(other_shape(), sealed(prediction())))
    verdict = run(envelope=envelope, secure_boot=True)
    assert verdict.passed, verdict.failures
    assert verdict.shape.endswith("/secure-boot")


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
