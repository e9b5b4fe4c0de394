"""goldsmith predict: one sub-verb for each kind of register; TPM PCRs are here, TDX in a file of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from builder.artifacts import Machine
from builder.boot.profiles import load_profile, load_profiles, profiles_folder
from builder.boot.qemu import boot_devices, random_numbers
from builder.boot.qtest import FwCfgTables
from builder.cli import console
from builder.cli.disks import disk_table
from builder.cli.files import parse_file, read_limited
from builder.cli.lending import Lender
from builder.cli.profiles import profile_name, tell_profile
from builder.errors import BuilderError, UsageError
from builder.progress import Reporter
from builder.store import Store
from builder.tables import tables_of_machine
from measurements.errors import FormatError, NotPredictableError
from measurements.events import DEFAULT_BANKS, HashAlgorithm, event_type_name
from measurements.formats import varstore
from measurements.formats.ovmf import MAX_FIRMWARE_SIZE, needs_smm
from measurements.image_layer import predict_image
from measurements.platforms.firmware import FirmwareProfile, find_profile
from measurements.predict import TpmInputs, predict_tpm, prediction_to_json
from measurements.prediction import BootPath, Prediction
from measurements.profile import PlatformProfile, profile_of

#: A UKI is held in memory as a whole.
MAX_UKI_SIZE: Final = 1 << 30
_MACHINE = re.compile(r"pc-q35-\d{1,2}\.\d{1,2}")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(
    help="Predict the registers of any UKI, disk and firmware.",
    epilog="Beside it: goldsmith predict snp, tdx, igvm, profile, compose.",
)
def _predict() -> None:
    """Keep `tpm` a sub-verb while it is the only one."""


@app.command()
def tpm(
    firmware: Annotated[
        str, typer.Option(metavar="NAME-or-FILE", help="OVMF_CODE*.fd, or a firmware of the recipe's lock")
    ],
    uki: Annotated[Path, typer.Option(metavar="FILE", help="what the firmware starts: a UKI")],
    disk: Annotated[
        Path | None, typer.Option(metavar="FILE", help="raw disk that holds the UKI; not with --direct")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="the UKI is started with -kernel")] = False,
    secure_boot: Annotated[
        Path | None,
        typer.Option(metavar="VARS", help="variable store with Secure Boot keys (default: no variables)"),
    ] = None,
    memory: Annotated[int, typer.Option(metavar="MiB", min=1, help="RAM")] = 2048,
    vcpus: Annotated[int, typer.Option(metavar="N", min=1, help="virtual CPUs")] = 2,
    machine: Annotated[str, typer.Option(metavar="TYPE", help="versioned machine type")] = "pc-q35-10.0",
    cpu: Annotated[str, typer.Option(metavar="MODEL", help="QEMU CPU model")] = "qemu64",
    smm: Annotated[
        bool | None,
        typer.Option(
            "--smm/--no-smm",
            help="the machine has system management mode (default: if the firmware needs it)",
        ),
    ] = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="calibrated firmware profile, beside this user's; may be repeated"),
    ] = None,
    sector_size: Annotated[
        int | None, typer.Option(metavar="BYTES", help="the disk's, 512 or 4096 (default: where its GPT is)")
    ] = None,
    acpi: Annotated[
        bool, typer.Option("--acpi/--no-acpi", help="ask QEMU for the machine's tables (PCR 1)")
    ] = True,
    machine_unmeasured: Annotated[
        bool,
        typer.Option(
            "--machine-unmeasured", help="the image masks systemd-pcrmachine and pcrfs: PCR 15 stays 0"
        ),
    ] = False,
    banks: Annotated[str, typer.Option(metavar="LIST", help="PCR banks")] = ",".join(DEFAULT_BANKS),
    recipe: Annotated[
        str, typer.Option(help="whose lock names toolbox and firmware: a name below recipes/, or a path")
    ] = "base",
    events: Annotated[
        bool, typer.Option("--events", help="print the events that explain each value")
    ] = False,
    as_profile: Annotated[
        str | None,
        typer.Option(
            "--as-profile", metavar="NAME", help="print a platform profile of the machine, for any image"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Predict PCR 0-15 of the virtual machine that `goldsmith boot` starts, with any UKI, disk and firmware."""
    wanted = _banks(banks)
    if not _MACHINE.fullmatch(machine):
        raise UsageError(
            f"--machine {machine} is no versioned q35 machine type", hint="--machine pc-q35-10.0"
        )
    boot = BootPath.DIRECT if direct else BootPath.DISK
    reporter = console.reporter()
    lending = Lender(recipe, reporter)
    name, code = _firmware(firmware, lending)
    image = read_limited(uki, MAX_UKI_SIZE)
    table = None if direct else disk_table(disk, sector_size)
    variables = None if secure_boot is None else parse_file(secure_boot, varstore.MAX_FILE_SIZE, _store)
    profiles = (*(load_profile(path) for path in profile or ()), *load_profiles(profiles_folder()))
    shape = Machine(
        type=machine,
        cpu=cpu,
        memory_mib=memory,
        vcpus=vcpus,
        smm=needs_smm(code) if smm is None else smm,
    )
    tables = _tables(lending, reporter, shape, boot, find_profile(code, profiles)) if acpi else None
    inputs = TpmInputs(
        firmware_name=name,
        firmware=code,
        boot=boot,
        machine=machine,
        memory_mib=memory,
        vcpus=vcpus,
        image=image,
        disk=table,
        variables=variables,
        acpi=None if tables is None else tables.acpi,
        smbios=None if tables is None else tables.smbios,
        boot_devices=boot_devices(),
        random_numbers=random_numbers(shape),
        profiles=profiles,
        measures_machine=not machine_unmeasured,
        banks=wanted,
    )
    try:
        prediction = predict_tpm(inputs)
        if as_profile is not None:
            tell_profile(_profile(profile_name(as_profile), inputs, prediction))
            return
    except FormatError as error:  # disk and variables were parsed before
        raise BuilderError(f"{uki}: {error}") from error
    if json:
        console.emit_json(prediction_to_json(prediction, wanted))
        return
    _print_registers(prediction, wanted)
    if events:
        _print_events(prediction, wanted[0])


def _profile(name: str, inputs: TpmInputs, prediction: Prediction) -> PlatformProfile:
    layer = predict_image(
        inputs.image,
        disk=inputs.disk,
        variables=inputs.variables if prediction.shape.secure_boot else None,
        measures_machine=inputs.measures_machine,
        banks=inputs.banks,
    )
    return profile_of(layer, name=name, predictions=[prediction])


def _tables(
    lending: Lender, reporter: Reporter, machine: Machine, boot: BootPath, profile: FirmwareProfile | None
) -> FwCfgTables | None:
    """Return the machine's tables, or None, which is said, when QEMU cannot be had or refuses it."""
    try:
        with reporter.phase("tables of the machine"):
            return tables_of_machine(
                machine,
                boot,
                tools=lending.tools(),
                store=Store.default(),
                pciexbar=None if profile is None else profile.pciexbar,
            )
    except (BuilderError, NotPredictableError) as error:
        hint = getattr(error, "hint", None)
        reporter.note(
            f"PCR 1 is not pinned, there are no tables of the machine: {error}"
            + (f"; try: {hint}" if hint else "")
        )
        return None


def _firmware(wanted: str, lending: Lender) -> tuple[str, bytes]:
    path = Path(wanted)
    if path.is_file():
        return path.stem.lower(), read_limited(path, MAX_FIRMWARE_SIZE)
    if "/" in wanted:
        raise UsageError(f"cannot read {wanted}: there is no such file")
    return wanted, read_limited(lending.firmware(wanted), MAX_FIRMWARE_SIZE)


def _store(data: bytes) -> bytes:
    varstore.parse(data)
    return data


def _banks(text: str) -> tuple[HashAlgorithm, ...]:
    try:
        banks = {HashAlgorithm(name.strip()) for name in text.split(",")}
    except ValueError:
        known = ", ".join(HashAlgorithm)
        raise UsageError(
            f"--banks {text}: a list of {known} was expected", hint="--banks sha256,sha384"
        ) from None
    return tuple(bank for bank in HashAlgorithm if bank in banks)


def _print_registers(prediction: Prediction, banks: tuple[HashAlgorithm, ...]) -> None:
    for bank in banks:
        console.table(
            f"{prediction.shape.name}, {bank}",
            ["PCR", "value", "depends on", "reason"],
            [
                [
                    str(register.index),
                    "\n".join(value.hex() for value in register.values(bank)) or "-",
                    register.stability.value,
                    register.reason or "",
                ]
                for register in prediction.registers
            ],
        )
        console.out("")


def _print_events(prediction: Prediction, bank: HashAlgorithm) -> None:
    console.table(
        f"events, {bank}",
        ["PCR", "course", "type", "digest", "cause", "what"],
        [
            [
                str(register.index),
                course.label,
                "-" if event.type is None else event_type_name(event.type),
                event.digest(bank).hex(),
                event.cause,
                event.description,
            ]
            for register in prediction.registers
            for course in register.alternatives
            for event in course.events
        ],
    )
