"""What a TDVF build measures beside the bytes of its file, and what the file itself shows of that.

A trust domain gets code and variables in one file. A profile is about the code, so that it holds whatever keys are
enrolled in the variables; where the code boots plain virtual machines as well (OVMF.fd), their profile holds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from measurements.errors import FormatError
from measurements.formats import ovmf
from measurements.formats.ovmf import OvmfFirmware
from measurements.formats.tdvf import SectionType, Tdvf
from measurements.platforms.firmware import (
    OPTIONS_SINCE_202505,
    FirmwareProfile,
    PeifvMode,
    SmbiosMeasurement,
    find_profile,
)

#: MdeModulePkg/Universal/SmbiosMeasurementDxe, by its FILE_GUID.
_SMBIOS_MEASUREMENT_DXE = UUID("d27fed59-abb4-4fed-bead-2a878c7e4a7e")
#: The event of OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c, in the SEC volume, which is not compressed.
_FW_CFG_EVENT = b"QEMU FW CFG\0"
_RELEASE = re.compile(r"(20\d\d)\.(\d\d)")

#: Builds that boot trust domains. Their boot options were read in the memory of QEMU 10.0 machines that booted them
#: without TDX: UiApp lies in a volume of its own, so "EFI Firmware Setup" leads nowhere and is not offered. So was
#: SecureBoot without keys. ``sha384`` is that of the code, the file without its variables.
PROFILES: Final[tuple[FirmwareProfile, ...]] = (
    FirmwareProfile(
        sha384="c290b7b79351bf90f13a414786d4edbc9ae5fc5c48c86c3b930d56ebe52cf860dd79173fdda6362b1d8ea0e1a5b925f1",
        name="Debian ovmf-inteltdx 2026.08+ds-2 OVMF.inteltdx.ms.fd",
        crtm_version="2026.08+ds-2",
        peifv=PeifvMode.CALIBRATE,
        acpi_measured=True,
        pciexbar=0xE0000000,
        smbios=SmbiosMeasurement.BEFORE_BOOT_VARIABLES,
        boot_options=OPTIONS_SINCE_202505[:1],
        shell=None,
        secure_boot=True,
        secure_boot_unset=b"\0",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdvfBuild:
    """One build.

    Attributes:
        profile: what it measures; ``None`` for a build that no profile knows.
        volumes: its volumes; ``None`` when the file is not laid out as OVMF.
        volumes_problem: why ``volumes`` is ``None``.
        measures_fw_cfg: whether it caches and measures fw_cfg files (edk2 >= 202505 without PEI phase).
        release: (year, month) of its edk2; ``None`` when unknown.
    """

    profile: FirmwareProfile | None
    volumes: OvmfFirmware | None
    volumes_problem: str | None
    measures_fw_cfg: bool
    release: tuple[int, int] | None


def examine(firmware: bytes, tdvf: Tdvf, profiles: Iterable[FirmwareProfile] = ()) -> TdvfBuild:
    """Find the profile and read what the file shows."""
    given = tuple(profiles)
    profile = find_profile(firmware, given) or _profile_of_code(firmware, tdvf, (*given, *PROFILES))
    volumes, problem = None, None
    try:
        volumes = _parse(firmware)
    except FormatError as error:
        problem = str(error)
    if profile is not None and volumes is not None:
        # Under TDX nothing runs in SMM, so the SMBIOS driver's place in the order is that of plain builds.
        measured = _SMBIOS_MEASUREMENT_DXE in volumes.drivers
        smbios = SmbiosMeasurement.BEFORE_BOOT_VARIABLES if measured else SmbiosMeasurement.NONE
        profile = replace(profile, smbios=smbios)
    return TdvfBuild(
        profile=profile,
        volumes=volumes,
        volumes_problem=problem,
        measures_fw_cfg=_FW_CFG_EVENT in firmware,
        release=None if profile is None else _release(profile.crtm_version),
    )


def _profile_of_code(
    firmware: bytes, tdvf: Tdvf, profiles: tuple[FirmwareProfile, ...]
) -> FirmwareProfile | None:
    """Return the profile of the code that lies behind the variables in a combined file."""
    variables = [section for section in tdvf.sections if section.type is SectionType.CFV]
    if len(variables) != 1 or not firmware.startswith(bytes(variables[0].data)):
        return None
    return find_profile(firmware[variables[0].size :], profiles)


@functools.lru_cache(maxsize=4)
def _parse(firmware: bytes) -> OvmfFirmware:
    return ovmf.parse(firmware, peiless=True)


def _release(version: str) -> tuple[int, int] | None:
    match = _RELEASE.match(version)
    return (int(match[1]), int(match[2])) if match else None
