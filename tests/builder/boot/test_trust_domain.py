"""The tables of trust domains: against a recorded one, another implementation's, and what real firmware measures."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import pytest

from builder.artifacts import Machine
from builder.boot.calibrate import complete_log
from builder.boot.qtest import FwCfgTables, read_fw_cfg_tables
from builder.boot.swtpm import software_tpm
from builder.boot.td import CPU, PROCESSOR, qemu_release, td_arguments, td_key, td_smbios, td_tables
from builder.emulators import emulators
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import single_file_firmware, unpack_toolbox
from measurements.formats import eventlog
from measurements.platforms.firmware import PROFILES, SmbiosMeasurement
from measurements.prediction import BootPath
from measurements.tdx.inputs import TdxInputs
from measurements.tdx.predict import predict_tdx

sys.path.insert(0, str(Path(__file__).parents[2] / "measurements"))

import launch_samples

pytestmark = pytest.mark.integration
#: tests/vectors/README.md, "tdx".
RTMR0_OF_A_QUOTE = (
    "a2749c840579faca6adf0c9c3ab69f277556cda67f8a6b3553c2c7fbf00e9706ec77a6f6960d802433b339ff8b72eefb"
)
LOGS = json.loads((Path(__file__).parents[2] / "vectors/tdx/logs.json").read_text())


@pytest.fixture(scope="module")
def locked():
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    found = emulators(lock, unpack_toolbox(lock, store), store)
    return found, single_file_firmware(recipe.firmware, lock, store)


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(bytes(1 << 16))
    return path


def machine(release, *, vcpus=1, memory=2048, options="", devices=()):
    name = "pc-q35-{}.{}".format(*release) + options
    return Machine(type=name, cpu=CPU, memory_mib=memory, vcpus=vcpus, devices=devices)


def dstack_tables(emulator, kernel, *, vcpus=1, devices=5) -> FwCfgTables:
    """The tables of dstack's machine: no HPET, a serial console, and virtio devices in the first slots.

    Which device a slot holds does not show in the tables, as long as it has one 64-bit BAR of virtio's size.
    """
    arguments = td_arguments(machine(emulator.release, vcpus=vcpus, options=",hpet=off"), kernel, bare=True)
    arguments += ["-serial", "null", "-object", "rng-builtin,id=source"]
    arguments += ["-device", "virtio-rng-pci,rng=source"] * devices
    return read_fw_cfg_tables(emulator.tools(), arguments, processor=PROCESSOR)


def test_every_emulator_is_of_the_release_that_the_lock_says(locked):
    for release, emulator in locked[0].items():
        assert qemu_release(emulator.tools()) == release


def test_tables_of_a_recorded_trust_domain(locked, kernel):
    """A TD that QEMU 10.2.1 built on TDX hardware; in 10.0 to 10.2 these tables are the same."""
    found = dstack_tables(locked[0][10, 0], kernel)
    measured = [hashlib.sha384(blob).hexdigest() for _, blob in found.acpi.measured()]
    assert measured == LOGS["dstack-qemu-10.2.1"]["acpi"]


def test_rtmr0_of_a_quote(locked):
    """A TD of Tinfoil's with 8 vCPUs, 16 GiB and QEMU 10.2.1: every event, the TD HOB to the boot option, by ourselves.

    Its firmware is Ubuntu's build of this edk2 release, whose layout, variables and boot option are Debian's.
    """
    emulators_of, builds = locked
    arguments = [
        "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-cpu", "Skylake-Server,phys-bits=46",
        "-machine", "pc-q35-10.0,smm=off,pic=off", "-smp", "8", "-m", "16384M",
        "-global", "q35-pcihost.pci-hole64-size=4096G",
        "-netdev", "hubport,id=net,hubid=0", "-device", "e1000,netdev=net,addr=0x2,romfile=",
        "-object", "rng-builtin,id=source", "-device", "virtio-rng-pci,rng=source",
        *["-device", "virtio-scsi-pci,disable-legacy=on"] * 3,
    ]  # fmt: skip
    tables = read_fw_cfg_tables(emulators_of[10, 0].tools(), arguments, processor=PROCESSOR)
    prediction = predict_tdx(
        TdxInputs(
            firmware_name="ovmf",
            firmware=builds["ovmf-single-2025.02"].read_bytes(),
            memory_mib=16384,
            vcpus=8,
            image=launch_samples.kernel(),
            qemu=(10, 2),
            acpi=tables.acpi,
        )
    )
    assert prediction.registers[0].value.hex() == RTMR0_OF_A_QUOTE


@pytest.mark.parametrize(
    ("vcpus", "devices", "digest"),
    [
        (1, 5, "09f99e5dcf36b80a9258e849b3a9a70e7914244008e6a92a689eb22e4cc17a8f"),
        (2, 5, "1362c6f473801b34f93df4e2966b2d3350f7f9113750da78a2cb799177157da8"),
        (8, 5, "0f9fc08c5efd03f1cb3cfaa1a0a09c45dcfbc18183dbc5aa1367ad10eb65135a"),
        (64, 5, "089fda95fb5d45ba9a5f46ebc99d85e1331daa4dd38f60597eec9a3d95c94bb5"),
        (256, 5, "d1c3291dbdf0ccc4acdecce5f78fbe80e0ca7d6d803a62c9f5b59ee8c7e0a1b5"),
        (1, 4, "93a140bbc031dc313ed4011b838c8b22ffdecb474435d9fcb294be97194c953c"),
        (1, 6, "fbf083121cc3b46b3b7913e45e635e6bb31e11f0cb6e029aa504bc4de68e2d64"),
        (1, 9, "7d722d7e3d811aa7978030af1d2a6c6aa68a5ab9267d7dff4e57babdf1476870"),
    ],
)
def test_tables_of_another_implementation(locked, kernel, vcpus, devices, digest):
    """SHA-256 of etc/acpi/tables for QEMU 11.1, in the tests of dstack's crate qemu-acpi."""
    found = dstack_tables(locked[0][11, 1], kernel, vcpus=vcpus, devices=devices)
    assert hashlib.sha256(found.acpi.tables).hexdigest() == digest


@pytest.mark.parametrize(("memory", "vcpus"), [(2048, 1), (4096, 8)])
@pytest.mark.parametrize("release", [(10, 0), (11, 1)])
def test_without_the_pic_one_bit_of_the_madt_is_another(locked, kernel, release, memory, vcpus):
    emulator = locked[0][release]
    given = machine(release, memory=memory, vcpus=vcpus)
    found = td_tables(emulator.tools(), given, BootPath.DIRECT)
    assert found.bootorder == b"/rom@genroms/linuxboot_dma.bin\0"
    assert [name for name, _ in found.acpi.measured()] == [
        "etc/table-loader",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
    ]
    place = found.acpi.tables.index(b"APIC")
    # ACPI 6.5, 5.2.12: PCAT_COMPAT is bit 0 of the flags, which follow the header and the APIC's address.
    assert found.acpi.tables[place + 40 : place + 44] == bytes(4)
    plain = [argument.replace(",pic=off", "") for argument in td_arguments(given, kernel)]
    assert plain != td_arguments(given, kernel)
    with_pic = read_fw_cfg_tables(emulator.tools(), plain, processor=PROCESSOR)
    other = bytearray(with_pic.acpi.tables)
    assert other[place + 40] == 1
    other[place + 40] = 0
    assert bytes(other) == found.acpi.tables and with_pic.acpi.table_loader == found.acpi.table_loader


@pytest.mark.parametrize("devices", [(), ("pci-testdev,addr=0x04,membar=64G",)])
def test_firmware_measures_what_was_read(locked, kernel, tmp_path, devices):
    """The firmware that golden documents name, without TDX and with a TPM: it puts BARs where the tables say.

    The processor is one with 1 GiB pages and more address bits than OVMF uses, as processors with TDX are. The
    second machine has a device with a BAR of the size that GPUs have.
    """
    emulators_of, builds = locked
    emulator = emulators_of[11, 1]
    memory = tmp_path / "memory"
    given = machine((11, 1), devices=devices)
    with software_tpm(emulator.tools(), tmp_path) as tpm:
        arguments = [
            *td_arguments(given, kernel),
            "-chardev", f"socket,id=tpm0,path={tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm0",
            "-device", "tpm-crb,tpmdev=tpm0", "-bios", str(builds["ovmf-single-2025.02"]),
            "-object", f"memory-backend-file,id=ram,mem-path={memory},share=on,size=2048M",
            "-machine", "memory-backend=ram",
        ]  # fmt: skip
        cpu = arguments.index("-cpu") + 1
        arguments[cpu] = arguments[cpu].replace("phys-bits=46", "phys-bits=52") + ",+pdpe1gb"
        with emulator.tools().spawn("qemu-system-x86_64", *arguments) as process:
            log, deadline = None, time.monotonic() + 120
            while log is None and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.5)
                log = complete_log(memory) if memory.exists() else None
    assert log is not None
    memory.unlink()
    with software_tpm(emulator.tools(), tmp_path) as tpm:
        read = read_fw_cfg_tables(emulator.tools(), arguments, processor=PROCESSOR)
    records = eventlog.parse(log).records
    measured = [record.digests["sha384"].value for record in records if record.data[:9] == b"ACPI DATA"]
    assert measured == [hashlib.sha384(blob).digest() for _, blob in read.acpi.measured()]


def test_tables_are_kept_by_all_that_decides_them():
    """The cache's key: every machine, boot path and digest of tools has its own."""
    given = machine((11, 1))
    keys = [
        td_key("one", given, BootPath.DISK),
        td_key("two", given, BootPath.DISK),
        td_key("one", given, BootPath.DIRECT),
        td_key("one", given, BootPath.DISK, pciexbar=0xB0000000),
        td_key("one", machine((11, 1), vcpus=2), BootPath.DISK),
        td_key("one", machine((11, 1), memory=4096), BootPath.DISK),
        td_key("one", machine((11, 0)), BootPath.DISK),
        td_key("one", machine((11, 1), devices=("pci-testdev",)), BootPath.DISK),
    ]
    assert len(set(keys)) == len(keys) and keys[0] == td_key("one", given, BootPath.DISK)


def test_a_table_with_the_processor_is_not_a_trust_domains(locked):
    found = td_tables(locked[0][11, 1].tools(), machine((11, 1)), BootPath.DISK)
    for profile in PROFILES:
        expected = found.smbios if profile.smbios is SmbiosMeasurement.NONE else None
        assert td_smbios(found, profile) == expected
    assert td_smbios(found, None) is None
    assert {profile.smbios is SmbiosMeasurement.NONE for profile in PROFILES} == {True, False}
