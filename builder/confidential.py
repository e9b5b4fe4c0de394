"""What an image measures as a confidential virtual machine: every launch that a recipe declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from pathlib import Path

from builder.artifacts import Machine
from builder.boot.qemu import boot_devices
from builder.boot.qtest import FwCfgTables
from builder.boot.td import CPU, td_smbios
from builder.errors import RecipeError
from builder.launches import passed_through
from builder.recipe.platforms import SevSnpPlatform, TdxPlatform
from measurements.errors import NotPredictableError
from measurements.formats import tdvf
from measurements.formats.gpt import Gpt
from measurements.golden import SevSnpReference, TdxReference, sev_snp_reference, tdx_reference
from measurements.platforms.qemu import machine_version
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.snp import cpu
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import load
from measurements.snp.launch import Launch, LaunchDigests
from measurements.snp.vmsa import Vmm
from measurements.tdx import td_hob
from measurements.tdx.firmware import examine
from measurements.tdx.inputs import FwCfgItems, TdxInputs
from measurements.tdx.predict import predict_tdx

#: (machine, boot path, MMCONFIG base or None) -> the tables of a trust domain; None where no QEMU can say them.
Tables = Callable[[Machine, BootPath, int | None], FwCfgTables | None]


def sev_snp_references(
    platforms: tuple[SevSnpPlatform, ...], builds: Mapping[str, Path], *, uki: bytes
) -> Iterator[SevSnpReference]:
    """Yield the reference values of every SEV-SNP launch, in the recipe's order.

    Args:
        platforms: of the recipe.
        builds: name -> firmware file.
        uki: what ``-kernel`` starts, signature included.

    Raises:
        RecipeError: a CPU model that is not known.
        MeasurementError: the firmware lacks what a launch needs, or is malformed.
    """
    kernel = KernelHashes.of(uki)
    for platform in platforms:
        vmm = Vmm(platform.vmm)
        for name in platform.firmware:
            code = builds[name].read_bytes()
            digests, firmware = LaunchDigests(load(code)), FirmwareIdentity.of(name, code)
            models: tuple[str | None, ...] = platform.cpu or (None,)
            paths = map(BootPath, platform.boot)
            for boot, model, vcpus in product(paths, models, platform.vcpus):
                launch = Launch(
                    vmm=vmm,
                    vcpus=vcpus,
                    signature=None if model is None else _signature(model, platform.name),
                    features=platform.guest_features,
                    kernel=kernel if boot is BootPath.DIRECT else None,
                )
                yield sev_snp_reference(
                    digests, launch, platform=platform.name, firmware=firmware, boot=boot, cpu=model
                )


def tdx_references(
    platforms: tuple[TdxPlatform, ...],
    builds: Mapping[str, Path],
    *,
    uki: bytes,
    disk: Gpt,
    tables: Tables,
) -> Iterator[TdxReference]:
    """Yield the reference values of every trust domain, in the recipe's order.

    Args:
        platforms: of the recipe.
        builds: name -> firmware file.
        uki: what is started.
        disk: the disk's partition table.
        tables: what QEMU's machines measure into RTMR0, which has no value without.

    Raises:
        MeasurementError: the firmware is none for trust domains, or is malformed.
        BuilderError: ``tables`` fails.
    """
    for platform in platforms:
        for name in platform.firmware:
            code = builds[name].read_bytes()
            profile = examine(code, tdvf.parse(code)).profile
            paths = map(BootPath, platform.boot)
            shapes = product(paths, platform.memory_mib, platform.vcpus, passed_through(platform.gpus))
            for boot, memory, vcpus, gpus in shapes:
                found, problem = None, None
                if platform.machine is not None:
                    machine = Machine(
                        type=platform.machine, cpu=CPU, memory_mib=memory, vcpus=vcpus, gpus=gpus
                    )
                    try:
                        found = tables(machine, boot, None if profile is None else profile.pciexbar)
                    except NotPredictableError as error:
                        problem = str(error)
                inputs = TdxInputs(
                    vmm=td_hob.Vmm(platform.vmm),
                    firmware_name=name,
                    firmware=code,
                    memory_mib=memory,
                    vcpus=vcpus,
                    image=uki,
                    boot=boot,
                    disk=disk if boot is BootPath.DISK else None,
                    qemu=None if platform.machine is None else machine_version(platform.machine),
                    acpi=None if found is None else found.acpi,
                    smbios=None if found is None else td_smbios(found, profile),
                    fw_cfg=None if found is None else FwCfgItems(bootorder=found.bootorder),
                    boot_devices=None if found is None else boot_devices(),
                    gpus=len(gpus),
                    acpi_problem=problem,
                )
                yield tdx_reference(
                    predict_tdx(inputs), inputs, platform=platform.name, machine=platform.machine
                )


def _signature(model: str, platform: str) -> int:
    if model not in cpu.MODELS:
        near = get_close_matches(model, cpu.MODELS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"sev_snp: {platform}: cpu {model!r} is no model of QEMU's with SEV-SNP{meant}")
    return cpu.MODELS[model]
