"""PCR 4: the programs that the firmware starts, and the attempt to boot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.events import Digests, Event, EventType, RegisterPrediction, Stability
from measurements.formats import uki
from measurements.formats.uki import ImageKind
from measurements.platforms.qemu import NAMED_KERNEL_BLOBS_SINCE, machine_version
from measurements.prediction import BootPath
from measurements.tpm.boot import Boot, action, not_pinned, pinned, separator
from measurements.tpm.stub import require_generation

_PCR = 4
#: What the firmware says before it starts a boot option.
CALLING: Final = "Calling EFI Application from Boot Option"


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the image, the boot path, Secure Boot and the stub's release."""
    try:
        events = tuple(_events(boot))
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    return pinned(_PCR, Stability.IMAGE, events)


def _events(boot: Boot) -> Iterator[Event]:
    boot.require_known_loader()
    if boot.secure_boot.enabled is None:
        boot.require_profile()
    if boot.secure_boot.refusal is not None:
        raise NotPredictableError(f"not predictable: {boot.secure_boot.refusal}")
    # TCG PFP 1.06, 3.3.4.5; edk2 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c OnReadyToBoot; order is the specification.
    # "-kernel" is loaded by PlatformBootManagerAfterConsole, before the event group ReadyToBoot fires.
    if boot.inputs.boot is BootPath.DIRECT:
        _require_plain_kernel_blob(boot)
        yield image_event(boot.facts.authenticode, "image passed with -kernel", "uki")
    yield action(boot, _PCR, CALLING)
    yield separator(boot, _PCR)
    if boot.inputs.boot is BootPath.DISK:
        yield image_event(boot.facts.authenticode, "image at the removable path", "uki")
    if boot.image.kind is ImageKind.UKI and stub_loads_kernel(boot) and not boot.secure_boot.enabled:
        yield image_event(boot.facts.kernel_authenticode, "kernel inside the UKI", "uki .linux")


def image_event(digests: Digests, description: str, cause: str) -> Event:
    """Return the event of a PE image that the firmware loads."""
    # SecurityPkg/Library/DxeTpm2MeasureBootLib Tcg2MeasurePeImage: the Authenticode digest. The event field
    # holds the address in memory.
    return Event(
        register=_PCR,
        type=EventType.EFI_BOOT_SERVICES_APPLICATION,
        digests=digests,
        description=description,
        cause=cause,
    )


def _require_plain_kernel_blob(boot: Boot) -> None:
    """Make sure that the firmware gets the file's own bytes: the legacy blob has a patched header.

    QEMU >= 10.0 (hw/i386/x86-common.c) exports etc/boot/kernel, edk2 >= 202502 (QemuKernelLoaderFsDxe)
    prefers it.
    """
    if not boot.require_firmware().named_kernel_blobs:
        raise NotPredictableError(
            "not predictable: this firmware reads the legacy -kernel blob, which QEMU patches; "
            "use edk2-stable202502 or later"
        )
    version = machine_version(boot.inputs.machine)
    if version is None or version < NAMED_KERNEL_BLOBS_SINCE:
        raise NotPredictableError(
            f"not predictable: machine type {boot.inputs.machine!r} does not prove a QEMU that passes "
            "-kernel "
            "unpatched; use pc-q35-10.0 or later"
        )


def stub_loads_kernel(boot: Boot) -> bool:
    """Whether the stub starts the kernel through the firmware's LoadImage, which measures it.

    Under Secure Boot it overrides the Security2 protocol (systemd 252, src/boot/efi/linux.c), so the firmware
    neither verifies nor measures the kernel inside.

    Raises:
        NotPredictableError: the stub's release is not known, or the kernel is too old.
    """
    generation = require_generation(boot.image)
    if boot.facts.kernel is not None and not uki.takes_initrd_from_stub(boot.facts.kernel):
        raise NotPredictableError(
            "not predictable: the kernel is older than Linux 5.8 and started by the EFI handover protocol; "
            "use a newer kernel"
        )
    return generation.loads_kernel
