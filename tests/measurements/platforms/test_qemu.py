"""QEMU's loader script and OVMF's boot options, against blobs and bytes of real machines."""

import contextlib
import lzma
import struct
from uuid import UUID

import launch_samples as samples
import pytest
from firmware_files import RELEASES, ovmf_code
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.events import EventType
from measurements.formats import efivar, eventlog, ovmf
from measurements.platforms.firmware import PROFILES, UI_APP
from measurements.platforms.qemu import (
    AcpiBlobs,
    VirtioBlk,
    VirtioNet,
    builtin_load_option,
    disk_load_option,
    machine_version,
    network_load_options,
    waits_for_random,
)

# As EV_EFI_VARIABLE_BOOT events of real boots show them.
UI_APP_OPTION = bytes.fromhex(
    "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1"
    "0406140021aa2c4614760345836e8ab6f46623317fff0400"
)
DISK_TAIL = bytes.fromhex("02010c00d041030a000000000101060000037fff04004eac0881119f594d850ee21a522c59b2")


def command(kind, *names):
    return struct.pack("<I", kind).ljust(4) + b"".join(
        name.encode().ljust(56, b"\0") for name in names
    ).ljust(124, b"\0")


def test_built_in_option():
    ui_app = next(option for option in PROFILES[0].boot_options if option.file == UI_APP)
    assert builtin_load_option(ui_app).encode() == UI_APP_OPTION


def test_disk_option():
    option = disk_load_option(VirtioBlk(slot=3)).encode()
    assert option == struct.pack("<IH", 1, 22) + "UEFI Misc Device\0".encode("utf-16-le") + DISK_TAIL


CARD = VirtioNet(slot=3, mac=bytes.fromhex("525400123456"))


def test_network_options_are_those_of_a_machine_with_random_numbers():
    firmware = ovmf.parse(ovmf_code("2026.08"))
    log = eventlog.parse(samples.vector("stubs/262.1-disk-random.eventlog.xz"))
    variables = [
        efivar.parse_variable(record.data)
        for record in log.records
        if record.register == 1 and record.type == EventType.EFI_VARIABLE_BOOT
    ]
    # BootOrder, two built-in options, the disk, the network's, the shell.
    options = network_load_options(CARD, firmware, random=True)
    assert [option.encode() for option in options] == [variable.data for variable in variables[4:-1]]
    assert [option.description[:11] for option in options] == [
        "UEFI PXEv4 ", "UEFI PXEv6 ", "UEFI HTTPv4", "UEFI HTTPv6",
    ]  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
def test_network_drivers_wait_for_random_numbers(release):
    firmware = ovmf.parse(ovmf_code(release))
    assert waits_for_random(firmware)
    assert network_load_options(CARD, firmware, random=False) == ()


def driver(name, *dependencies):
    expression = b"".join(b"\2" + UUID(each).bytes_le for each in dependencies) + b"\x08"
    return (UUID(name), 7, samples.section(0x13, expression) + samples.section(0x10, b"MZ"))


def test_older_builds_and_builds_without_drivers():
    random_numbers = "3152bca5-eade-433d-862e-c01cdc291f44"
    virtio, pxe, ip4 = (
        "a92cdb4b-82f1-4e0b-a516-8a655d371524",
        "b95e9fda-26de-48d2-8807-1f9107ac5e3a",
        "9fb1a1f3-3b71-4324-b39a-745cbb015fff",
    )

    def options(*drivers, random=False):
        volume = samples.volume(samples.DXEFV, *drivers)
        firmware = ovmf.parse(samples.firmware(dxefv=volume))
        return [each.description.split()[1] for each in network_load_options(CARD, firmware, random=random)]

    assert options(driver(virtio), driver(pxe), driver(ip4)) == ["PXEv4"]
    assert options(driver(virtio), driver(pxe, random_numbers), driver(ip4)) == []
    assert options(driver(virtio), driver(pxe, random_numbers), driver(ip4), random=True) == ["PXEv4"]
    assert options(driver(pxe), driver(ip4)) == []
    assert options(driver(virtio), driver(pxe)) == []


@pytest.mark.parametrize(
    ("machine", "version"),
    [
        ("pc-q35-10.0", (10, 0)),
        ("pc-q35-9.2", (9, 2)),
        ("q35", None),
        ("pc-i440fx-10.0", None),
        ("pc-q35-10.0-rhel", None),
    ],
)
def test_machine_version(machine, version):
    assert machine_version(machine) == version


def test_measured_order_of_a_real_machine():
    def read(name):
        return lzma.decompress((samples.VECTORS / f"launches/disk.etc-{name}.xz").read_bytes())

    blobs = AcpiBlobs(
        table_loader=read("table-loader"),
        rsdp=read("acpi-rsdp"),
        tables=read("acpi-tables"),
        tpm_log=bytes(65536),
    )
    assert [name for name, _ in blobs.measured()] == [
        "etc/table-loader",
        "etc/acpi/rsdp",
        "etc/tpm/log",
        "etc/acpi/tables",
    ]


def test_order_is_the_scripts():
    script = (
        command(1, "etc/acpi/tables")
        + command(2, "etc/acpi/rsdp", "etc/acpi/tables")
        + command(1, "etc/acpi/rsdp")
    )
    blobs = AcpiBlobs(table_loader=script, rsdp=b"r", tables=b"t")
    assert blobs.measured() == (
        ("etc/table-loader", script),
        ("etc/acpi/tables", b"t"),
        ("etc/acpi/rsdp", b"r"),
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"", "positive multiple of 128"),
        (bytes(129), "positive multiple of 128"),
        (command(1, "etc/tpm/log"), "'etc/tpm/log', which was not supplied"),
        (command(1, "etc/other"), "'etc/other', which was not supplied"),
    ],
)
def test_bad_scripts(script, message):
    with pytest.raises(FormatError, match=message):
        AcpiBlobs(table_loader=script, rsdp=b"r", tables=b"t").measured()


@settings(max_examples=100)
@given(st.binary(max_size=600))
def test_random_scripts_raise_nothing_else(script):
    with contextlib.suppress(FormatError):
        AcpiBlobs(table_loader=script, rsdp=b"r", tables=b"t", tpm_log=b"l").measured()
