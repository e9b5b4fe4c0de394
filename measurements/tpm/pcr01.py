"""PCR 1: what the virtual machine is made of: ACPI and SMBIOS tables, boot options."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from measurements.errors import NotPredictableError
from measurements.events import Event, EventType, RegisterPrediction, Stability
from measurements.formats import smbios, varstore
from measurements.formats.bootoption import LoadOption
from measurements.formats.efivar import GLOBAL_VARIABLE, Variable
from measurements.formats.uki import ImageKind
from measurements.platforms.firmware import FirmwareProfile, SmbiosMeasurement
from measurements.platforms.qemu import (
    VirtioBlk,
    VirtioNet,
    builtin_load_option,
    disk_load_option,
    network_load_options,
    waits_for_random,
)
from measurements.prediction import BootPath
from measurements.tpm.boot import Boot, not_pinned, pinned, separator
from measurements.tpm.stub import require_generation

_PCR = 1
_BOOT_ORDER = "BootOrder"
_ACPI_EVENT = b"ACPI DATA"

#: DMTF DSP0134 3.8, 7.2: how the machine was switched on, which the stub leaves out.
_SYSTEM_INFORMATION, _WAKE_UP_TYPE = 1, 0x18
#: systemd src/fundamental/tpm2-pcr.h SMBIOS_TYPE1_EVENT_TAG_ID ... SMBIOS_TYPE11_EVENT_TAG_ID.
_STUB_TAGS = {1: 0xD5CB7CBC, 2: 0xE0D47BC8, 11: 0xC0B3BD23}


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the machine's ACPI and SMBIOS tables and its boot devices."""
    try:
        events = tuple(_events(boot))
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    return pinned(_PCR, Stability.VM_SHAPE, events)


def _events(boot: Boot) -> Iterator[Event]:
    profile = boot.require_profile()
    boot.require_known_loader()
    stub_types = require_generation(boot.image).smbios_types if boot.image.kind is ImageKind.UKI else ()
    if profile.acpi_measured:
        yield from acpi_events(boot, profile)
    if profile.smbios is SmbiosMeasurement.BEFORE_BOOT_VARIABLES:
        yield smbios_event(boot)
    yield from boot_variable_events(boot, profile)
    yield separator(boot, _PCR)
    if profile.smbios is SmbiosMeasurement.AFTER_SEPARATORS:
        yield smbios_event(boot)
    if stub_types:
        yield from stub_smbios_events(boot, stub_types)


def acpi_events(boot: Boot, profile: FirmwareProfile) -> Iterator[Event]:
    """Yield the loader script and the tables.

    Raises:
        NotPredictableError: the tables, or where the firmware puts PCIEXBAR, are not known.
    """
    if profile.pciexbar is None:
        raise NotPredictableError(
            "not predictable: calibrate; where this firmware places PCIEXBAR, which QEMU writes into the "
            "ACPI "
            "tables, is not known"
        )
    if boot.inputs.acpi is None:
        raise NotPredictableError(
            boot.inputs.acpi_problem
            or "not predictable: the machine's ACPI tables were not supplied; they come from the QEMU that "
            "boots it"
        )
    # edk2 >= 202302, OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c (TCG PFP 1.06, 3.3.4.2).
    for name, content in boot.inputs.acpi.measured():
        yield boot.event(
            _PCR,
            EventType.PLATFORM_CONFIG_FLAGS,
            content,
            description=f"ACPI DATA: {name}",
            cause=f"acpi {name}",
            data=_ACPI_EVENT,
        )


def smbios_event(boot: Boot) -> Event:
    """Return the event of the filtered SMBIOS table.

    Raises:
        NotPredictableError: QEMU's tables or the firmware's own strings are not known.
    """
    # edk2 >= 202505, MdeModulePkg/Universal/SmbiosMeasurementDxe: the whole table without what identifies the
    # instance (TCG PFP 1.06, 3.3.4.2). The event field holds its address in memory.
    return boot.event(
        _PCR,
        EventType.EFI_HANDOFF_TABLES,
        smbios.filter_for_measurement(_smbios_table(boot)),
        description="SMBIOS table",
        cause="smbios etc/smbios/smbios-tables",
    )


def stub_smbios_events(boot: Boot, types: tuple[int, ...]) -> Iterator[Event]:
    """Yield the structures of these types, which systemd-stub measures; raises as ``smbios_event``."""
    # systemd >= 261, src/boot/measure-smbios.c: after the stub's own sections; each structure with its strings.
    for structure in smbios.structures(_smbios_table(boot)):
        if structure.type not in types:
            continue
        if structure.type == _SYSTEM_INFORMATION:
            structure = structure.with_zero(_WAKE_UP_TYPE)
        text = f"smbios:type{structure.type}\0".encode("utf-16-le")
        yield boot.event(
            _PCR,
            EventType.EVENT_TAG,
            structure.encode(),
            description=f"SMBIOS structure of type {structure.type}",
            cause="smbios etc/smbios/smbios-tables",
            # TCG PFP 1.06, 10.4.3: u32 tag, u32 length, text.
            data=struct.pack("<II", _STUB_TAGS[structure.type], len(text)) + text,
        )


def _smbios_table(boot: Boot) -> bytes:
    if boot.inputs.smbios is None:
        raise NotPredictableError(
            "not predictable: the machine's SMBIOS tables were not supplied; they come from the QEMU "
            "that boots it"
        )
    strings = boot.require_firmware().smbios
    if strings is None:
        raise NotPredictableError(
            "not predictable: the firmware file does not show the strings of its SMBIOS type 0 structure"
        )
    return smbios.ovmf_table(
        boot.inputs.smbios, type0_strings=(strings.vendor, strings.version, strings.release_date)
    )


def boot_variable_events(boot: Boot, profile: FirmwareProfile) -> Iterator[Event]:
    """Yield BootOrder and the options in it.

    Raises:
        NotPredictableError: the options of this machine are not modelled.
    """
    # SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c MeasureAllBootVariables: BootOrder, then its options in that order.
    # Only the data is hashed, the event field holds the whole structure.
    options = _load_options(boot, profile)
    order = b"".join(number.to_bytes(2, "little") for number in range(len(options)))
    variables = [Variable(guid=GLOBAL_VARIABLE, name=_BOOT_ORDER, data=order)]
    variables += [
        Variable(guid=GLOBAL_VARIABLE, name=f"Boot{number:04X}", data=option.encode())
        for number, option in enumerate(options)
    ]
    _require_no_other_options(boot, variables)
    for variable, label in zip(variables, ("", *(option.description for option in options)), strict=True):
        yield boot.event(
            _PCR,
            EventType.EFI_VARIABLE_BOOT,
            variable.data,
            description=f"{variable.name} {label}".rstrip(),
            cause=f"boot option {variable.name}" if label else f"boot options {variable.name}",
            data=variable.encode(),
        )


def _load_options(boot: Boot, profile: FirmwareProfile) -> list[LoadOption]:
    """Options in the order in which the firmware numbers them, starting from no options at all."""
    options = [builtin_load_option(option) for option in profile.boot_options]
    # OvmfPkg/Library/PlatformBootManagerLib/BdsPlatform.c PlatformBootManagerAfterConsole: "-kernel" is tried
    # before devices are enumerated and the shell is registered.
    if boot.inputs.boot is BootPath.DIRECT:
        return options
    devices = boot.inputs.boot_devices or ()
    disks = [device for device in devices if isinstance(device, VirtioBlk)]
    if len(disks) != 1:
        raise NotPredictableError(
            "not predictable: expected one virtio-blk boot device on the machine, got "
            f"{'an unknown number' if boot.inputs.boot_devices is None else len(disks)}; others' boot options "
            "are not modelled"
        )
    # MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c BmEnumerateBootOptions: block devices before networks.
    options.append(disk_load_option(disks[0]))
    cards = [device for device in devices if isinstance(device, VirtioNet)]
    if cards:
        options += _network_options(boot, cards)
    if profile.shell is not None:
        options.append(builtin_load_option(profile.shell))
    return options


def _network_options(boot: Boot, cards: list[VirtioNet]) -> list[LoadOption]:
    firmware, random = boot.require_firmware(), boot.inputs.random_numbers
    if len(cards) > 1:
        raise NotPredictableError(
            f"not predictable: the machine has {len(cards)} network cards, and the order of their boot options "
            "is not modelled; expected at most one"
        )
    if random is None and waits_for_random(firmware):
        raise NotPredictableError(
            "not predictable: this firmware offers network boot on machines with random numbers alone, and "
            "whether this one has RDRAND or virtio-rng is not known; use a CPU model that leaves no doubt "
            "(qemu64)"
        )
    return list(network_load_options(cards[0], firmware, random=bool(random)))


def _require_no_other_options(boot: Boot, predicted: list[Variable]) -> None:
    # The firmware merges its options into those of the store; equal ones stay as they are.
    if boot.inputs.variables is None:
        return
    expected = {variable.name: variable.data for variable in predicted}
    for (guid, name), data in varstore.parse(boot.inputs.variables).items():
        is_option = len(name) == 8 and name.startswith("Boot") and name != "BootNext"
        if guid == GLOBAL_VARIABLE and (name == _BOOT_ORDER or is_option) and expected.get(name) != data:
            raise NotPredictableError(
                f"not predictable: the variable store already holds {name}, with which the firmware "
                "merges its own "
                "boot options; start from a store without boot options"
            )
