"""Whole predictions: against logs of real launches, and in their JSON form."""

import json

import launch_samples as samples
import pytest
from firmware_files import RELEASES, ovmf_code

from measurements.errors import FormatError, PredictionError
from measurements.events import ALL_BANKS, DEFAULT_BANKS, EventType, HashAlgorithm, Stability
from measurements.formats import eventlog, gpt
from measurements.platforms.qemu import AcpiBlobs, VirtioBlk, VirtioNet
from measurements.predict import predict_tpm, prediction_to_json
from measurements.prediction import BootPath

SHA256 = HashAlgorithm.SHA256
#: The sample UKI's program is no stub: it loops, so nothing follows the event of the image itself.
UNTIL_THE_IMAGE = range(9)


def launch(release, name, **changes):
    values = {
        "firmware": ovmf_code(release),
        "boot": BootPath.DIRECT if name == "direct" else BootPath.DISK,
        "disk": gpt.parse(samples.vector("launches/disk-prefix.xz")),
        "acpi": samples.acpi("disk"),
        "smbios": samples.vector("launches/disk.etc-smbios-smbios-tables.xz"),
        "boot_devices": (VirtioBlk(slot=3),),
        "profiles": (),
        "banks": ALL_BANKS,
    } | changes
    log = eventlog.parse(samples.vector(f"launches/{name}-{release}.eventlog.xz"))
    return predict_tpm(samples.inputs(**values)), log


def assert_equal(prediction, log, index):
    predicted = [
        event
        for event in prediction.register(index).alternatives[0].events
        if not event.description.startswith("Exit Boot Services") and event.cause != "uki .linux"
    ]
    observed = [record for record in log.records if record.register == index and record.extends]
    assert [event.type for event in predicted] == [record.type for record in observed]
    for event, record in zip(predicted, observed, strict=True):
        assert event.digests == {bank: record.digests[bank] for bank in ALL_BANKS}, event.description
        assert event.data in (None, record.data), event.description


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["disk", "direct"])
def test_every_event_of_a_real_launch(release, name):
    prediction, log = launch(release, name)
    for index in UNTIL_THE_IMAGE:
        assert_equal(prediction, log, index)
    assert not prediction.shape.secure_boot


@pytest.mark.parametrize("release", RELEASES)
def test_every_event_of_a_real_launch_with_secure_boot(release):
    """PCR 0 included: the table's digests are of the firmware alone, with other variables and no disk."""
    prediction, log = launch(
        release,
        "secure-boot",
        firmware=ovmf_code(release, "secboot"),
        image=samples.vector("launches/secure-boot-image.efi.xz"),
        disk=gpt.parse(samples.vector("launches/secure-boot-disk-prefix.xz")),
        variables=samples.vector(f"launches/secure-boot-{release}.vars.fd.xz"),
    )
    for index in UNTIL_THE_IMAGE:
        if index != 1:  # the ACPI tables were recorded without smm=on
            assert_equal(prediction, log, index)
    assert prediction.shape.secure_boot
    authority = prediction.register(7).alternatives[0].events[-1]
    assert authority.type is EventType.EFI_VARIABLE_AUTHORITY
    # The stub's override keeps the firmware from measuring the kernel inside.
    assert all(event.cause != "uki .linux" for event in prediction.register(4).alternatives[0].events)


def test_partition_table_of_a_disk_with_large_sectors():
    log = eventlog.parse(samples.vector("stubs/disk-4096.eventlog.xz"))
    disk = gpt.parse(samples.vector("stubs/disk-4096-prefix.xz"), sector_size=4096)
    prediction = predict_tpm(samples.inputs(disk=disk, banks=ALL_BANKS))
    (observed,) = (record for record in log.records if record.type == EventType.EFI_GPT_EVENT)
    event = prediction.register(5).alternatives[0].events[1]
    assert event.data == observed.data
    assert event.digests == {bank: observed.digests[bank] for bank in ALL_BANKS}


CARD = VirtioNet(slot=3, mac=bytes(6))


@pytest.mark.parametrize(("random", "options"), [(None, None), (False, 5), (True, 9)])
def test_network_boot_depends_on_random_numbers(random, options):
    prediction, _ = launch("2026.08", "disk", boot_devices=(VirtioBlk(slot=1), CARD), random_numbers=random)
    register = prediction.register(1)
    if options is None:
        assert "RDRAND" in register.reason
        return
    events = register.alternatives[0].events
    assert [event.type for event in events].count(EventType.EFI_VARIABLE_BOOT) == options


def acpi_of(tables):
    script = (1).to_bytes(4, "little") + b"etc/acpi/tables".ljust(124, b"\0")
    return AcpiBlobs(table_loader=script, rsdp=b"r", tables=tables)


def test_pcr01_reasons():
    full = {
        "profiles": (samples.profile_for(samples.FIRMWARE, acpi_measured=True, pciexbar=0xE0000000),),
        "acpi": acpi_of(b"tables"),
        "boot_devices": (VirtioBlk(slot=1),),
    }
    assert predict_tpm(samples.inputs(**full)).register(1).stability is Stability.VM_SHAPE
    unplaced = samples.profile_for(samples.FIRMWARE, acpi_measured=True)
    for changes, reason in (
        ({"acpi": None}, "ACPI tables were not supplied"),
        ({"boot_devices": None}, "unknown number"),
        ({"boot_devices": (VirtioBlk(slot=1), VirtioBlk(slot=2))}, "got 2"),
        ({"profiles": (unplaced,)}, "PCIEXBAR"),
        ({"boot_devices": (VirtioBlk(slot=1), CARD, CARD)}, "2 network cards"),
        ({"boot_devices": (CARD,)}, "got 0"),
        ({"image": samples.uki(stub=263)}, "systemd-stub 263"),
        ({"image": samples.uki(stub=262)}, "SMBIOS tables were not supplied"),
    ):
        register = predict_tpm(samples.inputs(**full | changes)).register(1)
        assert register.stability is Stability.NOT_PINNED
        assert reason in register.reason
    with pytest.raises(FormatError, match="positive multiple"):
        predict_tpm(samples.inputs(**full | {"acpi": AcpiBlobs(table_loader=b"x", rsdp=b"", tables=b"")}))


def test_a_store_with_other_boot_options_is_not_guessed_at():
    after_boot = samples.vector("eventlog/qemu-ovmf-2026.08.vars.fd.xz")
    register = predict_tpm(samples.inputs(variables=after_boot, boot_devices=(VirtioBlk(slot=1),))).register(
        1
    )
    assert "already holds Boot" in register.reason


def test_inputs_that_make_no_machine():
    for changes, message in (
        ({"platform": "abacus"}, "unknown platform"),
        ({"banks": ()}, "no PCR bank"),
        ({"vcpus": 0}, "cannot boot"),
    ):
        with pytest.raises(PredictionError, match=message):
            samples.inputs(**changes)


def test_shape_names_the_firmware_by_its_digests():
    shape = predict_tpm(samples.inputs()).shape
    assert shape.name == "qemu-vtpm/sample/disk/2-vcpus/512-mib"
    assert shape.firmware.sha384 == samples.profile_for(samples.FIRMWARE).sha384


def test_json_form():
    prediction = predict_tpm(samples.inputs(banks=DEFAULT_BANKS))
    value = json.loads(json.dumps(prediction_to_json(prediction, DEFAULT_BANKS)))
    assert list(value["registers"]) == ["sha256", "sha384"]
    registers = value["registers"]["sha256"]
    assert list(registers) == [str(index) for index in range(16)]
    assert registers["8"] == {
        "value": "00" * 32,
        "alternatives": ["00" * 32],
        "phases": {},
        "stability": "image",
        "reason": None,
    }
    assert registers["10"]["value"] is None
    assert registers["10"]["alternatives"] == []
    assert registers["10"]["stability"] == "not-pinned"
    assert "IMA" in registers["10"]["reason"]
    assert len(registers["5"]["alternatives"]) == 2
    assert registers["5"]["value"] == registers["5"]["alternatives"][0]
    assert next(iter(registers["11"]["phases"])) == "enter-initrd"
    courses = {(each["register"], each["sequence"]): each["events"] for each in value["events"]}
    assert [event["cause"] for event in courses[9, "boot"]] == ["uki .cmdline", "uki .initrd"]
    assert courses[7, "boot"][0]["type"] == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    assert set(courses[7, "boot"][0]["digests"]) == {"sha256", "sha384"}
    assert value["shape"]["firmware"]["name"] == "sample"
