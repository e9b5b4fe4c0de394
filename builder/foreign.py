"""What a prediction needs of images, disks and machines that are not a release's own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qtest import PCIEXBAR, FwCfgTables, machine_tables, tables_key
from builder.errors import UsageError
from builder.store import Store
from builder.tools import Tools
from measurements.formats import gpt
from measurements.formats.gpt import Gpt
from measurements.prediction import BootPath

#: Enough of a disk for any table within `measurements.formats.gpt`'s limits that begins near the disk's start.
DISK_PREFIX = 4 << 20

_TABLES_KIND = "foreign-tables-1"
#: Sizes of the 4 MiB OVMF builds' two volumes; QEMU wants some flash, and no table depends on what it holds.
_CODE_SIZE, _VARIABLES_SIZE = 3_653_632, 540_672
_WRAPPERS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"vhdxfile": "VHDX",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
}


def partition_table(prefix: bytes, *, sector_size: int | None = None) -> Gpt:
    """Parse the partition table of a raw disk image.

    Args:
        prefix: the disk's first `DISK_PREFIX` bytes, or all of a smaller one.
        sector_size: 512 or 4096 bytes; None looks for the header at both.

    Raises:
        UsageError: the file wraps a disk (qcow2, a compressed file), so its bytes are not the disk's.
        FormatError: there is no valid table.
        LimitError: the table exceeds a limit.
    """
    for magic, name in _WRAPPERS.items():
        if prefix.startswith(magic):
            raise UsageError(
                f"the disk is a {name} file, and firmware measures what is inside; expected a raw image",
                hint="qemu-img convert -O raw DISK disk.raw" if name in ("qcow2", "VMDK", "VHDX") else None,
            )
    return gpt.parse(prefix, sector_size=sector_size or gpt.detect_sector_size(prefix))


def tables_of_machine(
    machine: Machine, boot: BootPath, *, tools: Tools, store: Store, pciexbar: int | None = None
) -> FwCfgTables:
    """Return the ACPI and SMBIOS tables of a machine, whatever firmware and disk it has.

    QEMU is asked once for each toolbox, machine and boot path.

    Args:
        machine: the machine.
        boot: disk, or ``-kernel``.
        tools: the toolbox with QEMU and swtpm.
        store: keeps the answer.
        pciexbar: MMCONFIG base that the firmware programs; None for current edk2's.

    Raises:
        BootError: QEMU does not start this machine.
        NotPredictableError: the machine has devices whose place OVMF's rules here do not cover.
    """
    base = PCIEXBAR if pciexbar is None else pciexbar

    def ask(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="goldsmith-tables-") as name:
            code, variables = Path(name) / "code.fd", Path(name) / "variables.fd"
            for path, size in ((code, _CODE_SIZE), (variables, _VARIABLES_SIZE)):
                with path.open("xb") as file:
                    file.truncate(size)
            blank = Firmware(name="blank", package="", version="", code=code, variables=variables)
            machine_tables(tools, machine, blank, boot, pciexbar=base).save(target)

    return FwCfgTables.load(store.derived(_TABLES_KIND, tables_key(tools, machine, boot, pciexbar=base), ask))
