"""Derive a firmware profile from the event log of that firmware booted alone.

The log decides: a trait that it does not show is recorded as unknown or left to the file's own bytes, never
assumed. ``goldsmith calibrate`` boots the firmware and calls this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, PredictionError
from measurements.events import Digest, Digests, EventType
from measurements.formats import bootoption, ovmf, smbios
from measurements.formats.bootoption import Node
from measurements.formats.efivar import GLOBAL_VARIABLE, Variable, parse_variable
from measurements.formats.eventlog import EventLog, LogRecord
from measurements.formats.ovmf import DXEFV, OvmfFirmware
from measurements.platforms.firmware import (
    SHELL,
    BuiltinOption,
    FirmwareProfile,
    Patch,
    PeifvMode,
    PeifvObservation,
    SmbiosMeasurement,
)
from measurements.platforms.qemu import AcpiBlobs
from measurements.prediction import BootPath

#: q35's ACPI timer port, PMBASE 0x600 + 8, which PeiCore caches in a global of its own image.
_TIMER_PORT: Final = bytes.fromhex("0806")
_SEARCH: Final = range(0x80, 0x9000, 2)

#: edk2 >= 202305 (commit 82c1aa87f9) programs this base; builds that read named kernel blobs are later still.
_PCIEXBAR_SINCE_202305: Final = 0xE0000000
_TABLE_EVENTS: Final = (EventType.EFI_HANDOFF_TABLES, EventType.EFI_HANDOFF_TABLES2)
_VOLUME_EVENTS: Final = (EventType.EFI_PLATFORM_FIRMWARE_BLOB, EventType.EFI_PLATFORM_FIRMWARE_BLOB2)


def derive_profile(
    firmware: bytes,
    observed_log: EventLog,
    *,
    name: str,
    memory_mib: int,
    vcpus: int,
    direct_log: EventLog | None = None,
    acpi: Mapping[int, AcpiBlobs] | None = None,
    smbios_tables: bytes | None = None,
) -> FirmwareProfile:
    """Work out what this firmware measures.

    Args:
        firmware: the firmware file.
        observed_log: log of its boot on q35 with blank variables and no boot device.
        name: what the profile is to be called.
        memory_mib: RAM of the machine that was observed, in MiB.
        vcpus: its number of virtual CPUs.
        direct_log: log of the same with a file for ``-kernel``, which is no program; needed where the PEI volume
            depends on the machine, for predictions of direct boots.
        acpi: its ACPI blobs for each PCIEXBAR base that might be right; they decide the base.
        smbios_tables: its ``etc/smbios/smbios-tables``; checks the strings that the file shows.

    Raises:
        FormatError: the firmware is no OVMF, or the log is not laid out as an OVMF boot.
        PredictionError: firmware, tables and log do not belong together.
    """
    volumes = ovmf.parse(firmware)
    version, peifv = _firmware_events(observed_log, volumes)
    mode, patches = _peifv_mode(volumes.peifv, peifv.digests)
    observed = {BootPath.DISK: peifv}
    if direct_log is not None:
        _, observed[BootPath.DIRECT] = _firmware_events(direct_log, volumes)
    observations = tuple(
        PeifvObservation(memory_mib=memory_mib, vcpus=vcpus, boot=boot, digests=dict(record.digests))
        for boot, record in observed.items()
    )
    boot_options, shell = _boot_options(observed_log)
    measured_smbios, smbios_record = _smbios(observed_log)
    if smbios_record is not None and smbios_tables is not None:
        _check_smbios(volumes, smbios_record, smbios_tables)
    acpi_events = [
        record
        for record in _of(observed_log, 1, EventType.PLATFORM_CONFIG_FLAGS)
        if record.data[:4] == b"ACPI"
    ]
    return FirmwareProfile(
        sha384=hashlib.sha384(firmware).hexdigest(),
        name=name,
        crtm_version=version,
        peifv=mode,
        patches=patches,
        observations=observations if mode is PeifvMode.CALIBRATE else (),
        acpi_measured=bool(acpi_events),
        pciexbar=_pciexbar(volumes, acpi_events, acpi or {}),
        smbios=measured_smbios,
        boot_options=boot_options,
        shell=shell,
        # Without AuthVariableLib there is no SecureBoot variable at all, or (edk2 <= 202211) one that nothing
        # ever sets; the module that verifies images tells the builds apart.
        secure_boot=volumes.verifies_images,
        secure_boot_unset=_secure_boot_variable(observed_log).data,
    )


def merge_observations(profiles: Iterable[FirmwareProfile]) -> FirmwareProfile:
    """Join profiles of one firmware that were calibrated on machines of different shapes.

    Equal but for their observations; the later one wins where two observed the same shape.

    Raises:
        PredictionError: no profile, or profiles that contradict each other.
    """
    first, *others = tuple(profiles) or (None,)
    if first is None:
        raise PredictionError("no firmware profile to merge")
    seen = {each.machine: each for each in first.observations}
    for other in others:
        if replace(other, observations=(), name=first.name) != replace(first, observations=()):
            raise PredictionError(
                f"firmware profiles {first.name!r} and {other.name!r} differ in more than what they "
                "observed; "
                "calibrate again with the same firmware file and QEMU"
            )
        seen |= {each.machine: each for each in other.observations}
    return replace(first, observations=tuple(seen[machine] for machine in sorted(seen)))


def _of(log: EventLog, register: int, *types: EventType) -> list[LogRecord]:
    return [record for record in log.records if record.register == register and record.type in types]


def _firmware_events(log: EventLog, volumes: OvmfFirmware) -> tuple[str, LogRecord]:
    """Return the S-CRTM version and the PEI volume's record; the DXE volume's must be the file's."""
    versions = _of(log, 0, EventType.S_CRTM_VERSION)
    blobs = _of(log, 0, *_VOLUME_EVENTS)
    if len(versions) != 1 or len(blobs) != 2:
        raise FormatError(
            f"event log has {len(versions)} S-CRTM versions and {len(blobs)} firmware volumes in PCR 0; "
            "expected 1 and 2 (PEIFV, DXEFV), as OVMF with a TPM measures"
        )
    try:
        version = versions[0].data.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise FormatError("the S-CRTM version in the event log is not UTF-16") from error
    if not version.endswith("\0") or "\0" in version[:-1]:
        raise FormatError("the S-CRTM version in the event log is not one NUL-terminated string")
    peifv, dxefv = blobs
    for bank, digest in dxefv.digests.items():
        if digest != Digest.of(bank, volumes.dxefv):
            raise PredictionError(
                "the firmware file is not the one that was booted: its DXEFV has another digest than the "
                "event log's"
            )
    if not peifv.digests:
        raise FormatError("event log has no digest of a known algorithm for PEIFV")
    return version[:-1], peifv


def _peifv_mode(volume: bytes, observed: Digests) -> tuple[PeifvMode, tuple[Patch, ...]]:
    # SHA-1 is the fastest to search with; what is found must hold in every bank.
    if _matches(volume, observed):
        return PeifvMode.FILE, ()
    bank = min(observed, key=lambda each: each.size)
    view, prefix, hashed = memoryview(volume), hashlib.new(bank.value, usedforsecurity=False), 0
    for offset in _SEARCH:
        if volume[offset : offset + 2] != b"\0\0":
            continue
        prefix.update(view[hashed:offset])
        hashed = offset
        candidate = prefix.copy()
        candidate.update(_TIMER_PORT)
        candidate.update(view[offset + 2 :])
        if candidate.digest() == observed[bank].value:
            patched = volume[:offset] + _TIMER_PORT + volume[offset + 2 :]
            if _matches(patched, observed):
                return PeifvMode.PATCHED, (Patch(offset=offset, data=_TIMER_PORT),)
    return PeifvMode.CALIBRATE, ()


def _matches(volume: bytes, observed: Digests) -> bool:
    return all(Digest.of(bank, volume) == digest for bank, digest in observed.items())


def _boot_options(log: EventLog) -> tuple[tuple[BuiltinOption, ...], BuiltinOption | None]:
    """Return the built-in options and the shell, which the firmware registers after those of devices."""
    variables = [parse_variable(record.data) for record in _of(log, 1, EventType.EFI_VARIABLE_BOOT)]
    if not variables or variables[0].name != "BootOrder":
        raise FormatError("event log has no BootOrder in PCR 1")
    expected = [f"Boot{number:04X}" for number in range(len(variables) - 1)]
    if [variable.name for variable in variables[1:]] != expected or variables[0].data != b"".join(
        number.to_bytes(2, "little") for number in range(len(expected))
    ):
        raise PredictionError(
            "the boot options in the event log are not numbered from 0 in order; calibrate with blank "
            "variables and "
            "without bootindex"
        )
    options = [_builtin(variable) for variable in variables[1:]]
    shell = options.pop() if options and options[-1].file == SHELL else None
    return tuple(options), shell


def _builtin(variable: Variable) -> BuiltinOption:
    option = bootoption.parse_load_option(variable.data)
    volume, file, *rest = (*option.path, Node.end(), Node.end())
    kind = Node.firmware_file(UUID(int=0))
    if (
        volume != Node.firmware_volume(DXEFV)
        or (file.type, file.subtype, len(file.data)) != (kind.type, kind.subtype, len(kind.data))
        or rest != [Node.end()] * 3
        or option.optional_data
    ):
        raise PredictionError(
            f"{variable.name} in the event log ({option.text()}) is not an application in the firmware; "
            "calibrate without disks and network cards"
        )
    return BuiltinOption(
        description=option.description,
        attributes=option.attributes,
        file=UUID(bytes_le=file.data),
    )


def _smbios(log: EventLog) -> tuple[SmbiosMeasurement, LogRecord | None]:
    records = [record for record in log.records if record.register == 1 and record.extends]
    tables = [record for record in records if record.type in _TABLE_EVENTS]
    if not tables:
        return SmbiosMeasurement.NONE, None
    position = records.index(tables[0])
    before = [record.type for record in records[:position]]
    after = [record.type for record in records[position + 1 :]]
    if len(tables) == 1 and EventType.EFI_VARIABLE_BOOT not in before and EventType.SEPARATOR not in before:
        return SmbiosMeasurement.BEFORE_BOOT_VARIABLES, tables[0]
    if len(tables) == 1 and EventType.SEPARATOR in before and not after:
        return SmbiosMeasurement.AFTER_SEPARATORS, tables[0]
    raise PredictionError(
        f"event log measures {len(tables)} handoff tables in PCR 1, or one in a place that no profile can "
        "state; "
        "expected one SMBIOS table before the boot options or after the separator"
    )


def _check_smbios(volumes: OvmfFirmware, record: LogRecord, tables: bytes) -> None:
    strings = volumes.smbios
    if strings is None:
        return
    table = smbios.filter_for_measurement(
        smbios.ovmf_table(tables, type0_strings=(strings.vendor, strings.version, strings.release_date))
    )
    if any(digest != Digest.of(bank, table) for bank, digest in record.digests.items()):
        raise PredictionError(
            "the SMBIOS table in the event log differs from the one that QEMU's tables and the "
            "firmware's strings "
            f"give (vendor {strings.vendor!r}, version {strings.version!r}, date {strings.release_date!r})"
        )


def _pciexbar(
    volumes: OvmfFirmware, observed: list[LogRecord], candidates: Mapping[int, AcpiBlobs]
) -> int | None:
    """Return the PCIEXBAR base whose ACPI blobs are those that were measured."""
    if not candidates:
        # Builds that ask for named kernel blobs (edk2 >= 202502) are later than the change of the base.
        return _PCIEXBAR_SINCE_202305 if volumes.named_kernel_blobs else None
    if not observed:
        return None
    for base, blobs in candidates.items():
        contents = [content for _, content in blobs.measured()]
        if len(contents) == len(observed) and all(
            digest == Digest.of(bank, content)
            for record, content in zip(observed, contents, strict=True)
            for bank, digest in record.digests.items()
        ):
            return base
    raise PredictionError(
        "none of the ACPI tables supplied is the one in the event log; they must come from the same "
        "QEMU, machine "
        "type, devices, memory and vCPUs"
    )


def _secure_boot_variable(log: EventLog) -> Variable:
    for record in _of(log, 7, EventType.EFI_VARIABLE_DRIVER_CONFIG):
        variable = parse_variable(record.data)
        if (variable.guid, variable.name) == (GLOBAL_VARIABLE, "SecureBoot"):
            if variable.data not in (b"", b"\0"):
                raise PredictionError("Secure Boot was on in the event log; calibrate with blank variables")
            return variable
    raise FormatError("event log has no SecureBoot variable in PCR 7")
