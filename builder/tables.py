"""QEMU's ACPI and SMBIOS tables of a machine, asked for once and kept in the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qtest import PCIEXBAR, FwCfgTables, machine_tables, tables_key
from builder.boot.td import td_key, td_tables
from builder.emulators import Emulator
from builder.store import Store
from builder.tools import Tools
from measurements.platforms.qemu import machine_version
from measurements.prediction import BootPath

_KIND, _TD_KIND = "machine-tables-2", "trust-domain-tables-1"
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


def tables_of_trust_domain(
    machine: Machine, boot: BootPath, *, emulator: Emulator, store: Store, pciexbar: int | None = None
) -> FwCfgTables:
    """Return the tables of a trust domain with the devices of `builder.boot.qemu`, as `tables_of_machine` does.

    Args:
        machine: the machine.
        boot: disk, or ``-kernel``.
        emulator: a QEMU of the release that builds the trust domain.
        store: keeps the answer.
        pciexbar: MMCONFIG base that the firmware programs; None for current edk2's.
    """
    base = PCIEXBAR if pciexbar is None else pciexbar

    def ask(target: Path) -> None:
        td_tables(emulator.tools(), machine, boot, pciexbar=base).save(target)

    key = td_key(emulator.digest, machine, boot, pciexbar=base)
    return FwCfgTables.load(store.derived(_TD_KIND, key, ask))


def trust_domain_tables(
    emulators: Mapping[tuple[int, int], Emulator], store: Store
) -> Callable[[Machine, BootPath, int | None], FwCfgTables | None]:
    """Return what answers for (machine, boot path, MMCONFIG base): with QEMU of the machine type's own release.

    Tables of another release would be a guess: then the answer is None.
    """

    def answer(machine: Machine, boot: BootPath, pciexbar: int | None) -> FwCfgTables | None:
        release = machine_version(machine.type)
        emulator = None if release is None else emulators.get(release)
        if emulator is None:
            return None
        return tables_of_trust_domain(machine, boot, emulator=emulator, store=store, pciexbar=pciexbar)

    return answer
