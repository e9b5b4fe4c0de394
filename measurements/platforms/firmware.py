"""Firmware profiles: what a firmware build measures that its file alone does not show.

A profile is keyed by the SHA-384 of the firmware file. The table below holds the builds whose behaviour was
observed; any other build is "not predictable" until ``measurements.platforms.calibration`` derives a profile
from an event log of that build booted alone. A profile travels as JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from measurements.errors import FormatError
from measurements.events import Digest, Digests, HashAlgorithm
from measurements.platforms import observed
from measurements.platforms._json import Reader
from measurements.prediction import BootPath

MAX_PATCHES: Final = 16
MAX_OBSERVATIONS: Final = 1024
MAX_BOOT_OPTIONS: Final = 32

#: Files of the DXE volume that OVMF offers as boot options (OvmfPkg/Library/PlatformBootManagerLib).
UI_APP: Final = UUID("462caa21-7614-4503-836e-8ab6f4662331")
BOOT_MANAGER_MENU_APP: Final = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
SHELL: Final = UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")

_PROFILE_KEYS = (
    "sha384", "name", "crtm_version", "peifv", "acpi_measured", "pciexbar", "smbios",
    "boot_options", "shell", "secure_boot", "secure_boot_unset",
)  # fmt: skip


class PeifvMode(StrEnum):
    """How the PEI volume that Tcg2Pei hashes relates to the one in the file; PEIMs run in it first."""

    FILE = "file"  # byte for byte the same
    PATCHED = "patched"  # known bytes change, whatever the virtual machine looks like
    CALIBRATE = "calibrate"  # depends on the machine: only an observed digest will do


class SmbiosMeasurement(StrEnum):
    """When SmbiosMeasurementDxe runs: its ReadyToBoot callback and Tcg2Dxe's run in dispatch order."""

    NONE = "none"
    BEFORE_BOOT_VARIABLES = "before-boot-variables"
    AFTER_SEPARATORS = "after-separators"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Bytes that a PEIM writes over its own volume before the volume is measured."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeifvObservation:
    """The digest of the PEI volume that one virtual machine measured."""

    memory_mib: int
    vcpus: int
    boot: BootPath
    digests: Digests

    @property
    def machine(self) -> tuple[int, int, BootPath]:
        """What of the machine decides the digest."""
        return (self.memory_mib, self.vcpus, self.boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinOption:
    """A boot option that the firmware makes for an application in its own DXE volume."""

    description: str
    attributes: int
    file: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareProfile:
    """What one firmware build measures beside the bytes of its file.

    Attributes:
        sha384: of the firmware file, 96 hex digits.
        name: for readers: package, version and file.
        crtm_version: PcdFirmwareVersionString, measured as the S-CRTM version; some builds leave it empty.
        peifv: how the measured PEI volume follows from the file.
        patches: for mode PATCHED.
        observations: for mode CALIBRATE; at most one per machine.
        acpi_measured: whether the fw_cfg ACPI blobs are measured (edk2 >= 202302).
        pciexbar: base that the firmware programs into q35's PCIEXBAR before QEMU builds the ACPI tables;
            ``None`` when unknown.
        smbios: whether and when the SMBIOS table is measured (edk2 >= 202505).
        boot_options: options registered before those of devices, in order.
        shell: the option registered after those of devices, never with ``-kernel``; ``None`` without shell.
        secure_boot: whether the build enforces Secure Boot once a platform key is enrolled.
        secure_boot_unset: data of the SecureBoot variable while it is off: empty (no such variable) or 00.
    """

    sha384: str
    name: str
    crtm_version: str
    peifv: PeifvMode
    patches: tuple[Patch, ...] = ()
    observations: tuple[PeifvObservation, ...] = ()
    acpi_measured: bool
    pciexbar: int | None
    smbios: SmbiosMeasurement
    boot_options: tuple[BuiltinOption, ...]
    shell: BuiltinOption | None
    secure_boot: bool
    secure_boot_unset: bytes

    def __post_init__(self) -> None:
        if (self.peifv is PeifvMode.PATCHED) != bool(self.patches):
            raise FormatError(
                f"firmware profile {self.name!r}: mode {self.peifv} with {len(self.patches)} patches; "
                'patches belong to mode "patched", which needs at least one'
            )
        if self.observations and self.peifv is not PeifvMode.CALIBRATE:
            raise FormatError(
                f"firmware profile {self.name!r}: mode {self.peifv} with observations; they belong to "
                'mode "calibrate"'
            )

    def observation(self, memory_mib: int, vcpus: int, boot: BootPath) -> PeifvObservation | None:
        """Return what a machine of this shape measured, if one was observed."""
        machine = (memory_mib, vcpus, boot)
        return next((seen for seen in self.observations if seen.machine == machine), None)

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values; ``from_json`` reads them back."""
        peifv: dict[str, Any] = {"mode": self.peifv.value}
        if self.peifv is PeifvMode.PATCHED:
            peifv["patches"] = [{"offset": patch.offset, "bytes": patch.data.hex()} for patch in self.patches]
        if self.peifv is PeifvMode.CALIBRATE:
            peifv["observed"] = [
                {
                    "memory_mib": seen.memory_mib,
                    "vcpus": seen.vcpus,
                    "boot": seen.boot.value,
                    "digests": {bank.value: digest.hex() for bank, digest in seen.digests.items()},
                }
                for seen in self.observations
            ]
        return {
            "sha384": self.sha384,
            "name": self.name,
            "crtm_version": self.crtm_version,
            "peifv": peifv,
            "acpi_measured": self.acpi_measured,
            "pciexbar": self.pciexbar,
            "smbios": self.smbios.value,
            "boot_options": [_option_to_json(option) for option in self.boot_options],
            "shell": None if self.shell is None else _option_to_json(self.shell),
            "secure_boot": self.secure_boot,
            "secure_boot_unset": self.secure_boot_unset.hex(),
        }

    @classmethod
    def from_json(cls, value: object) -> FirmwareProfile:
        """Read a profile, strictly: unknown or missing keys, wrong types and lengths are errors.

        Raises:
            FormatError: naming the key at fault.
            LimitError: a list is longer than its limit.
        """
        top = Reader(value, "firmware profile", _PROFILE_KEYS)
        mode, patches, observations = _peifv_from_json(top.value("peifv"))
        shell = top.value("shell")
        return cls(
            sha384=top.hex("sha384", 48).hex(),
            name=top.text("name"),
            crtm_version=top.text("crtm_version", minimum=0),
            peifv=mode,
            patches=patches,
            observations=observations,
            acpi_measured=top.boolean("acpi_measured"),
            pciexbar=None if top.value("pciexbar") is None else top.integer("pciexbar", 1 << 40),
            smbios=_smbios_from_json(top.text("smbios")),
            boot_options=tuple(
                _option_from_json(option) for option in top.array("boot_options", MAX_BOOT_OPTIONS)
            ),
            shell=None if shell is None else _option_from_json(shell),
            secure_boot=top.boolean("secure_boot"),
            secure_boot_unset=top.hex("secure_boot_unset", 0, 1),
        )


def find_profile(firmware: bytes, calibrated: Iterable[FirmwareProfile] = ()) -> FirmwareProfile | None:
    """Return this firmware file's profile: a calibrated one first, else the table's; ``None`` if unknown.

    Machines that the one lacks are looked up in the others, so a calibrated machine adds to those of the table.
    """
    key = hashlib.sha384(firmware).hexdigest()
    known = [profile for profile in (*calibrated, *PROFILES) if profile.sha384 == key]
    if not known or known[0].peifv is not PeifvMode.CALIBRATE:
        return known[0] if known else None
    seen: dict[tuple[int, int, BootPath], PeifvObservation] = {}
    for profile in known:
        for each in profile.observations:
            seen.setdefault(each.machine, each)
    return replace(known[0], observations=tuple(seen.values()))


def _smbios_from_json(text: str) -> SmbiosMeasurement:
    try:
        return SmbiosMeasurement(text)
    except ValueError:
        known = ", ".join(repr(member.value) for member in SmbiosMeasurement)
        raise FormatError(f"firmware profile 'smbios' is {text!r}; expected one of {known}") from None


def _option_to_json(option: BuiltinOption) -> dict[str, Any]:
    return {
        "description": option.description,
        "attributes": option.attributes,
        "file": str(option.file),
    }


def _option_from_json(value: object) -> BuiltinOption:
    reader = Reader(value, "firmware profile boot option", ("description", "attributes", "file"))
    return BuiltinOption(
        description=reader.text("description"),
        attributes=reader.integer("attributes", 0xFFFFFFFF),
        file=reader.guid("file"),
    )


def _peifv_from_json(
    value: object,
) -> tuple[PeifvMode, tuple[Patch, ...], tuple[PeifvObservation, ...]]:
    mode = Reader(value, "firmware profile peifv", ("mode",), optional=("patches", "observed"))
    match mode.text("mode"):
        case PeifvMode.FILE:
            Reader(value, 'firmware profile peifv (mode "file")', ("mode",))
            return PeifvMode.FILE, (), ()
        case PeifvMode.PATCHED:
            patched = Reader(value, 'firmware profile peifv (mode "patched")', ("mode", "patches"))
            patches = tuple(_patch_from_json(patch) for patch in patched.array("patches", MAX_PATCHES))
            return PeifvMode.PATCHED, patches, ()
        case PeifvMode.CALIBRATE:
            observed = Reader(value, 'firmware profile peifv (mode "calibrate")', ("mode", "observed"))
            observations = tuple(
                _observation_from_json(seen) for seen in observed.array("observed", MAX_OBSERVATIONS)
            )
            if len({seen.machine for seen in observations}) != len(observations):
                raise FormatError("firmware profile peifv.observed lists one machine twice")
            return PeifvMode.CALIBRATE, (), observations
        case other:
            raise FormatError(
                f'firmware profile peifv.mode is {other!r}; expected "file", "patched" or "calibrate"'
            )


def _patch_from_json(value: object) -> Patch:
    reader = Reader(value, "firmware profile patch", ("offset", "bytes"))
    return Patch(offset=reader.integer("offset", 1 << 32), data=reader.hex("bytes", *range(1, 65)))


def _observation_from_json(value: object) -> PeifvObservation:
    reader = Reader(value, "firmware profile observation", ("memory_mib", "vcpus", "boot", "digests"))
    boot = reader.text("boot")
    if boot not in list(BootPath):
        raise FormatError(f'firmware profile observation \'boot\' is {boot!r}; expected "disk" or "direct"')
    raw = reader.value("digests")
    banks = Reader(raw, "firmware profile observation digests", (), optional=tuple(HashAlgorithm))
    digests: Mapping[HashAlgorithm, Digest] = {
        bank: Digest(bank, banks.hex(bank, bank.size)) for bank in HashAlgorithm if banks.has(bank)
    }
    if not digests:
        raise FormatError("firmware profile observation has no digest; expected at least one bank")
    return PeifvObservation(
        memory_mib=reader.integer("memory_mib", 1 << 32),
        vcpus=reader.integer("vcpus", 1 << 16),
        boot=BootPath(boot),
        digests=digests,
    )


# OvmfPkg/Library/PlatformBootManagerLib, MdeModulePkg/Universal/BdsDxe: attributes are LOAD_OPTION_ACTIVE
# (1), LOAD_OPTION_HIDDEN (8), LOAD_OPTION_CATEGORY_APP (0x100), UEFI 2.10, 3.1.3.
_OPTIONS_UNTIL_202502 = (BuiltinOption(description="UiApp", attributes=0x109, file=UI_APP),)
OPTIONS_SINCE_202505 = (
    BuiltinOption(description="BootManagerMenuApp", attributes=0x109, file=BOOT_MANAGER_MENU_APP),
    BuiltinOption(description="EFI Firmware Setup", attributes=0x101, file=UI_APP),
)
_SHELL_UNTIL_202502 = BuiltinOption(description="EFI Internal Shell", attributes=0x001, file=SHELL)
_SHELL_SINCE_202505 = BuiltinOption(description="EFI Internal Shell", attributes=0x101, file=SHELL)


def _debian(
    sha384: str,
    name: str,
    version: str,
    *,
    peifv: PeifvMode,
    patches: tuple[Patch, ...] = (),
    observations: observed.Observed | None = None,
) -> FirmwareProfile:
    """Return the profile of one of Debian's x64 builds, whose traits follow from release and variant."""
    since_202505 = version >= "2025.05"
    enforcing = ".secboot" in name
    smbios = SmbiosMeasurement.NONE
    if since_202505:
        smbios = SmbiosMeasurement.AFTER_SEPARATORS if enforcing else SmbiosMeasurement.BEFORE_BOOT_VARIABLES
    shell = _SHELL_SINCE_202505 if since_202505 else _SHELL_UNTIL_202502
    return FirmwareProfile(
        sha384=sha384,
        name=name,
        crtm_version=version,
        peifv=peifv,
        patches=patches,
        observations=tuple(
            PeifvObservation(
                memory_mib=memory_mib,
                vcpus=vcpus,
                boot=boot,
                digests={
                    HashAlgorithm(bank): Digest(HashAlgorithm(bank), bytes.fromhex(digest))
                    for bank, digest in digests.items()
                },
            )
            for (memory_mib, vcpus, boot), digests in (observations or {}).items()
        ),
        acpi_measured=True,
        pciexbar=0xE0000000,
        smbios=smbios,
        boot_options=OPTIONS_SINCE_202505 if since_202505 else _OPTIONS_UNTIL_202502,
        shell=None if enforcing else shell,  # Debian builds with Secure Boot leave the shell out
        secure_boot=enforcing,
        secure_boot_unset=b"\0" if enforcing else b"",
    )


#: PeiCore caches the ACPI timer's port, q35's PMBASE 0x600 + 8, in a global of its own image.
_TIMER_PORT = bytes.fromhex("0806")

#: Debian's builds as observed under QEMU 10.0 (q35, swtpm); the logs are tests/vectors/launches/alone-*.
PROFILES: Final[tuple[FirmwareProfile, ...]] = (
    _debian(
        "f752fddb2ea532577d1495efe4f499943857936654b3623ac4a317895abbd98b599b05d646cf5d917fd5483a2ffacc10",
        "Debian ovmf 2025.02-8+deb13u1 OVMF_CODE_4M.fd",
        "2025.02-8+deb13u1",
        peifv=PeifvMode.PATCHED,
        patches=(Patch(offset=0x6E50, data=_TIMER_PORT),),
    ),
    _debian(
        "560168748d2254346a6d61f4e18bfec85feecbac7b20b371effc8b227833432a52684ef6ef007c1796e8d13a64346773",
        "Debian ovmf-generic 2026.08+ds-2 OVMF_CODE_4M.fd",
        "2026.08+ds-2",
        peifv=PeifvMode.FILE,
    ),
    _debian(
        "d479441789cb174ebc86c2372440a06e394f4d10a53980250fffba9ae9987779208dde2dd043597f12ef194fbcc672e8",
        "Debian ovmf 2025.02-8+deb13u1 OVMF_CODE_4M.secboot.fd",
        "2025.02-8+deb13u1",
        peifv=PeifvMode.CALIBRATE,
        observations=observed.OVMF_2025_02,
    ),
    _debian(
        "cfdfad21e947d763a7f02350197ecb5c389175b47445e263f7e3ebbd121f62a2aec0c69fcf45cd108854fd6e8be39bc4",
        "Debian ovmf-generic 2026.08+ds-2 OVMF_CODE_4M.secboot.fd",
        "2026.08+ds-2",
        peifv=PeifvMode.CALIBRATE,
        observations=observed.OVMF_2026_08,
    ),
)
