"""RTMR1: the programs that the firmware starts, the disk, the end of boot services (PCR 2 to 6)."""

from __future__ import annotations

from collections.abc import Iterator

from measurements.events import Event, Sequence
from measurements.formats.uki import ImageKind
from measurements.prediction import BootPath
from measurements.tdx.boot import KernelVariant, TdxBoot, to_rtmr
from measurements.tdx.rtmr0 import SEPARATOR_MOVED
from measurements.tpm import pcr04, pcr05
from measurements.tpm.boot import action, separator

_RTMR = 1
_PCR_OF_ACTIONS, _PCR_OF_DISKS = 4, 5


def sequences(boot: TdxBoot) -> tuple[Sequence, ...]:
    """Return every course of events, the usual one first, each with a label that tells it from the others.

    Raises:
        NotPredictableError: the events do not follow from the inputs.
        PredictionError: a disk boot without a disk.
    """
    # Without a variant of the image this raises the reason.
    _ = boot.boot
    found = []
    for variant in boot.variants:
        for release_label, separated in _separators(boot):
            for kernel_label, inner_kernel in _inner_kernels(boot, variant):
                before = tuple(_until_kernel(variant, separated=separated, inner_kernel=inner_kernel))
                for exit_label, texts in pcr05.EXIT_COURSES:
                    actions = (action(variant.boot, _PCR_OF_DISKS, text) for text in texts)
                    labels = [variant.label, release_label, kernel_label, exit_label]
                    found.append(
                        Sequence(
                            label=", ".join(label for label in labels if label),
                            events=tuple(to_rtmr(_RTMR, (*before, *actions))),
                        )
                    )
    return tuple(sorted(found, key=lambda course: course.label.endswith("retried")))


def _until_kernel(variant: KernelVariant, *, separated: bool, inner_kernel: bool) -> Iterator[Event]:
    boot = variant.boot
    # TCG PFP 1.06, 3.3.4.5, 3.3.4.6; edk2 OvmfPkg/Tcg/TdTcg2Dxe OnReadyToBoot; order is the specification.
    if boot.inputs.boot is BootPath.DIRECT:
        yield pcr04.image_event(boot.facts.authenticode, "image passed with -kernel", "image")
    yield action(boot, _PCR_OF_ACTIONS, pcr04.CALLING)
    if separated:
        yield separator(boot, _PCR_OF_ACTIONS)
    if boot.inputs.boot is BootPath.DISK:
        yield pcr05.partition_table_event(boot)
        yield pcr04.image_event(boot.facts.authenticode, "image at the removable path", "image")
    if inner_kernel:
        yield pcr04.image_event(boot.facts.kernel_authenticode, "kernel inside the UKI", "uki .linux")


def _separators(boot: TdxBoot) -> Iterator[tuple[str, bool]]:
    release = boot.build.release
    if release is not None:
        yield "", release >= SEPARATOR_MOVED
        return
    # No profile tells the release of an unknown build, and both forms are out there.
    yield "edk2-stable202411 and later", True
    yield "edk2 before stable202411", False


def _inner_kernels(boot: TdxBoot, variant: KernelVariant) -> Iterator[tuple[str, bool]]:
    inner = variant.boot
    if boot.inputs.boot is BootPath.DISK:
        inner.require_known_loader()
    if inner.image.kind is not ImageKind.UKI or not pcr04.stub_loads_kernel(inner):
        yield "", False
    elif boot.variables_problem is not None or inner.secure_boot.enabled is None:
        yield "Secure Boot off", True
        yield "Secure Boot on", False
    else:
        yield "", not inner.secure_boot.enabled
