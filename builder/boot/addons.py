"""Add-ons of systemd-stub, and copies of a release's disk that carry them.

An add-on is a PE file beside the UKI. The stub loads its `.cmdline` and `.initrd` sections and measures them into
PCR 12 (systemd-stub(7), "Companion files"), which every golden document pins to zero: what was booted with one can
never pass for production. With Secure Boot on, firmware verifies an add-on like any image before the stub reads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from builder.disks import read_partition_table
from builder.errors import BootError, UsageError
from builder.tools import Tools

_STUB = "usr/lib/systemd/boot/efi/addonx64.efi.stub"
_FOLDER = "EFI/BOOT/BOOTX64.EFI.extra.d"
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")  # UEFI 2.10, 5.3.3
_MTOOLS = {"MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1"}

#: Bytes of an unsigned PE image -> bytes of the signed one; `builder.image.secureboot.authenticode` makes them.
Sign = Callable[[bytes], bytes]


def build_addon(
    tools: Tools,
    folder: Path,
    *,
    name: str,
    command_line: str | None = None,
    initrd: bytes | None = None,
    sign: Sign | None = None,
) -> Path:
    """Write ``folder/NAME.addon.efi``.

    Args:
        tools: the toolbox, for ukify and the add-on stub.
        folder: private to the caller.
        name: file name without its ending; the stub loads add-ons in the order of their names.
        command_line: words that the stub appends to the sealed ones, printable, on one line.
        initrd: an archive (newc, compressed or not) that the stub appends to the UKI's own: the kernel unpacks it
            last, so its files replace those of the same path.
        sign: how to sign it for Secure Boot; unsigned by default, which firmware that verifies refuses.

    Raises:
        UsageError: it would carry nothing.
        ToolError: ukify failed.
    """
    if command_line is None and initrd is None:
        raise UsageError(f"the add-on {name} carries neither a command line nor an initrd")
    addon = folder / f"{name}.addon.efi"
    sections = []
    if command_line is not None:
        sections.append(f"--cmdline={command_line}")
    if initrd is not None:
        archive = folder / f"{name}.cpio"
        archive.write_bytes(initrd)
        sections.append(f"--initrd={archive}")
    tools.run(
        "ukify", "build", "--config=/dev/null", "--efi-arch=x64", f"--stub={tools.path(_STUB)}", *sections,
        f"--output={addon}", cwd=folder, env={"TMPDIR": str(folder)},
    )  # fmt: skip
    if sign is not None:
        addon.write_bytes(sign(addon.read_bytes()))
    return addon


def extended_disk(tools: Tools, disk: Path, copy: Path, companions: Sequence[Path]) -> Path:
    """Copy a release's raw disk to ``copy`` and put files beside the UKI on the copy's ESP.

    Args:
        tools: the toolbox, for mtools.
        disk: the release's disk; only read.
        copy: where the copy goes.
        companions: add-ons, credentials (`.cred`) or extension images (`.raw`), by the names that they have.

    Returns:
        ``copy``.

    Raises:
        BootError: the disk has no EFI system partition.
        ToolError: mtools failed (no room on the ESP, for one).
    """
    table = read_partition_table(disk)
    partition = next((item for item in table.partitions if item.type == _ESP), None)
    if partition is None:
        raise BootError(f"{disk} has no EFI system partition to put {companions[0].name} on")
    shutil.copyfile(disk, copy)
    image = f"{copy}@@{partition.first_lba * table.sector_size}"
    tools.run("mmd", "-i", image, f"::/{_FOLDER}", env=_MTOOLS)
    for companion in companions:
        tools.run("mcopy", "-i", image, companion, f"::/{_FOLDER}/{companion.name}", env=_MTOOLS)
    return copy
