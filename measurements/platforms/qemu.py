"""QEMU's q35 machine as OVMF sees it: ACPI blobs in measured order, and the boot options of its devices."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError
from measurements.formats.bootoption import LOAD_OPTION_ACTIVE, LoadOption, Node
from measurements.formats.ovmf import DXEFV, OvmfFirmware
from measurements.platforms.firmware import BuiltinOption

LOADER_FILE: Final = "etc/table-loader"
RSDP_FILE: Final = "etc/acpi/rsdp"
TABLES_FILE: Final = "etc/acpi/tables"
TPM_LOG_FILE: Final = "etc/tpm/log"

MAX_ACPI_BLOB_SIZE: Final = 16 << 20

_COMMAND_SIZE = 128
_COMMAND_ALLOCATE = 1
_FILE_NAME_SIZE = 56

#: The first QEMU that exports the kernel unchanged as etc/boot/kernel beside the legacy, patched blob.
NAMED_KERNEL_BLOBS_SINCE: Final = (10, 0)
_MACHINE = re.compile(r"pc-q35-(\d{1,3})\.(\d{1,3})")

#: MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c mBmAutoCreateBootOptionGuid: marks what the firmware made.
_AUTO_CREATED = bytes.fromhex("4eac0881119f594d850ee21a522c59b2")
#: OvmfPkg names a disk that tells nothing about itself so (UefiBootManagerLib BmBootDescription.c).
_MISC_DEVICE = "UEFI Misc Device"

#: edk2 NetworkPkg/UefiPxeBcDxe, HttpBootDxe, Ip4Dxe, Ip6Dxe and OvmfPkg/VirtioNetDxe, by their FILE_GUID.
_PXE_DXE = UUID("b95e9fda-26de-48d2-8807-1f9107ac5e3a")
_HTTP_BOOT_DXE = UUID("ecebcb00-d9c8-11e4-af3d-8cdcd426c973")
_IP4_DXE = UUID("9fb1a1f3-3b71-4324-b39a-745cbb015fff")
_IP6_DXE = UUID("5bedb5cc-d830-4eb2-8742-2d4cc9b54f2c")
_VIRTIO_NET_DXE = UUID("a92cdb4b-82f1-4e0b-a516-8a655d371524")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiBlobs:
    """The fw_cfg files from which OVMF installs ACPI tables, as QEMU serves them to this machine.

    Attributes:
        table_loader: ``etc/table-loader``, 128-byte commands padded with zeros.
        rsdp: ``etc/acpi/rsdp``.
        tables: ``etc/acpi/tables``.
        tpm_log: ``etc/tpm/log``; ``None`` for a machine without TPM.
    """

    table_loader: bytes = field(repr=False)
    rsdp: bytes = field(repr=False)
    tables: bytes = field(repr=False)
    tpm_log: bytes | None = field(default=None, repr=False)

    def measured(self) -> tuple[tuple[str, bytes], ...]:
        """Return (file name, contents) in the order in which AcpiPlatformDxe measures them.

        OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c: the loader script, then each file that it allocates,
        in the script's order.

        Raises:
            FormatError: the script is no loader script, or allocates a file that is not here.
        """
        files = {RSDP_FILE: self.rsdp, TABLES_FILE: self.tables, TPM_LOG_FILE: self.tpm_log}
        events = [(LOADER_FILE, self.table_loader)]
        for name in _allocated(self.table_loader):
            content = files.get(name)
            if content is None:
                raise FormatError(
                    f"{LOADER_FILE} allocates {name!r}, which was not supplied; "
                    f"expected only {', '.join(files)}"
                )
            events.append((name, content))
        return tuple(events)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioBlk:
    """A virtio-blk-pci disk on the root bus, without ``bootindex``."""

    slot: int
    function: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioNet:
    """A virtio-net-pci card on the root bus, without option ROM and ``bootindex``.

    Attributes:
        mac: its address, 6 bytes.
    """

    slot: int
    mac: bytes
    function: int = 0


BootDevice = VirtioBlk | VirtioNet


def builtin_load_option(option: BuiltinOption) -> LoadOption:
    """Return the boot option of an application in the firmware's DXE volume."""
    path = (Node.firmware_volume(DXEFV), Node.firmware_file(option.file), Node.end())
    return LoadOption(attributes=option.attributes, description=option.description, path=path)


def disk_load_option(disk: VirtioBlk) -> LoadOption:
    """Return the boot option that UefiBootManagerLib makes for a virtio-blk disk."""
    path = (Node.pci_root(), Node.pci(disk.slot, disk.function), Node.end())
    return LoadOption(
        attributes=LOAD_OPTION_ACTIVE, description=_MISC_DEVICE, path=path, optional_data=_AUTO_CREATED
    )


def network_load_options(card: VirtioNet, firmware: OvmfFirmware, *, random: bool) -> tuple[LoadOption, ...]:
    """Return the boot options that UefiBootManagerLib makes for a card, as many as the build has drivers for.

    Args:
        random: whether the machine gives UEFI random numbers, without which newer network drivers do not run.
    """
    running = firmware.drivers if random else firmware.drivers - firmware.waiting_for_random
    if _VIRTIO_NET_DXE not in running:
        return ()
    device = (Node.pci_root(), Node.pci(card.slot, card.function), Node.ethernet(card.mac))
    protocols = (
        ("PXEv4", _PXE_DXE, _IP4_DXE, (Node.any_ipv4(),)),
        ("PXEv6", _PXE_DXE, _IP6_DXE, (Node.any_ipv6(),)),
        ("HTTPv4", _HTTP_BOOT_DXE, _IP4_DXE, (Node.any_ipv4(), Node.any_uri())),
        ("HTTPv6", _HTTP_BOOT_DXE, _IP6_DXE, (Node.any_ipv6(), Node.any_uri())),
    )
    return tuple(
        LoadOption(
            attributes=LOAD_OPTION_ACTIVE,
            description=f"UEFI {name} (MAC:{card.mac.hex().upper()})",
            path=(*device, *nodes, Node.end()),
            optional_data=_AUTO_CREATED,
        )
        for name, driver, stack, nodes in protocols
        if {driver, stack} <= running
    )


def waits_for_random(firmware: OvmfFirmware) -> bool:
    """Whether the boot options of a network card depend on random numbers in this build."""
    return bool(firmware.waiting_for_random & {_VIRTIO_NET_DXE, _PXE_DXE, _HTTP_BOOT_DXE, _IP4_DXE, _IP6_DXE})


def machine_version(machine: str) -> tuple[int, int] | None:
    """Return the QEMU release that a versioned q35 machine type asks for; ``None`` for any other machine."""
    match = _MACHINE.fullmatch(machine)
    return (int(match[1]), int(match[2])) if match else None


def _allocated(script: bytes) -> list[str]:
    # QEMU hw/acpi/bios-linker-loader.c: u32 command, file[56], ...
    for blob, limit in ((script, MAX_ACPI_BLOB_SIZE),):
        if len(blob) > limit:
            raise LimitError(f"{LOADER_FILE} has {len(blob)} bytes; the limit is {limit}")
    if not script or len(script) % _COMMAND_SIZE:
        raise FormatError(
            f"{LOADER_FILE} has {len(script)} bytes; expected a positive multiple of {_COMMAND_SIZE}"
        )
    names = []
    for offset in range(0, len(script), _COMMAND_SIZE):
        command, name = struct.unpack_from(f"<I{_FILE_NAME_SIZE}s", script, offset)
        if command == _COMMAND_ALLOCATE:
            names.append(name.split(b"\0", 1)[0].decode("ascii", "backslashreplace"))
    return names
