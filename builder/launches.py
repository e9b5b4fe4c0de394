"""Every launch of an image that a recipe declares: the machine, and what its TPM will hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qemu import boot_devices, random_numbers
from builder.errors import UsageError
from builder.recipe.platforms import PassedThrough, Platform
from builder.store import Store
from builder.tables import tables_of_machine
from builder.tools import Tools
from measurements.errors import NotPredictableError
from measurements.events import DEFAULT_BANKS, HashAlgorithm
from measurements.formats.gpt import Gpt
from measurements.platforms.firmware import FirmwareProfile, find_profile
from measurements.predict import predict_tpm
from measurements.prediction import BootPath, Prediction
from measurements.tpm.inputs import TpmInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One way to start an image."""

    machine: Machine
    firmware: Firmware
    boot: BootPath


def launches(
    platforms: tuple[Platform, ...], firmware: tuple[Firmware, ...], *, secure_boot: bool = False
) -> Iterator[Launch]:
    """Yield every combination that the recipe's platforms declare, in the recipe's order.

    Args:
        platforms: of the recipe.
        firmware: the builds that the platforms name.
        secure_boot: the launches with Secure Boot on, whose builds start with the keys of a sealed release, in
            place of those without.
    """
    builds = {build.name: build for build in firmware}
    for platform in platforms:
        names = platform.secure_boot if secure_boot else platform.firmware
        shapes = product(
            names, platform.boot, platform.memory_mib, platform.vcpus, passed_through(platform.gpus)
        )
        for name, boot, memory, vcpus, gpus in shapes:
            machine = Machine(
                type=platform.machine,
                cpu=platform.cpu,
                memory_mib=memory,
                vcpus=vcpus,
                smm=secure_boot,
                gpus=gpus,
            )
            yield Launch(machine=machine, firmware=builds[name], boot=BootPath(boot))


def passed_through(gpus: PassedThrough | None) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return for each number of GPUs that a platform declares what `Machine.gpus` is."""
    return ((),) if gpus is None else tuple((gpus.bars,) * count for count in gpus.counts)


def store_name(firmware_name: str) -> str:
    """Return the file of a sealed release with which a firmware build starts: a variable store with its keys."""
    return f"{firmware_name}.vars.fd"


def enrolled_firmware(
    platforms: tuple[Platform, ...], builds: Iterable[Firmware], folder: Path
) -> tuple[Firmware, ...]:
    """Return the builds that verify, each with the variable store of a sealed release; none of an unsealed one.

    Raises:
        UsageError: the release has stores for some of them only.
    """
    wanted = {name for platform in platforms for name in platform.secure_boot}
    found = tuple(
        replace(build, variables=folder / store_name(build.name)) for build in builds if build.name in wanted
    )
    missing = [build.variables.name for build in found if not build.variables.is_file()]
    if missing and len(missing) < len(found):
        raise UsageError(f"{folder}: the sealed release lacks {', '.join(missing)}")
    return () if missing else found


def predict_launch(
    launch: Launch,
    *,
    uki: bytes,
    disk: Gpt | None,
    tools: Tools,
    store: Store,
    variables: bytes | None = None,
    profiles: tuple[FirmwareProfile, ...] = (),
    measures_machine: bool = False,
    banks: tuple[HashAlgorithm, ...] = DEFAULT_BANKS,
) -> Prediction:
    """Predict the registers of one launch.

    Args:
        launch: machine, firmware and boot path.
        uki: the UKI's bytes.
        disk: the disk's partition table; needed for a disk boot.
        tools: the toolbox, for QEMU's tables.
        store: where tables are kept between builds.
        variables: the variable store; default: the firmware's own.
        profiles: calibrated firmware profiles.
        measures_machine: whether the image measures its machine id and file systems into PCR 15.
        banks: PCR banks.

    Raises:
        MeasurementError: the UKI, disk or firmware cannot be parsed.
        BootError: QEMU does not start.
    """
    code = launch.firmware.code.read_bytes()
    profile = find_profile(code, profiles)
    tables, problem = None, None
    try:
        tables = tables_of_machine(
            launch.machine,
            launch.boot,
            tools=tools,
            store=store,
            pciexbar=None if profile is None else profile.pciexbar,
        )
    except NotPredictableError as error:
        problem = str(error)
    return predict_tpm(
        TpmInputs(
            firmware_name=launch.firmware.name,
            firmware=code,
            boot=launch.boot,
            machine=launch.machine.type,
            memory_mib=launch.machine.memory_mib,
            vcpus=launch.machine.vcpus,
            image=uki,
            disk=disk,
            variables=launch.firmware.variables.read_bytes() if variables is None else variables,
            acpi=None if tables is None else tables.acpi,
            acpi_problem=problem,
            smbios=None if tables is None else tables.smbios,
            boot_devices=boot_devices(),
            random_numbers=random_numbers(launch.machine),
            profiles=profiles,
            measures_machine=measures_machine,
            banks=banks,
            gpus=len(launch.machine.gpus),
        )
    )
