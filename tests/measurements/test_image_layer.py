"""The image layer against real boots: it knows neither firmware nor machine, and is the same in all of them."""

import json

import launch_samples as samples
import pytest

from measurements.errors import PredictionError
from measurements.events import ALL_BANKS, EventType, Stability
from measurements.formats import eventlog, gpt
from measurements.image_layer import EVENT_TYPES, ImageLayer, Slot, predict_image

FIRMWARE = ("2025.02", "2026.08")
MEASURED = json.loads((samples.VECTORS / "systemd/measure.json").read_text())
UKIS = json.loads((samples.VECTORS / "stubs/ukis.json").read_text())


def records(name, register, kind):
    log = eventlog.parse(samples.vector(f"{name}.eventlog.xz"))
    return [record for record in log.records if (record.register, record.type) == (register, kind)]


def layer_of(image=samples.UKI, *, disk="launches/disk-prefix.xz", **options) -> ImageLayer:
    table = gpt.parse(samples.vector(disk))
    return predict_image(image, disk=table, banks=ALL_BANKS, **options)


@pytest.mark.parametrize("boot", ["disk", "direct"])
@pytest.mark.parametrize("firmware", FIRMWARE)
def test_the_application_is_what_any_firmware_measured(firmware, boot):
    (seen,) = records(f"launches/{boot}-{firmware}", 4, EventType.EFI_BOOT_SERVICES_APPLICATION)
    told = layer_of().events[Slot.APPLICATION]
    assert told.digests == {bank: seen.digests[bank] for bank in ALL_BANKS}


@pytest.mark.parametrize("firmware", FIRMWARE)
def test_the_partition_table_is_what_any_firmware_measured(firmware):
    (seen,) = records(f"launches/disk-{firmware}", 5, EventType.EFI_GPT_EVENT)
    told = layer_of().events[Slot.PARTITION_TABLE]
    assert told.digests == {bank: seen.digests[bank] for bank in ALL_BANKS}
    assert told.data == seen.data


@pytest.mark.parametrize("firmware", FIRMWARE)
def test_the_authority_is_what_any_firmware_measured(firmware):
    (seen,) = records(f"launches/secure-boot-{firmware}", 7, EventType.EFI_VARIABLE_AUTHORITY)
    told = layer_of(
        samples.vector("launches/secure-boot-image.efi.xz"),
        disk="launches/secure-boot-disk-prefix.xz",
        variables=samples.vector(f"launches/secure-boot-{firmware}.vars.fd.xz"),
    ).events[Slot.AUTHORITY]
    assert told.digests == {bank: seen.digests[bank] for bank in ALL_BANKS}
    assert told.data == seen.data


def test_a_signature_that_the_keys_do_not_allow_makes_no_layer():
    variables = samples.vector("launches/secure-boot-2025.02.vars.fd.xz")
    with pytest.raises(PredictionError, match="would refuse the image"):
        layer_of(variables=variables)


def test_the_boot_phases_are_systemd_measures():
    register = layer_of().registers[11 - 8]
    courses = {course.label: course for course in (*register.alternatives, *register.phases)}
    for bank in ALL_BANKS:
        expected = MEASURED["sections"][bank.value]
        assert {label: courses[label].value(bank).hex() for label in expected} == expected


@pytest.mark.parametrize("name", UKIS)
def test_the_kernel_has_an_event_where_a_real_firmware_measured_it(name):
    seen = records(f"stubs/{name}", 4, EventType.EFI_BOOT_SERVICES_APPLICATION)
    assert (Slot.KERNEL in layer_of(_image(name)).events) is (len(seen) == 2)


@pytest.mark.parametrize("name", UKIS)
def test_command_line_and_initrd_are_those_of_real_boots_or_left_to_the_machine(name):
    register = layer_of(_image(name)).registers[9 - 8]
    if int(name.split(".")[0]) >= 261:
        # Its stub adds a secret of the machine from disk, where UEFI has random numbers.
        assert register.stability is Stability.NOT_PINNED
        return
    seen = records(f"stubs/{name}", 9, EventType.EVENT_TAG)
    (course,) = register.alternatives
    assert [event.digests for event in course.events] == [
        {bank: record.digests[bank] for bank in ALL_BANKS} for record in seen
    ]


def _image(name):
    kernel = samples.kernel(version=f"{UKIS[name]['kernel']}.0-test".encode())
    sections = [(each, bytes.fromhex(data)) for each, data in UKIS[name]["sections"].items()]
    return samples.uki([*sections, (".linux", kernel)], stub=int(name.split(".")[0]))


def test_what_is_no_unified_kernel_image_has_no_layer():
    for image in (samples.KERNEL, samples.pe_image([(".text", b"\xeb\xfe")])):
        with pytest.raises(PredictionError, match="one of a unified kernel image"):
            layer_of(image)


def test_an_image_without_disk_or_signature_has_neither_event():
    layer = predict_image(samples.UKI, disk=None)
    assert set(layer.events) == {Slot.APPLICATION, Slot.KERNEL}
    assert layer.registers[9 - 8] == layer_of_default_banks().registers[9 - 8]


def layer_of_default_banks():
    return predict_image(samples.UKI, disk=samples.disk())


def test_types_of_slots():
    """TCG PFP 1.06, table 27."""
    assert {slot: int(kind) for slot, kind in EVENT_TYPES.items()} == {
        Slot.APPLICATION: 0x80000003,
        Slot.KERNEL: 0x80000003,
        Slot.PARTITION_TABLE: 0x80000006,
        Slot.AUTHORITY: 0x800000E0,
    }
