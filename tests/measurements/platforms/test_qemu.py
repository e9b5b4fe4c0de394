"""QEMU's loader script and OVMF's boot options, against blobs and bytes of real machines."""

import contextlib
import lzma
import struct

import launch_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.platforms.firmware import PROFILES, UI_APP
from measurements.platforms.qemu import (
    AcpiBlobs,
    VirtioBlk,
    builtin_load_option,
    disk_load_option,
    machine_version,
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
