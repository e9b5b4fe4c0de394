"""A debug boot: the release's disk with one file more, an add-on that gives the guest a console.

systemd-stub measures an add-on's command line into PCR 12 (systemd-stub(7), "Companion files"), which every
golden document pins to zero: what was booted this way can never pass for production. The release stays as it is;
the add-on goes on a copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

from builder.disks import read_partition_table
from builder.errors import BootError
from builder.tools import Tools

#: What a debug boot adds to the kernel's command line.
COMMAND_LINE = (
    "console=ttyS0 loglevel=6 systemd.log_level=info systemd.log_target=console systemd.show_status=1"
)
#: SMBIOS type 11 string that systemd-stub appends to the command line and measures into PCR 12 as well.
SMBIOS_STRING = f"io.systemd.stub.kernel-cmdline-extra={COMMAND_LINE}"

_STUB = "usr/lib/systemd/boot/efi/addonx64.efi.stub"
_FOLDER = "EFI/BOOT/BOOTX64.EFI.extra.d"
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")  # UEFI 2.10, 5.3.3
_MTOOLS = {"MTOOLS_SKIP_CHECK": "1"}


def debug_disk(tools: Tools, disk: Path, folder: Path) -> Path:
    """Copy a release's raw disk into ``folder`` and put the console add-on beside the UKI on the copy's ESP.

    Raises:
        BootError: the disk has no EFI system partition.
        ToolError: ukify or mtools failed (no room on the ESP, for one).
    """
    table = read_partition_table(disk)
    partition = next((item for item in table.partitions if item.type == _ESP), None)
    if partition is None:
        raise BootError(f"{disk} has no EFI system partition to put the debug add-on on")
    addon, copy = folder / "debug.addon.efi", folder / "debug.raw"
    tools.run(
        "ukify", "build", "--config=/dev/null", "--efi-arch=x64", f"--stub={tools.path(_STUB)}",
        f"--cmdline={COMMAND_LINE}", f"--output={addon}", cwd=folder, env={"TMPDIR": str(folder)},
    )  # fmt: skip
    shutil.copyfile(disk, copy)
    image = f"{copy}@@{partition.first_lba * table.sector_size}"
    tools.run("mmd", "-i", image, f"::/{_FOLDER}", env=_MTOOLS)
    tools.run("mcopy", "-i", image, addon, f"::/{_FOLDER}/{addon.name}", env=_MTOOLS)
    return copy
