"""RTMR2: the kernel's command line and initrd, and the sections of a UKI (PCR 8 to 15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.events import Event, digests_of
from measurements.formats.uki import ImageKind
from measurements.prediction import BootPath
from measurements.tdx.boot import BANKS, TdxBoot, to_rtmr
from measurements.tpm import pcr09, pcr11
from measurements.tpm.boot import Boot
from measurements.tpm.stub import require_generation

_RTMR = 2
#: Linux drivers/firmware/efi/libstub/efi-stub-helper.c measures through EFI_CC_MEASUREMENT_PROTOCOL since 6.9, and
#: then only on a machine without TPM.
MEASURING_KERNEL: Final = (6, 9)
_INITRD_OPTION: Final = "initrd=initrd"


def events(boot: TdxBoot) -> Iterator[Event]:
    """Yield the events in order.

    Raises:
        NotPredictableError: they do not follow from the inputs.
    """
    inner = boot.boot
    if inner.image.kind is ImageKind.UKI:
        yield from uki_events(inner)
    elif boot.inputs.boot is BootPath.DISK:
        inner.require_known_loader()
        raise NotPredictableError(
            "not predictable: a kernel without UKI gets its command line and initrd from elsewhere"
        )
    else:
        yield from to_rtmr(_RTMR, _kernel(boot))


def uki_events(boot: Boot) -> Iterator[Event]:
    """Yield the events of a UKI, which no machine decides; raises as ``events``."""
    # systemd >= 257, src/boot/measure.c: the stub measures into TPM and CC measurement register alike.
    if require_generation(boot.image).measures_cc:
        yield from to_rtmr(_RTMR, pcr11.section_events(boot))
    yield from to_rtmr(_RTMR, pcr09.kernel_events(boot, since=MEASURING_KERNEL))


def _kernel(boot: TdxBoot) -> Iterator[Event]:
    inner = boot.boot
    # A kernel that shows its version is believed; what is passed to -kernel and shows none counts as Linux.
    if inner.facts.kernel_version is not None:
        pcr09.require_measuring_kernel(inner.facts.kernel_version, MEASURING_KERNEL)
    options = _load_options(boot)
    if options:
        yield pcr09.options_event(inner, f"{options}\0".encode("utf-16-le"), cause="command line")
    if boot.inputs.initrd:
        yield pcr09.initrd_event(digests_of(boot.inputs.initrd, BANKS), cause="initrd")


def _load_options(boot: TdxBoot) -> str:
    """Return what the firmware makes of ``-append``; OvmfPkg/Library/GenericQemuLoadImageLib."""
    line = boot.inputs.command_line
    if not line.isascii():
        raise NotPredictableError("not predictable: the command line has characters beyond ASCII")
    if not boot.inputs.initrd:
        return line
    first = None if boot.build.volumes is None else boot.build.volumes.initrd_option_first
    if first is None:
        raise NotPredictableError(
            f"not predictable: whether this firmware puts {_INITRD_OPTION} before or behind the command line does "
            "not show in its file"
        )
    return f"{_INITRD_OPTION} {line}" if first else f"{line} {_INITRD_OPTION}"
