"""PCR 9: the kernel's command line and initrd, measured by its EFI stub."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from measurements.errors import NotPredictableError
from measurements.events import Event, EventType, RegisterPrediction, Stability
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
        events = tuple(_events(boot))
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    return pinned(_PCR, Stability.IMAGE, events)


def _events(boot: Boot) -> Iterator[Event]:
    boot.require_known_loader()
    if boot.image.kind is ImageKind.LINUX:
        raise NotPredictableError(
            "not predictable: a kernel without UKI gets its command line and initrd from elsewhere"
        )
    _require_shared_initrd(boot)
    version = boot.facts.kernel_version
    if version is None or version < _MEASURING_KERNEL:
        name = "a kernel that shows no version" if version is None else f"Linux {version[0]}.{version[1]}"
        raise NotPredictableError(
            f"not predictable: {name} may measure the command line and the initrd or not; "
            f"Linux {_MEASURING_KERNEL[0]}.{_MEASURING_KERNEL[1]} and later measure both"
        )
    # Linux efi_convert_cmdline: all bytes of LoadOptions, the NUL included; nothing when there are none.
    options = stub.command_line(boot.image)
    if options is not None:
        yield boot.event(
            _PCR,
            EventType.EVENT_TAG,
            options,
            description="LOADED_IMAGE::LoadOptions",
            cause="uki .cmdline",
            data=_tagged(*_LOAD_OPTIONS),
        )
    # Linux efi_load_initrd: what LoadFile2 serves, once.
    if boot.facts.initrd is not None:
        yield Event(
            register=_PCR,
            type=EventType.EVENT_TAG,
            digests=boot.facts.initrd,
            description="Linux initrd",
            cause="uki .initrd",
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
