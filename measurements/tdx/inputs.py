"""What a prediction of a trust domain's registers is made from: bytes and values, no paths."""

from __future__ import annotations

from dataclasses import dataclass, field

from measurements.errors import PredictionError
from measurements.formats.gpt import Gpt
from measurements.platforms.firmware import FirmwareProfile
from measurements.platforms.qemu import AcpiBlobs, BootDevice
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.tdx.td_hob import Vmm

#: Bytes of a kernel's command line that are looked at; Linux takes 2048.
MAX_COMMAND_LINE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfgItems:
    """fw_cfg files that firmware without PEI phase measures; ``None`` for one that the VMM does not have.

    Attributes:
        boot_menu: item BootMenu, 2 bytes; there in every QEMU.
        extra_pci_roots: ``etc/extra-pci-roots``, 8 bytes.
        boot_menu_wait: ``etc/boot-menu-wait``, 2 bytes.
        reserved_memory_end: ``etc/reserved-memory-end``, 8 bytes.
        mmio64: ``opt/ovmf/X-PciMmio64Mb``.
        bootorder: ``bootorder``; empty counts as absent.
    """

    boot_menu: bytes = bytes(2)
    extra_pci_roots: bytes | None = None
    boot_menu_wait: bytes | None = None
    reserved_memory_end: bytes | None = None
    mmio64: bytes | None = None
    bootorder: bytes | None = None

    def measured(self) -> tuple[tuple[str, bytes], ...]:
        """Return (name, contents) in measured order.

        edk2 >= 202505, OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c: mCacheFwCfgList; order is the
        specification. A file of another size than expected is passed over.
        """
        items = (
            ("etc/extra-pci-roots", self.extra_pci_roots, 8),
            ("BootMenu", self.boot_menu, 2),
            ("etc/boot-menu-wait", self.boot_menu_wait, 2),
            ("etc/reserved-memory-end", self.reserved_memory_end, 8),
            ("opt/ovmf/X-PciMmio64Mb", self.mmio64, None),
            ("bootorder", self.bootorder, None),
        )
        return tuple((name, data) for name, data, size in items if data and size in (None, len(data)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxInputs:
    """One launch of one image in one trust domain.

    Attributes:
        vmm: who builds the trust domain.
        firmware_name: the name a recipe gives the firmware.
        firmware: the whole firmware file (``OVMF.inteltdx*.fd``, ``OVMF.fd``): code and variables.
        memory_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs; they show in the ACPI tables alone.
        image: what is started: a kernel, a UKI, or any other EFI application; ``None`` to predict what no image
            decides.
        boot: ``-kernel``, or the removable path of a disk.
        command_line: of ``-append``, for a kernel; a UKI brings its own.
        initrd: of ``-initrd``, for a kernel; ``None`` without.
        disk: the disk's partition table; needed for a disk boot.
        qemu: (major, minor) of the QEMU that builds the trust domain; ``None`` for one with upstream's TDX support
            (10.1 and later).
        acpi: the VMM's ACPI blobs; ``None`` when unknown.
        smbios: QEMU's ``etc/smbios/smbios-tables``; ``None`` when unknown.
        fw_cfg: fw_cfg files that builds without PEI phase measure; ``None`` when unknown.
        boot_devices: devices from which the firmware can boot; ``None`` when unknown.
        random_numbers: whether the machine gives UEFI random numbers; ``None`` when unknown. Processors with TDX
            have RDRAND.
        profiles: firmware profiles; they take precedence over the built-in table.
        gpus: how many GPUs the host passes through; they show in the ACPI tables alone.
        acpi_problem: why there are no ACPI blobs, where that is known.
    """

    vmm: Vmm = Vmm.QEMU
    firmware_name: str
    firmware: bytes = field(repr=False)
    memory_mib: int
    vcpus: int
    image: bytes | None = field(default=None, repr=False)
    boot: BootPath = BootPath.DIRECT
    command_line: str = ""
    initrd: bytes | None = field(default=None, repr=False)
    disk: Gpt | None = None
    qemu: tuple[int, int] | None = None
    acpi: AcpiBlobs | None = None
    smbios: bytes | None = field(default=None, repr=False)
    fw_cfg: FwCfgItems | None = None
    boot_devices: tuple[BootDevice, ...] | None = None
    random_numbers: bool | None = True
    profiles: tuple[FirmwareProfile, ...] = ()
    gpus: int = 0
    acpi_problem: str | None = None

    def __post_init__(self) -> None:
        if self.memory_mib < 1 or self.vcpus < 1:
            raise PredictionError(
                f"a trust domain with {self.memory_mib} MiB and {self.vcpus} vCPUs cannot boot; expected at "
                "least 1"
            )
        if len(self.command_line.encode()) > MAX_COMMAND_LINE or "\0" in self.command_line:
            raise PredictionError(
                f"the command line has {len(self.command_line)} characters; expected at most "
                f"{MAX_COMMAND_LINE} bytes and no NUL"
            )
        if self.vmm is Vmm.GCE and self.image is not None and self.boot is BootPath.DIRECT:
            raise PredictionError("Compute Engine starts images from disks alone; pass a UKI and its disk")

    @property
    def memory(self) -> int:
        """Guest RAM in bytes."""
        return self.memory_mib << 20

    def firmware_identity(self) -> FirmwareIdentity:
        """Return name and digests of the firmware file."""
        return FirmwareIdentity.of(self.firmware_name, self.firmware)
