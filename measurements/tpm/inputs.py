"""What a prediction is made from: bytes and values, no paths."""

from __future__ import annotations

from dataclasses import dataclass, field

from measurements.errors import PredictionError
from measurements.events import DEFAULT_BANKS, HashAlgorithm
from measurements.formats.gpt import Gpt
from measurements.platforms.firmware import FirmwareProfile
from measurements.platforms.qemu import AcpiBlobs, BootDevice
from measurements.prediction import BootPath, FirmwareIdentity

QEMU_VTPM = "qemu-vtpm"


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmInputs:
    """One launch of one image on one machine.

    Attributes:
        platform: ``"qemu-vtpm"``: q35, OVMF, swtpm.
        firmware_name: the name a recipe gives the firmware.
        firmware: the firmware file (``OVMF_CODE*.fd`` or ``OVMF.fd``).
        boot: removable path on disk, or ``-kernel``.
        machine: versioned machine type ("pc-q35-10.0").
        memory_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        image: what is started first: a UKI, or any other EFI application.
        disk: the disk's partition table; needed for a disk boot, ignored for ``-kernel``.
        variables: the variable store file (``OVMF_VARS*.fd``); ``None`` for one that holds no variables.
        acpi: QEMU's ACPI blobs for this machine; ``None`` when there is no QEMU to ask.
        smbios: QEMU's ``etc/smbios/smbios-tables``; ``None`` when unknown.
        boot_devices: devices from which the firmware can boot; ``None`` when unknown.
        random_numbers: whether the machine gives UEFI random numbers (RDRAND, virtio-rng), on which network boot
            depends; ``None`` when unknown.
        profiles: calibrated firmware profiles; they take precedence over the built-in table.
        measures_machine: whether userspace extends PCR 15 (systemd-pcrmachine, systemd-pcrfs).
        banks: PCR banks to predict.
        gpus: how many GPUs the host passes through; they show in the ACPI tables.
        acpi_problem: why there are no ACPI blobs, where that is known.
    """

    platform: str = QEMU_VTPM
    firmware_name: str
    firmware: bytes = field(repr=False)
    boot: BootPath
    machine: str
    memory_mib: int
    vcpus: int
    image: bytes = field(repr=False)
    disk: Gpt | None = None
    variables: bytes | None = field(default=None, repr=False)
    acpi: AcpiBlobs | None = None
    smbios: bytes | None = field(default=None, repr=False)
    boot_devices: tuple[BootDevice, ...] | None = None
    random_numbers: bool | None = None
    profiles: tuple[FirmwareProfile, ...] = ()
    measures_machine: bool = True
    banks: tuple[HashAlgorithm, ...] = DEFAULT_BANKS
    gpus: int = 0
    acpi_problem: str | None = None

    def __post_init__(self) -> None:
        if self.platform != QEMU_VTPM:
            raise PredictionError(f"unknown platform {self.platform!r}; this calculator knows {QEMU_VTPM!r}")
        if not self.banks:
            raise PredictionError("no PCR bank to predict; name at least one, such as sha256")
        if self.memory_mib < 1 or self.vcpus < 1:
            raise PredictionError(
                f"a machine with {self.memory_mib} MiB and {self.vcpus} vCPUs cannot boot; expected at "
                "least 1"
            )

    def firmware_identity(self) -> FirmwareIdentity:
        """Return name and digests of the firmware file."""
        return FirmwareIdentity.of(self.firmware_name, self.firmware)
