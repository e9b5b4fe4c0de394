"""The tables of a trust domain's machine, out of a QEMU that starts it as a plain, stopped one.

What TDX changes of ACPI is that the PIC is off (QEMU >= 10.1, target/i386/kvm/tdx.c "Disable PIC for TDX VMs"), which
clears PCAT_COMPAT in the MADT, and that there is no SMM. The machine has the chipset's own devices and a kernel, so
nothing depends on where firmware puts PCI windows.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from builder.artifacts import Machine
from builder.boot.qtest import FwCfgTables, read_fw_cfg_tables
from builder.errors import BootError
from builder.tools import Tools

_VERSION = re.compile(rb"QEMU emulator version (\d{1,3})\.(\d{1,3})")


def qemu_release(tools: Tools) -> tuple[int, int]:
    """Return (major, minor) of a toolbox's QEMU.

    Raises:
        BootError: it does not say.
    """
    match = _VERSION.search(tools.run("qemu-system-x86_64", "--version").stdout)
    if match is None:
        raise BootError("qemu-system-x86_64 --version names no version")
    return int(match[1]), int(match[2])


def td_arguments(machine: Machine, kernel: Path) -> list[str]:
    """Return the arguments of a machine whose ACPI tables are those of a trust domain started with ``-kernel``."""
    return [
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-machine", f"{machine.type},smm=off,pic=off,vmport=off",
        "-accel", "tcg",
        "-cpu", machine.cpu,
        "-smp", f"cpus={machine.vcpus},sockets=1,cores={machine.vcpus},threads=1",
        "-m", f"size={machine.memory_mib}M",
        "-kernel", str(kernel),
    ]  # fmt: skip


def td_tables(tools: Tools, machine: Machine) -> FwCfgTables:
    """Return the tables of a trust domain without PCI devices beyond the chipset's; takes about 0.2 s.

    Raises:
        BootError: QEMU does not start this machine.
    """
    with tempfile.TemporaryDirectory(prefix="goldsmith-td-") as name:
        kernel = Path(name) / "kernel"
        kernel.write_bytes(bytes(1 << 16))
        return read_fw_cfg_tables(tools, td_arguments(machine, kernel))
