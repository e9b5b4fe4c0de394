"""goldsmith predict tdx; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Final

from builder.boot.profiles import load_profile, load_profiles, profiles_folder
from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.disks import disk_table
from builder.cli.profiles import profile_name, tell_profile
from builder.cli.reading import parse_file, read_limited
from builder.errors import BuilderError, UsageError
from measurements.errors import FormatError, MeasurementError
from measurements.events import event_type_name
from measurements.formats import tdvf
from measurements.golden import tdx_reference
from measurements.image_layer import predict_image
from measurements.platforms.firmware import FirmwareProfile
from measurements.platforms.qemu import MAX_ACPI_BLOB_SIZE, AcpiBlobs, BootDevice
from measurements.prediction import BootPath
from measurements.profile import PlatformProfile, profile_of
from measurements.tdx import mrtd
from measurements.tdx.boot import UPSTREAM_QEMU
from measurements.tdx.firmware import examine
from measurements.tdx.inputs import FwCfgItems, TdxInputs
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import TdxPrediction, predict_tdx, prediction_to_json, running_values
from measurements.tdx.td_hob import Vmm

#: Kernels, UKIs and initrds are held in memory as a whole.
MAX_IMAGE_SIZE: Final = 1 << 30
_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?")
#: What QEMU puts into ``bootorder`` for the option ROM that starts ``-kernel``.
_DIRECT_BOOTORDER: Final = b"/rom@genroms/linuxboot_dma.bin\0"


def main(arguments: list[str]) -> int:
    """Predict MRTD, the TD HOB and RTMR0-2 of an Intel TDX trust domain, with any firmware and image."""
    given = _parser().parse_args(arguments)
    code = parse_file(given.firmware, tdvf.MAX_FIRMWARE_SIZE, _firmware)
    inputs = _inputs(given, code)
    try:
        prediction = predict_tdx(inputs)
    except FormatError as error:  # metadata and disk were parsed before
        raise BuilderError(f"{given.kernel or given.uki or given.firmware}: {error}") from error
    for warning in prediction.warnings:
        console.warn(warning)
    if given.as_profile is not None:
        tell_profile(_profile(given, inputs, prediction))
        return 0
    if given.json:
        result = prediction_to_json(prediction)
        if given.explain:
            result["pages"] = {order.value: _pages(code, order) for order in PageOrder}
        console.emit_json(result)
        return 0
    _print(prediction)
    if given.explain:
        _print_pages(code)
        _print_events(prediction)
    return 0


def _parser() -> Parser:
    parser = Parser("predict tdx", "Predict MRTD, the TD HOB and RTMR0-2 of an Intel TDX trust domain.")
    add = parser.add_argument
    add("--firmware", metavar="FILE", type=Path, required=True, help="all of it: OVMF.inteltdx*.fd, OVMF.fd")
    add("--memory", metavar="MiB", type=_count, default=2048, help="RAM (default: 2048)")
    add("--vcpus", metavar="N", type=_count, default=2, help="virtual CPUs (default: 2)")
    add("--kernel", metavar="FILE", type=Path, help="started with -kernel: a kernel or a UKI")
    add("--initrd", metavar="FILE", type=Path, help="-initrd, for --kernel")
    add("--append", metavar="TEXT", default="", help="-append, for --kernel")
    add("--uki", metavar="FILE", type=Path, help="a UKI at the removable path of --disk")
    add("--disk", metavar="FILE", type=Path, help="raw disk that holds the UKI")
    add(
        "--sector-size", metavar="BYTES", type=int, help="the disk's, 512 or 4096 (default: where its GPT is)"
    )
    add("--vmm", type=str.lower, choices=[str(vmm) for vmm in Vmm], default="qemu", help="default: qemu")
    add(
        "--qemu", metavar="VERSION", type=_version, help="release that builds the TD (default: 10.1 or later)"
    )
    add("--acpi", metavar="DIR", type=Path, help="its fw_cfg files: table-loader, rsdp, tables, … (RTMR0)")
    add("--bare", action="store_true", help="without --acpi: nothing on the PCI bus but the chipset")
    add(
        "--device",
        metavar="QEMU-DEVICE",
        action="append",
        default=[],
        help="without --acpi: one more device on bus 0, or a stand-in with its BARs; may be repeated",
    )
    add(
        "--profile",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="firmware profile, beside this user's; may be repeated",
    )
    add("--recipe", default="base", help="whose lock names the toolbox: a name below recipes/, or a path")
    add("--as-profile", metavar="NAME", help="print a platform profile of the trust domain, for any image")
    add("--explain", action="store_true", help="print each page and event, and the value after it")
    add("--json", action="store_true", help="print a JSON object")
    return parser


class _Tables:
    """The VMM's files: out of a folder, or of the toolbox's QEMU where that is the one in question."""

    def __init__(self, given: argparse.Namespace, boot: BootPath, profile: FirmwareProfile | None) -> None:
        self.acpi: AcpiBlobs | None = None
        self.smbios: bytes | None = None
        self.boot_devices: tuple[BootDevice, ...] | None = None
        self.fw_cfg = _fw_cfg(given.acpi, boot)
        if given.acpi is not None:
            self.acpi, self.smbios = _acpi(given.acpi), _optional(given.acpi / "smbios-tables")
        elif given.qemu is not None and (given.kernel is not None or given.uki is not None):
            self._ask_qemu(given, boot, profile)

    def _ask_qemu(self, given: argparse.Namespace, boot: BootPath, profile: FirmwareProfile | None) -> None:
        try:
            # The toolbox needs more than a verifier installs.
            from builder.artifacts import Machine
            from builder.boot.qemu import boot_devices
            from builder.boot.qtest import PCIEXBAR
            from builder.boot.td import CPU, td_smbios, td_tables
            from builder.cli.lending import Lender

            tools = Lender(given.recipe, console.reporter()).emulator(given.qemu)
            machine = Machine(
                type="pc-q35-{}.{}".format(*given.qemu),
                cpu=CPU,
                memory_mib=given.memory,
                vcpus=given.vcpus,
                devices=tuple(given.device),
            )
            tables = td_tables(
                tools,
                machine,
                boot,
                pciexbar=PCIEXBAR if profile is None or profile.pciexbar is None else profile.pciexbar,
                bare=given.bare,
            )
        except ModuleNotFoundError as error:
            console.warn(f"no tables of the machine: asking QEMU needs the Python package {error.name}")
            return
        except BuilderError as error:
            hint = f"; try: {error.hint}" if error.hint else ""
            console.warn(f"no tables of the machine: {error}{hint}")
            return
        if given.qemu < UPSTREAM_QEMU:
            console.warn(
                "QEMU {}.{} builds trust domains with patches alone; upstream since 10.1".format(*given.qemu)
            )
        self.smbios = td_smbios(tables, profile)
        self.acpi, self.fw_cfg = tables.acpi, FwCfgItems(bootorder=tables.bootorder)
        self.boot_devices = () if given.bare else boot_devices()


def _inputs(given: argparse.Namespace, code: bytes) -> TdxInputs:
    boot, image = _image(given.kernel, given.uki, given.disk)
    if given.kernel is None and (given.initrd is not None or given.append):
        raise UsageError("--initrd and --append go with --kernel; a UKI brings its own")
    profiles = (*(load_profile(path) for path in given.profile), *load_profiles(profiles_folder()))
    if given.device and (given.bare or given.acpi is not None or given.qemu is None):
        raise UsageError(
            "--device is for the machine of --qemu", hint="--qemu VERSION, without --bare and --acpi"
        )
    tables = _Tables(given, boot, examine(code, tdvf.parse(code), profiles).profile)
    return TdxInputs(
        vmm=Vmm(given.vmm),
        firmware_name=given.firmware.stem.lower(),
        firmware=code,
        memory_mib=given.memory,
        vcpus=given.vcpus,
        image=image,
        boot=boot,
        command_line=given.append,
        initrd=None if given.initrd is None else read_limited(given.initrd, MAX_IMAGE_SIZE),
        disk=None if given.uki is None else disk_table(given.disk, given.sector_size),
        qemu=given.qemu,
        acpi=tables.acpi,
        smbios=tables.smbios,
        fw_cfg=tables.fw_cfg,
        boot_devices=tables.boot_devices,
        profiles=profiles,
    )


def _profile(given: argparse.Namespace, inputs: TdxInputs, prediction: TdxPrediction) -> PlatformProfile:
    if inputs.image is None:
        raise UsageError(
            "--as-profile needs an image, and cuts it out again", hint="--kernel FILE with a UKI"
        )
    machine = None if inputs.qemu is None else "pc-q35-{}.{}".format(*inputs.qemu)
    try:
        return profile_of(
            predict_image(inputs.image, disk=inputs.disk),
            name=profile_name(given.as_profile),
            tdx=[tdx_reference(prediction, inputs, platform=f"{inputs.vmm}-tdx", machine=machine)],
        )
    except MeasurementError as error:
        raise BuilderError(f"{given.kernel or given.uki}: {error}") from error


def _firmware(data: bytes) -> bytes:
    tdvf.parse(data)
    return data


def _image(kernel: Path | None, uki: Path | None, disk: Path | None) -> tuple[BootPath, bytes | None]:
    if kernel is not None and uki is not None:
        raise UsageError(
            "--kernel and --uki name two images", hint="--kernel FILE, or --uki FILE --disk FILE"
        )
    if disk is not None and uki is None:
        raise UsageError("--disk without the UKI that lies on it", hint="--uki FILE --disk FILE")
    if kernel is not None:
        return BootPath.DIRECT, read_limited(kernel, MAX_IMAGE_SIZE)
    if uki is not None:
        if disk is None:
            raise UsageError(
                "--uki without the disk that it lies on",
                hint="--disk FILE; --kernel FILE starts a UKI as well",
            )
        return BootPath.DISK, read_limited(uki, MAX_IMAGE_SIZE)
    return BootPath.DIRECT, None


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected 1 or more")
    return value


def _version(text: str) -> tuple[int, int]:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}; expected a release such as 10.1")
    return int(match[1]), int(match[2])


def _acpi(folder: Path) -> AcpiBlobs:
    return AcpiBlobs(
        table_loader=read_limited(folder / "table-loader", MAX_ACPI_BLOB_SIZE),
        rsdp=read_limited(folder / "rsdp", MAX_ACPI_BLOB_SIZE),
        tables=read_limited(folder / "tables", MAX_ACPI_BLOB_SIZE),
        tpm_log=_optional(folder / "tpm-log"),
    )


def _fw_cfg(folder: Path | None, boot: BootPath) -> FwCfgItems:
    """Return the fw_cfg files that the folder has; what it has not is as in a QEMU without such options."""
    order = None if folder is None else _optional(folder / "bootorder")
    if order is None and boot is BootPath.DIRECT:
        order = _DIRECT_BOOTORDER
    if folder is None:
        return FwCfgItems(bootorder=order)
    return FwCfgItems(
        boot_menu=_optional(folder / "boot-menu") or bytes(2),
        extra_pci_roots=_optional(folder / "extra-pci-roots"),
        boot_menu_wait=_optional(folder / "boot-menu-wait"),
        reserved_memory_end=_optional(folder / "reserved-memory-end"),
        mmio64=_optional(folder / "X-PciMmio64Mb"),
        bootorder=order,
    )


def _optional(path: Path) -> bytes | None:
    return read_limited(path, MAX_ACPI_BLOB_SIZE) if path.exists() else None


def _print(prediction: TdxPrediction) -> None:
    rows = [
        [
            f"MRTD {order.value.replace('_', ' ')}",
            prediction.mrtd[order].hex() if order in prediction.mrtd else "-",
            prediction.mrtd_reason or "",
        ]
        for order in PageOrder
    ]
    rows += [
        [
            f"RTMR{register.index}",
            "\n".join(course.value(mrtd.BANK).hex() for course in register.courses) or "-",
            register.reason or "\n".join(course.label for course in register.courses),
        ]
        for register in prediction.registers
    ]
    console.table(
        f"TDX, {prediction.firmware.name}, SHA-384", ["register", "value", "course or reason"], rows
    )


def _pages(firmware: bytes, order: PageOrder) -> list[dict[str, Any]]:
    return [
        {
            "address": f"0x{step.address:x}",
            "section": step.type.title,
            "operations": [
                name for name, done in (("MEM.PAGE.ADD", step.added), ("MR.EXTEND", step.extended)) if done
            ],
            "value": step.value.hex(),
        }
        for step in mrtd.explain(tdvf.parse(firmware), order)
    ]


def _print_pages(firmware: bytes) -> None:
    for order in PageOrder:
        console.out("")
        console.table(
            f"pages, {order.value}",
            ["address", "section", "what", "MRTD after it"],
            [
                [page["address"], page["section"], " + ".join(page["operations"]), page["value"]]
                for page in _pages(firmware, order)
            ],
        )


def _print_events(prediction: TdxPrediction) -> None:
    console.out("")
    console.table(
        "events",
        ["register", "type", "digest", "cause", "what", "value after it"],
        [
            [
                f"RTMR{register.index}",
                "-" if event.type is None else event_type_name(event.type),
                event.digest(mrtd.BANK).hex(),
                event.cause,
                event.description,
                value.hex(),
            ]
            for register in prediction.registers
            for event, value in running_values(register.events)
        ],
    )
