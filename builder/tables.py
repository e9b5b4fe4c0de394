"""QEMU's ACPI and SMBIOS tables of a machine, asked for once and kept in the store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qtest import PCIEXBAR, FwCfgTables, machine_tables, tables_key
from builder.store import Store
from builder.tools import Tools
from measurements.prediction import BootPath

_KIND = "machine-tables-2"
#: Sizes of the 4 MiB OVMF builds' two volumes; QEMU wants some flash, and no table depends on what it holds.
_CODE_SIZE, _VARIABLES_SIZE = 3_653_632, 540_672


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

    return FwCfgTables.load(store.derived(_KIND, tables_key(tools, machine, boot, pciexbar=base), ask))
