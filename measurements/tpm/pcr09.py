"""PCR 9: the kernel's command line and initrd, measured by its EFI stub."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from measurements.errors import NotPredictableError
from measurements.events import Digests, Event, EventType, RegisterPrediction, Stability
from measurements.formats import varstore
from measurements.formats.uki import ImageKind
from measurements.prediction import BootPath
from measurements.tpm import stub
from measurements.tpm.boot import Boot, not_pinned, pinned

_PCR = 9
#: Linux drivers/firmware/efi/libstub/efi-stub-helper.c efi_measure_tagged_event.
_LOAD_OPTIONS = (0x8F3B22ED, b"LOADED_IMAGE::LoadOptions")
_INITRD = (0x8F3B22EC, b"Linux initrd")

#: systemd src/boot/random-seed.c acquire_system_token; the vendor GUID is systemd-boot's.
_SYSTEM_TOKEN: Final = (UUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), "LoaderSystemToken")

#: Linux commits f046fff8bc4c (5.17) for the initrd and 71c7adc9fffd (6.1) for LoadOptions; Debian's 6.1.176,
#: 6.12.95 and 7.3.4 were booted. What vendors took into older kernels does not show in the version.
_MEASURING_KERNEL: Final = (6, 1)


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the UKI's sections, the stub's release and the kernel's."""
    try:
        events = tuple(kernel_events(boot))
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    return pinned(_PCR, Stability.IMAGE, events)


def kernel_events(boot: Boot, *, since: tuple[int, int] = _MEASURING_KERNEL) -> Iterator[Event]:
    """Yield what the EFI stub of the kernel inside a UKI measures.

    Args:
        boot: the boot of a UKI.
        since: the first kernel (major, minor) that measures both.

    Raises:
        NotPredictableError: the image is no UKI, or stub, kernel or machine leave the outcome open.
    """
    boot.require_known_loader()
    if boot.image.kind is ImageKind.LINUX:
        raise NotPredictableError(
            "not predictable: a kernel without UKI gets its command line and initrd from elsewhere"
        )
    _require_shared_initrd(boot)
    require_measuring_kernel(boot.facts.kernel_version, since)
    options = stub.command_line(boot.image)
    if options is not None:
        yield options_event(boot, options, cause="uki .cmdline")
    if boot.facts.initrd is not None:
        yield initrd_event(boot.facts.initrd, cause="uki .initrd")


def require_measuring_kernel(version: tuple[int, int] | None, since: tuple[int, int]) -> None:
    """Let kernels pass that are known to measure.

    Raises:
        NotPredictableError: the kernel is older, or shows no version.
    """
    if version is None or version < since:
        name = "a kernel that shows no version" if version is None else f"Linux {version[0]}.{version[1]}"
        raise NotPredictableError(
            f"not predictable: {name} may measure the command line and the initrd or not; "
            f"Linux {since[0]}.{since[1]} and later measure both"
        )


def options_event(boot: Boot, options: bytes, *, cause: str) -> Event:
    """Return the event of the command line, UTF-16LE with its NUL.

    Linux efi_convert_cmdline: all bytes of LoadOptions, the NUL included; nothing when there are none.
    """
    return boot.event(
        _PCR,
        EventType.EVENT_TAG,
        options,
        description="LOADED_IMAGE::LoadOptions",
        cause=cause,
        data=_tagged(*_LOAD_OPTIONS),
    )


def initrd_event(digests: Digests, *, cause: str) -> Event:
    """Return the event of the initrd: what LoadFile2 serves, once (Linux efi_load_initrd)."""
    return Event(
        register=_PCR,
        type=EventType.EVENT_TAG,
        digests=digests,
        description="Linux initrd",
        cause=cause,
        data=_tagged(*_INITRD),
    )


def _require_shared_initrd(boot: Boot) -> None:
    # boot-secret.c prepare_boot_secret: for a UKI on a file system, from the random seed that random-seed.c
    # process_random_seed makes if UEFI has random numbers or a system token. What -kernel loads lies on a file
    # system that refuses to be written to.
    generation = stub.require_generation(boot.image)
    if not generation.boot_secret or boot.inputs.boot is BootPath.DIRECT:
        return
    variables = {} if boot.inputs.variables is None else varstore.parse(boot.inputs.variables)
    if boot.inputs.random_numbers is not False or _SYSTEM_TOKEN in variables:
        raise NotPredictableError(
            f"not predictable: systemd-stub {boot.image.stub} adds a secret of each single machine to the "
            "initrd of a UKI on a file system, unless UEFI has neither random numbers nor a system token"
        )


def _tagged(tag: int, text: bytes) -> bytes:
    """TCG PFP 1.06, 10.4.3: u32 tag ‖ u32 length ‖ text, here with its NUL."""
    return struct.pack("<II", tag, len(text) + 1) + text + b"\0"
