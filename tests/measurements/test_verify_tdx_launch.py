"""Which launch a trust domain is, checks 16 to 19: its values, and the log that explains them and must be honest."""

import copy
import hashlib
from dataclasses import replace

import layer_samples
import pytest
import tdx_recorded
from attester import Machine, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from tdx_verifying import SHA384, ZEROS, failed, own_quote, policy, run, run_own, with_release

from measurements.errors import FormatError
from measurements.events import Digest, EventType, RegisterPrediction, Stability, digests_of
from measurements.image_layer import ImageEvent, Slot
from measurements.policy import ALL_PINNED, Unproven
from measurements.prediction import FirmwareIdentity
from measurements.profile import profile_of
from measurements.tdx.mrtd import PageOrder
from measurements.verify.verdict import Status


def changed(imr, number, digest=b"evil"):
    """Return the log in which one event of a register has another digest."""
    records = copy.deepcopy(tdx_recorded.RECORDS)
    places = [at for at, item in enumerate(records) if item["imr"] == imr]
    records[places[number]]["digest"] = hashlib.sha384(digest).hexdigest()
    return records


def expecting(imr, number, **changes):
    """Return a document that expects another event there: what another image, disk or shape would have measured."""
    registers = list(tdx_recorded.reference().registers)
    registers[imr] = tdx_recorded.register(imr, records=changed(imr, number))
    return with_release(tdx_recorded.reference(registers=tuple(registers), **changes))


def not_pinned(index, reason="its ACPI tables are not known"):
    registers = list(tdx_recorded.reference().registers)
    registers[index] = RegisterPrediction(
        index=index, stability=Stability.NOT_PINNED, alternatives=(), reason=reason
    )
    return tuple(registers)


def layer_of(reference):
    """What the image of a trust domain decides: its event in RTMR1, and RTMR2."""
    plain = layer_samples.layer_of(Machine())
    (image,) = (
        event
        for event in reference.registers[1].alternatives[0].events
        if event.type is EventType.EFI_BOOT_SERVICES_APPLICATION
    )
    elsewhere = digests_of(b"not measured on this machine", plain.banks)
    told = ImageEvent(digests={**elsewhere, **image.digests}, data=image.data)
    return replace(plain, events={Slot.APPLICATION: told}, rtmrs=reference.registers[2:])


def rolled():
    """A release that knows other firmware alone, and a profile of the recorded one, on which another image ran."""
    genuine = tdx_recorded.reference()
    firmware = FirmwareIdentity.of("old", b"the firmware of yesterday")
    old = replace(
        genuine, firmware=firmware, mrtd=dict.fromkeys(PageOrder, Digest.of(SHA384, b"yesterday's"))
    )
    images = [at for at, item in enumerate(tdx_recorded.RECORDS) if item["imr"] == 1]
    kind = EventType.EFI_BOOT_SERVICES_APPLICATION
    number = next(n for n, at in enumerate(images) if tdx_recorded.RECORDS[at]["event_type"] == kind)
    registers = list(genuine.registers)
    registers[1] = tdx_recorded.register(1, records=changed(1, number, b"another image"))
    registers[2] = tdx_recorded.register(2, records=changed(2, 0, b"another command line"))
    theirs = replace(genuine, registers=tuple(registers))
    release = replace(tdx_recorded.release(old), image_layer=layer_of(genuine))
    return signed(release), (profile_of(layer_of(theirs), name="tdvf", tdx=[theirs]),), theirs


@pytest.mark.parametrize("event_log", [None, tdx_recorded.ccel()], ids=["registers-alone", "with-its-log"])
def test_firmware_of_a_profile_passes_and_without_it_does_not(event_log):
    """A quote that hardware signed, of firmware that the release does not know."""
    golden, profiles, _ = rolled()
    assert "launch shape" in failed(run(golden=golden, event_log=event_log))
    verdict = run(golden=golden, profiles=profiles, event_log=event_log)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert verdict.shape == "qemu-tdx/unpublished/direct/8-vcpus/65536-mib"
    assert any(f"{verdict.shape}, by the verifier's profile tdvf" in check.detail for check in verdict.checks)


def test_a_profile_does_not_bring_its_authors_image():
    """The quote is of the release's image; under a release of the author's image the same profile refuses it."""
    _, profiles, theirs = rolled()
    other = signed(replace(tdx_recorded.release(), tdx=(), image_layer=layer_of(theirs)))
    assert {"launch shape", "registers"} <= set(failed(run(golden=other, profiles=profiles)))


def test_register_that_the_document_does_not_pin_is_a_warning():
    golden = with_release(tdx_recorded.reference(registers=not_pinned(0)))
    verdict = run(golden=golden)
    assert verdict.passed and "RTMR0 (its ACPI tables are not known)" in verdict.warnings[0]
    zero = next(item for item in verdict.values if item.name == "rtmr0")
    assert (zero.pinned, zero.predicted, zero.reason) == (False, (), "its ACPI tables are not known")


def test_verifier_that_does_not_control_the_vm_shape():
    golden = expecting(0, 8)
    assert {"registers", "launch shape"} == set(failed(run(golden=golden)))
    verdict = run(golden=golden, pin=ALL_PINNED - {Stability.VM_SHAPE})
    assert verdict.passed and "leaves out registers of kind vm-shape" in verdict.warnings[0]


# 16, 18: values
@pytest.mark.parametrize(
    ("rtmr", "name", "words"),
    [
        (0, "RTMR0", "another memory size, device, VMM, firmware or Secure Boot key"),
        (1, "RTMR1", "another image, disk, or course of the boot"),
        (2, "RTMR2", "another UKI section, command line or initrd"),
    ],
)
def test_another_image_or_shape(rtmr, name, words):
    verdict = run_own(own_quote(rtmr={rtmr: b"e" * 48}))
    found = failed(verdict)
    assert [*found] == ["registers", "launch shape"]
    assert f"{name} differs ({words})" in found["launch shape"]
    wrong = [item for item in verdict.values if item.pinned and not item.equal]
    assert [item.name for item in wrong] == [name.lower()] and words in wrong[0].reason


def test_another_firmware():
    found = failed(run_own(own_quote(mrtd=b"f" * 48)))
    assert "MRTD differs (another firmware file)" in found["launch shape"]


def test_application_that_extended_rtmr3():
    found = failed(run(rtmr3=frozenset({ZEROS})))
    assert [*found] == ["registers"] and "RTMR3 is 74c3f1e6" in found["registers"]
    assert run(rtmr3=Unproven(reason="applications extend it")).passed


def test_values_of_two_launches_are_no_launch():
    """Each register is acceptable for some launch, but no launch has both: another command line on another kernel."""
    one, two = (list(tdx_recorded.reference().registers) for _ in range(2))
    one[1] = tdx_recorded.register(1, records=changed(1, 0))
    two[2] = tdx_recorded.register(2, records=changed(2, 0))
    golden = with_release(
        tdx_recorded.reference(registers=tuple(one), vcpus=1),
        tdx_recorded.reference(registers=tuple(two), vcpus=2),
    )
    found = failed(run(golden=golden))
    assert [*found] == ["launch shape"]


def test_launch_that_pins_nothing_of_the_image():
    for index in (1, 2):
        golden = with_release(tdx_recorded.reference(registers=not_pinned(index)))
        found = failed(run(golden=golden))
        assert [*found] == ["launch shape"] and f"does not pin RTMR{index}" in found["launch shape"]
    with pytest.raises(FormatError, match="image"):
        policy(pin=ALL_PINNED - {Stability.IMAGE})


def test_release_that_has_no_trust_domain():
    golden = signed(replace(tdx_recorded.release(), tdx=()))
    assert "has no trust domain" in failed(run(golden=golden))["launch shape"]
    assert "has no trust domain 'other'" in failed(run(shape="other"))["launch shape"]


def test_either_page_order_is_named():
    mrtd = {PageOrder.ONE_PASS: Digest(SHA384, ZEROS), PageOrder.TWO_PASS: tdx_recorded.MRTD}
    verdict = run(golden=with_release(tdx_recorded.reference(mrtd=mrtd)))
    assert verdict.passed and "MRTD in two pass" in verdict.checks[17].detail


# 17, 19: the log explains, and must be honest
LOG = tdx_recorded.ccel()


@pytest.mark.parametrize(
    ("imr", "number", "words"),
    [
        (0, 0, "RTMR0: memory size differs"),
        (0, 8, "RTMR0: VM shape differs"),
        (1, 0, "RTMR1: uki differs"),
        (2, 0, "RTMR2: command line differs"),
        (2, 1, "RTMR2: initrd differs"),
    ],
)
def test_log_names_the_event_that_differs(imr, number, words):
    verdict = run(golden=expecting(imr, number), event_log=LOG)
    found = failed(verdict)
    assert {"registers", "launch shape", "events"} == set(found)
    assert words in found["launch shape"] and words in found["events"]
    assert words in next(item.reason for item in verdict.values if item.name == f"rtmr{imr}")


def test_log_that_was_edited():
    edited = tdx_recorded.ccel(changed(2, 0))
    found = failed(run(event_log=edited))
    assert [*found] == ["event log"] and "does not fold to the quoted RTMR2" in found["event log"]


def test_log_with_an_event_left_out():
    records = [item for at, item in enumerate(tdx_recorded.RECORDS) if at != 3]
    assert "RTMR0" in failed(run(event_log=tdx_recorded.ccel(records)))["event log"]


@pytest.mark.parametrize("log", [b"", b"\xff" * 64, b"junk" * 100])
def test_log_that_is_junk(log):
    assert "event log" in failed(run(event_log=log))


def test_log_that_extends_mrtd():
    records = [{"imr": -1, "event_type": 4, "digest": "00" * 48, "event_payload": ""}]
    assert "which nothing can extend" in failed(run(event_log=tdx_recorded.ccel(records)))["event log"]


def test_log_tells_memory_sizes_apart_that_no_register_pins():
    """Without RTMR0 both launches fit; the log shows which, and a third size is refused."""
    other = Digest(SHA384, hashlib.sha384(b"32 GiB").digest())
    large = tdx_recorded.reference(registers=not_pinned(0))
    small = replace(large, memory_mib=32768, td_hob=other)
    golden = with_release(small, large)
    assert "its pinned registers are also those of" in run(golden=golden).checks[17].detail
    verdict = run(golden=golden, event_log=LOG)
    assert verdict.passed and verdict.shape == large.name
    found = failed(run(golden=with_release(small), event_log=LOG))
    assert "TD HOB differs (another memory size)" in found["launch shape"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_logs_never_raise_and_never_hide_an_event(data):
    mutated = bytearray(LOG)
    mutated[data.draw(st.integers(0, len(LOG) - 1))] ^= data.draw(st.integers(1, 255))
    verdict = run(event_log=bytes(mutated))
    assert {check.name for check in verdict.checks if check.status is Status.FAILED} <= {
        "event log",
        "events",
    }
