"""A debug boot: the release's disk with one file more, an add-on that gives the guest a console.

The add-on's command line moves PCR 12: what was booted this way can never pass for production
(`builder.boot.addons`). The release stays as it is; the add-on goes on a copy.
"""

from __future__ import annotations

from pathlib import Path

from builder.boot.addons import build_addon, extended_disk
from builder.tools import Tools

#: What a debug boot adds to the kernel's command line.
COMMAND_LINE = (
    "console=ttyS0 loglevel=6 systemd.log_level=info systemd.log_target=console systemd.show_status=1"
)
#: SMBIOS type 11 string that systemd-stub appends to the command line and measures into PCR 12 as well.
SMBIOS_STRING = f"io.systemd.stub.kernel-cmdline-extra={COMMAND_LINE}"


def debug_disk(tools: Tools, disk: Path, folder: Path) -> Path:
    """Copy a release's raw disk into ``folder`` and put the console add-on beside the UKI on the copy's ESP.

    Raises:
        BootError: the disk has no EFI system partition.
        ToolError: ukify or mtools failed (no room on the ESP, for one).
    """
    addon = build_addon(tools, folder, name="debug", command_line=COMMAND_LINE)
    return extended_disk(tools, disk, folder / "debug.raw", [addon])
