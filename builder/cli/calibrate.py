"""goldsmith calibrate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console
from builder.cli.files import read_limited

_LARGEST_FIRMWARE = 64 * 1024 * 1024


def command(
    firmware: Annotated[Path, typer.Argument(metavar="FIRMWARE", help="OVMF_CODE*.fd")],
    variables: Annotated[
        Path | None,
        typer.Option("--vars", metavar="FILE", help="its variable store (default: the OVMF_VARS beside it)"),
    ] = None,
    memory: Annotated[int, typer.Option(metavar="MiB", help="RAM of the machine", min=256)] = 2048,
    vcpus: Annotated[int, typer.Option(metavar="N", help="its virtual CPUs", min=1)] = 2,
    smm: Annotated[
        bool | None,
        typer.Option(
            "--smm/--no-smm", help="with system management mode (default: if the firmware needs it)"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="profile (default: in this user's data folder)"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="recipe whose locked toolbox boots the firmware")] = "base",
    json: Annotated[bool, typer.Option("--json", help="print the profile as JSON")] = False,
) -> None:
    """Boot a firmware alone and record what it measures, so that its registers can be predicted.

    Where the values depend on the machine, calibrate once for each memory size and number of CPUs: one profile
    collects them.
    """
    from builder.artifacts import Firmware, Machine
    from builder.boot.calibrate import calibrate
    from builder.boot.profiles import profiles_folder, save_profile
    from builder.boot.qtest import machine_tables
    from builder.errors import UsageError
    from builder.fetch import fetch
    from builder.inputs import InputOptions, open_sources
    from builder.lock import load_lock
    from builder.recipe import find_recipe, load_recipe
    from builder.store import Store
    from builder.toolbox import unpack_toolbox
    from measurements.formats import eventlog, ovmf
    from measurements.platforms.calibration import derive_profile
    from measurements.platforms.firmware import PeifvMode
    from measurements.prediction import BootPath

    code = read_limited(firmware, _LARGEST_FIRMWARE)
    store_file = variables or _store_beside(firmware)
    if store_file is None or not store_file.is_file():
        raise UsageError(f"{firmware} has no variable store beside it", hint="name it with --vars FILE")
    reporter = console.reporter()
    loaded = load_recipe(find_recipe(recipe))
    lock = load_lock(loaded)
    store = Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.members("toolbox"), store, sources, recipe=loaded.name, reporter=reporter)
    tools = unpack_toolbox(lock, store)
    platform = next((item for item in loaded.platforms if item.name == "qemu-vtpm"), None)
    if platform is None:
        raise UsageError(f"the recipe {loaded.name} declares no qemu-vtpm platform to calibrate for")

    machine = Machine(
        type=platform.machine,
        cpu=platform.cpu,
        memory_mib=memory,
        vcpus=vcpus,
        smm=ovmf.needs_smm(code) if smm is None else smm,
    )
    build = Firmware(name=firmware.name, package="", version="", code=firmware, variables=store_file)
    log = eventlog.parse(calibrate(tools, build, machine, reporter=reporter))
    tables = {
        base: machine_tables(tools, machine, build, BootPath.DISK, pciexbar=base, bare=True)
        for base in (0xE0000000, 0xB0000000)
    }
    derive = functools.partial(
        derive_profile,
        code,
        log,
        name=firmware.name,
        memory_mib=memory,
        vcpus=vcpus,
        acpi={base: table.acpi for base, table in tables.items()},
        smbios_tables=next(iter(tables.values())).smbios,
    )
    profile = derive()
    if profile.peifv is PeifvMode.CALIBRATE:
        direct = calibrate(tools, build, machine, BootPath.DIRECT, reporter=reporter)
        profile = derive(direct_log=eventlog.parse(direct))
    path = output or profiles_folder() / f"{profile.sha384}.json"
    profile = save_profile(profile, path)
    if json:
        console.emit_json(profile.to_json())
        return
    console.out(f"firmware: sha384 {profile.sha384}")
    console.out(f"S-CRTM version: {profile.crtm_version}")
    console.out(
        f"PEI volume: {profile.peifv.value}, ACPI measured: {'yes' if profile.acpi_measured else 'no'}"
    )
    console.out(f"profile: {path}")


def _store_beside(firmware: Path) -> Path | None:
    """Return the variable store of OVMF_CODE_4M.secboot.fd: OVMF_VARS_4M.secboot.fd, or else OVMF_VARS_4M.fd."""
    name = firmware.name.replace("CODE", "VARS", 1)
    plain = f"{name.partition('.')[0]}{firmware.suffix}"
    paths = [firmware.with_name(each) for each in (name, plain) if name != firmware.name]
    return next((path for path in paths if path.is_file()), None)
