"""Explanations on real logs: which input moved, in words that a person can act on."""

import struct
from dataclasses import replace

import pytest
from attester import BANKS, VECTORS, Machine, prediction, record, write_log, write_userspace
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.events import Digest, EventType, HashAlgorithm
from measurements.evidence import parse_userspace_log
from measurements.explain import Kind, describe, explain, observe
from measurements.explain.differences import MAX_EXPLANATIONS
from measurements.formats import efivar, eventlog

SHA256 = HashAlgorithm.SHA256
GOLDEN = prediction()


def see(machine):
    log = eventlog.parse(write_log(machine.records))
    return observe(log, parse_userspace_log(write_userspace(machine.words)))


def why(register, machine, bank=SHA256):
    return explain(GOLDEN.register(register), see(machine).of(register), bank)


@pytest.mark.parametrize("bank", BANKS)
def test_nothing_to_explain_on_an_honest_machine(bank):
    observation = see(Machine())
    for register in GOLDEN.registers:
        assert explain(register, observation.of(register.index), bank) == ()
        assert observation.fold(register.index, bank) == Machine().values(bank)[register.index]


@pytest.mark.parametrize("name", ["qemu-ovmf-2025.02", "qemu-ovmf-2026.08", "qemu-ovmf-2026.08-secure-boot"])
def test_every_event_of_real_logs_can_be_read(name):
    # tests/vectors/README.md
    observation = observe(eventlog.parse((VECTORS / "eventlog" / f"{name}.bin").read_bytes()))
    texts = [event.text for event in observation.events]
    assert not any("do not follow" in text for text in texts)
    assert all(text.isprintable() for text in texts)
    assert any("'ESP' 2048-67583" in text for text in texts)
    assert any("\\EFI\\BOOT\\BOOTX64.EFI" in text for text in texts)
    assert any(text.endswith("'.cmdline'") for text in texts)
    state = "on" if "secure-boot" in name else "absent"  # the variable is measured, and empty
    assert any(text.endswith(f"SecureBoot = {state}") for text in texts)


def test_differing_event_names_input_and_both_digests():
    machine = Machine()
    machine.change(machine.find(11, EventType.IPL, 7), b"evil initrd")
    (found,) = why(11, machine)
    assert (found.kind, found.cause, found.position) == (Kind.DIFFERS, "uki .initrd", 7)
    assert found.measured == Digest.of(SHA256, b"evil initrd").hex()
    assert found.predicted == GOLDEN.register(11).alternatives[0].events[7].digest(SHA256).hex()
    assert str(found).startswith("PCR 11: uki .initrd differs: event 'IPL' is predicted as sha256")


def test_missing_event():
    machine = Machine()
    del machine.records[machine.find(9, EventType.EVENT_TAG, 1)]
    (found,) = why(9, machine)
    assert (found.kind, found.cause, found.measured) == (Kind.MISSING, "uki .initrd", None)
    assert "uki .initrd was not measured" in found.text


def test_extra_event_in_the_middle_is_alone():
    machine = Machine()
    at = machine.find(11, EventType.IPL, 4)
    machine.records.insert(at, record(11, EventType.IPL, b"x", ".ucode\0".encode("utf-16-le")))
    (found,) = why(11, machine)
    assert (found.kind, found.position, found.predicted) == (Kind.EXTRA, 4, None)
    assert "'.ucode'" in found.text


def test_register_that_was_to_stay_zero():
    machine = Machine()
    machine.records.append(record(12, EventType.IPL, "init=/bin/sh\0".encode("utf-16-le")))
    (found,) = why(12, machine)
    assert "'init=/bin/sh'" in found.text
    assert found.cause.startswith("a command line injected at boot")


def test_the_nearest_alternative_is_compared():
    machine = Machine()
    action = machine.records[machine.find(5, EventType.EFI_ACTION, 1)]
    machine.records += [action, action]  # one more than the second alternative has
    (found,) = why(5, machine)
    assert (found.kind, found.cause) == (Kind.EXTRA, "another course of ExitBootServices")


def test_early_phase_is_named():
    machine = Machine(words=[(11, "enter-initrd")])
    (found,) = why(11, machine)
    assert found.kind is Kind.PHASE
    assert "boot phase 'enter-initrd'" in found.text


def test_wrong_kernel_at_an_early_phase_is_not_called_a_phase():
    machine = Machine(words=[(11, "enter-initrd")])
    machine.change(machine.find(11, EventType.IPL, 1), b"evil")
    assert why(11, machine)[0].cause == "uki .linux"


def gpt_event(edit):
    machine = Machine()
    at = machine.find(5, EventType.EFI_GPT_EVENT)
    data = bytearray(machine.records[at].data)
    edit(data)
    machine.change(at, bytes(data), bytes(data))
    return why(5, machine)[0].text


def test_gpt_difference_names_the_partition():
    # UEFI 2.10, table 5.6: LastLBA at 40 of an entry; entries start at 100 of UEFI_GPT_DATA, 128 each
    assert "partition 2: last_lba is 131039, predicted 131038" in gpt_event(
        lambda data: struct.pack_into("<Q", data, 100 + 128 + 40, 131039)
    )
    # table 5.5: AlternateLBA at 32 of the header: a grown disk
    assert "the disk ends at block 777, predicted" in gpt_event(
        lambda data: struct.pack_into("<Q", data, 32, 777)
    )
    assert "only other header fields or a checksum" in gpt_event(
        lambda data: struct.pack_into("<I", data, 16, 777)
    )


def test_secure_boot_state_is_spelled_out():
    machine = Machine()
    at = machine.find(7, EventType.EFI_VARIABLE_DRIVER_CONFIG)
    data = efivar.Variable(guid=efivar.GLOBAL_VARIABLE, name="SecureBoot", data=b"\1").encode()
    machine.change(at, data, data)
    (found,) = why(7, machine)
    assert "SecureBoot = on" in found.text
    assert "predicted was EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot = absent" in found.text


@pytest.mark.parametrize(
    ("register", "kind", "data", "cause"),
    [
        (4, EventType.EFI_ACTION, b"Returning from EFI Application from Boot Option", "another boot option ran"),
        (5, EventType.EFI_GPT_EVENT, b"", "disk GPT of another disk"),
        (7, EventType.EFI_VARIABLE_AUTHORITY, b"", "Secure Boot state"),
        (0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), "firmware"),
        (1, EventType.PLATFORM_CONFIG_FLAGS, b"ACPI DATA\0", "VM shape"),
        (2, EventType.EFI_BOOT_SERVICES_DRIVER, b"", "an option ROM"),
        (12, EventType.EVENT_TAG, struct.pack("<II", 0x13AED6DB, 4) + b"1\0\0\0", "another UKI profile"),
        (12, EventType.IPL, "Configuration extension initrd\0".encode("utf-16-le"), "a configuration extension"),
        (13, EventType.IPL, "System extension initrd\0".encode("utf-16-le"), "a system extension"),
        (8, EventType.IPL, b"grub_cmd: ls\0", "a boot loader that measures"),
        (14, EventType.IPL, b"MokList\0", "shim"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_extra_events_name_what_brings_them(register, kind, data, cause):
    machine = Machine()
    machine.records.append(record(register, kind, b"something", data))
    assert why(register, machine)[-1].cause.startswith(cause)


def test_words_that_userspace_does_not_prove_are_marked():
    (honest,) = observe(
        eventlog.parse(write_log(Machine().records)), parse_userspace_log(write_userspace([(11, "ready")]))
    ).events[-1:]
    assert honest.text == "userspace phase 'ready'"
    (record_,) = parse_userspace_log(write_userspace([(11, "ready")]))
    lie = replace(record_, text="innocent")
    event = observe(eventlog.parse(write_log(Machine().records)), [lie]).events[-1]
    assert "does not prove it" in event.text


def test_text_cannot_steer_a_terminal():
    data = "\x1b[2Jok\u202e\r\n\0".encode("utf-16-le")
    text = describe(EventType.IPL, data)
    assert text.isprintable()
    assert "ok" in text


def test_startup_locality_moves_the_start_of_pcr_0_only():
    observation = replace(see(Machine()), startup_locality=3)
    assert observation.start(0, SHA256).value == bytes(31) + b"\3"
    assert observation.start(1, SHA256).value == bytes(32)
    assert observation.start(17, SHA256).value == b"\xff" * 32


def test_ccel_is_no_tpm_log():
    log = eventlog.parse(write_log(Machine().records))
    with pytest.raises(FormatError, match="CCEL"):
        observe(replace(log, kind=eventlog.LogKind.CCEL))


def test_thousands_of_foreign_events_stay_bounded():
    events = [record(4, EventType.EFI_ACTION, bytes([number % 7]), b"x") for number in range(3000)]
    found = why(4, Machine(records=events))
    assert len(found) == MAX_EXPLANATIONS


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.sampled_from([*EventType, 0x1234]), st.binary(max_size=200))
def test_any_data_can_be_described(kind, data):
    assert describe(kind, data).isprintable()


REAL = {item.type: item.data for item in Machine().records}


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_data_can_be_described(data):
    kind = data.draw(st.sampled_from(sorted(REAL)))
    mutated = bytearray(REAL[kind])
    if mutated:
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    assert describe(kind, bytes(mutated)).isprintable()
