"""Profiles derived from event logs: of a firmware made here, and of real ones where a vault has them."""

from dataclasses import replace
from uuid import UUID

import launch_samples as samples
import pytest
from firmware_files import RELEASES, ovmf_code

from measurements.errors import FormatError, PredictionError
from measurements.events import Digest, EventType, HashAlgorithm
from measurements.formats import eventlog, ovmf
from measurements.formats.bootoption import LoadOption, Node
from measurements.formats.efivar import GLOBAL_VARIABLE, Variable
from measurements.formats.eventlog import EventLog, LogKind, LogRecord
from measurements.platforms.calibration import derive_profile, merge_observations
from measurements.platforms.firmware import SHELL, PeifvMode, SmbiosMeasurement, find_profile
from measurements.platforms.qemu import AcpiBlobs, VirtioBlk, builtin_load_option, disk_load_option
from measurements.prediction import BootPath

BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256)
FIRMWARE = samples.FIRMWARE
VOLUMES = ovmf.parse(FIRMWARE)
SCRIPT = (1).to_bytes(4, "little") + b"etc/acpi/tables".ljust(124, b"\0")
BLOBS = AcpiBlobs(table_loader=SCRIPT, rsdp=b"r", tables=b"tables at e0000000")
SHELL_OPTION = samples.PROFILE.shell


def record(register, event_type, content, data=b""):
    return LogRecord(
        register=register,
        type=event_type,
        digests={bank: Digest.of(bank, content) for bank in BANKS},
        data=data,
        offset=0,
    )


def variable(register, event_type, name, data):
    content = Variable(guid=GLOBAL_VARIABLE, name=name, data=data)
    hashed = data if event_type is EventType.EFI_VARIABLE_BOOT else content.encode()
    return record(register, event_type, hashed, content.encode())


def log(*, peifv=VOLUMES.peifv, options=None, smbios=None, acpi=BLOBS, secure_boot=b"", version="1.0\0"):
    """Return the log of a firmware booted alone; ``smbios`` is "before" or "after"."""
    if options is None:
        options = [builtin_load_option(option) for option in (*samples.PROFILE.boot_options, SHELL_OPTION)]
    table = [record(1, EventType.EFI_HANDOFF_TABLES, b"smbios")]
    records = [
        record(0, EventType.S_CRTM_VERSION, version.encode("utf-16-le"), version.encode("utf-16-le")),
        record(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, peifv),
        record(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, VOLUMES.dxefv),
        variable(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, "SecureBoot", secure_boot),
        *(
            record(1, EventType.PLATFORM_CONFIG_FLAGS, content, b"ACPI DATA")
            for _, content in acpi.measured()
        ),
        *(table if smbios == "before" else ()),
        variable(
            1,
            EventType.EFI_VARIABLE_BOOT,
            "BootOrder",
            b"".join(i.to_bytes(2, "little") for i in range(len(options))),
        ),
        *(
            variable(1, EventType.EFI_VARIABLE_BOOT, f"Boot{i:04X}", o.encode())
            for i, o in enumerate(options)
        ),
        record(1, EventType.SEPARATOR, bytes(4)),
        *(table if smbios == "after" else ()),
    ]
    return EventLog(
        kind=LogKind.CRYPTO_AGILE, algorithms=BANKS, records=tuple(records), startup_locality=None
    )


def derive(observed, **arguments):
    return derive_profile(FIRMWARE, observed, name="sample", memory_mib=512, vcpus=2, **arguments)


def test_unchanged_volume():
    assert derive(log()) == samples.profile_for(FIRMWARE, acpi_measured=True, pciexbar=0xE0000000)


def test_patched_volume_is_found_wherever_it_is():
    volume = bytearray(samples.volume(samples.PEIFV, size=0x10000))
    volume[0x1000:0x9000] = bytes(0x8000)
    firmware = samples.firmware(peifv=bytes(volume))
    for offset in (0x1000, 0x6E50, 0x8FFE):
        seen = bytearray(volume)
        seen[offset : offset + 2] = b"\x08\x06"
        profile = derive_profile(firmware, log(peifv=bytes(seen)), name="x", memory_mib=512, vcpus=2)
        assert profile.peifv is PeifvMode.PATCHED
        assert [(patch.offset, patch.data) for patch in profile.patches] == [(offset, b"\x08\x06")]


def test_any_other_volume_is_bound_to_the_machine():
    profile = derive(log(peifv=b"with memory sizes inside"))
    assert profile.peifv is PeifvMode.CALIBRATE
    (seen,) = profile.observations
    assert seen.machine == (512, 2, BootPath.DISK)
    assert seen.digests[HashAlgorithm.SHA256] == Digest.of(HashAlgorithm.SHA256, b"with memory sizes inside")


def test_a_direct_boot_may_measure_another_volume():
    profile = derive(log(peifv=b"without -kernel"), direct_log=log(peifv=b"with -kernel"))
    for boot, content in ((BootPath.DISK, b"without -kernel"), (BootPath.DIRECT, b"with -kernel")):
        seen = profile.observation(512, 2, boot)
        assert seen.digests[HashAlgorithm.SHA256] == Digest.of(HashAlgorithm.SHA256, content)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (None, SmbiosMeasurement.NONE),
        ("before", SmbiosMeasurement.BEFORE_BOOT_VARIABLES),
        ("after", SmbiosMeasurement.AFTER_SEPARATORS),
    ],
)
def test_place_of_the_smbios_table(place, expected):
    assert derive(log(smbios=place)).smbios is expected


def test_form_of_the_secure_boot_variable():
    assert derive(log(secure_boot=b"\0")).secure_boot_unset == b"\0"
    with pytest.raises(PredictionError, match="blank variables"):
        derive(log(secure_boot=b"\1"))


def test_the_shell_is_told_from_the_other_options():
    without = derive(log(options=[builtin_load_option(option) for option in samples.PROFILE.boot_options]))
    assert without.shell is None
    assert derive(log()).shell.file == SHELL


def test_the_blobs_decide_the_base_of_pciexbar():
    other = replace(BLOBS, tables=b"tables at b0000000")
    assert derive(log(acpi=other), acpi={0xE0000000: BLOBS, 0xB0000000: other}).pciexbar == 0xB0000000
    with pytest.raises(PredictionError, match="none of the ACPI tables"):
        derive(log(acpi=other), acpi={0xE0000000: BLOBS})


def test_the_base_of_an_old_build_stays_unknown():
    firmware = samples.firmware(dxefv=samples.volume(samples.DXEFV))
    observed = log()
    blobs = [i for i, r in enumerate(observed.records) if r.type == EventType.EFI_PLATFORM_FIRMWARE_BLOB]
    records = list(observed.records)
    records[blobs[1]] = record(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, ovmf.parse(firmware).dxefv)
    observed = replace(observed, records=tuple(records))
    assert derive_profile(firmware, observed, name="x", memory_mib=1, vcpus=1).pciexbar is None


def test_a_log_of_another_firmware_is_refused():
    other = samples.firmware(dxefv=samples.volume(samples.DXEFV, (UUID(int=9), 7, b"")))
    with pytest.raises(PredictionError, match="not the one that was booted"):
        derive_profile(other, log(), name="x", memory_mib=512, vcpus=2)


def test_a_machine_with_a_disk_is_refused():
    with pytest.raises(PredictionError, match="without disks"):
        derive(log(options=[disk_load_option(VirtioBlk(slot=1))]))
    file = LoadOption(attributes=1, description="x", path=(Node.firmware_volume(samples.DXEFV), Node.end()))
    with pytest.raises(PredictionError, match="not an application"):
        derive(log(options=[file]))


@pytest.mark.parametrize("version", ["1.0", "1\0002\0", ""])
def test_a_version_that_is_no_string_is_refused(version):
    with pytest.raises(FormatError, match="NUL-terminated"):
        derive(log(version=version))


def test_an_incomplete_log_is_refused():
    full = log()
    for dropped in (
        EventType.S_CRTM_VERSION,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT,
    ):
        records = tuple(each for each in full.records if each.type != dropped)
        with pytest.raises(FormatError, match="event log has"):
            derive(replace(full, records=records))


def test_observations_of_several_machines_are_joined():
    def seen(memory_mib, content):
        return derive_profile(FIRMWARE, log(peifv=content), name="x", memory_mib=memory_mib, vcpus=2)

    merged = merge_observations([seen(1024, b"1024"), seen(512, b"512"), seen(512, b"512 again")])
    assert [each.memory_mib for each in merged.observations] == [512, 1024]
    assert merged.observation(512, 2, BootPath.DISK).digests[HashAlgorithm.SHA1] == Digest.of(
        HashAlgorithm.SHA1, b"512 again"
    )
    with pytest.raises(PredictionError, match="differ in more"):
        merge_observations([seen(512, b"x"), derive(log())])
    with pytest.raises(PredictionError, match="no firmware profile"):
        merge_observations([])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("variant", "memory_mib", "logs"),
    [
        ("", 512, {BootPath.DISK: "alone"}),
        ("secboot", 512, {BootPath.DISK: "alone-secboot"}),
        (
            "secboot",
            2048,
            {BootPath.DISK: "alone-secboot-2048", BootPath.DIRECT: "alone-secboot-2048-direct"},
        ),
    ],
    ids=["plain", "verifying, 512 MiB", "verifying, 2048 MiB"],
)
def test_the_table_is_what_real_logs_give(release, variant, memory_mib, logs):
    firmware = ovmf_code(release, variant)
    observed = {
        boot: eventlog.parse(samples.vector(f"launches/{name}-{release}.eventlog.xz"))
        for boot, name in logs.items()
    }
    known = find_profile(firmware)
    tables = {} if variant else {0xE0000000: samples.acpi("alone")}  # smm=on changes the ACPI tables
    derived = derive_profile(
        firmware,
        observed[BootPath.DISK],
        name=known.name,
        memory_mib=memory_mib,
        vcpus=2,
        direct_log=observed.get(BootPath.DIRECT),
        acpi=tables,
        smbios_tables=samples.vector("launches/disk.etc-smbios-smbios-tables.xz")
        if memory_mib == 512
        else None,
    )
    assert replace(derived, observations=()) == replace(known, observations=())
    for seen in derived.observations:
        assert known.observation(*seen.machine) == seen
    assert len(derived.observations) == (len(logs) if variant else 0)
    assert ovmf.contains_text(ovmf.parse(firmware).peifv, known.crtm_version)


@pytest.mark.parametrize("release", RELEASES)
def test_builds_that_verify_need_smm(release):
    assert ovmf.needs_smm(ovmf_code(release, "secboot")) and not ovmf.needs_smm(ovmf_code(release))
    assert not ovmf.needs_smm(b"no firmware")
