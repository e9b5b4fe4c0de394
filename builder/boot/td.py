"""The tables of a trust domain's machine, out of a QEMU that starts it as a plain, stopped one.

What the guest support of TDX changes of a machine (QEMU >= 10.1, target/i386/kvm/tdx.c, tdx_kvm_init): SMM is off,
which empties the FADT's SMI command; the PIC is off, which clears PCAT_COMPAT in the MADT; the interrupt chip is
split, which no table shows. CPU models cannot be named: the guest sees the host's processor.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path

from builder.artifacts import Machine
from builder.boot.pci import Processor
from builder.boot.qemu import (
    Wiring,
    console_arguments,
    device_arguments,
    gpu_slots,
    processor_argument,
    size_arguments,
)
from builder.boot.qtest import PCIEXBAR, FwCfgTables, read_fw_cfg_tables
from builder.errors import BootError
from builder.tools import Tools
from measurements.platforms.firmware import FirmwareProfile, SmbiosMeasurement
from measurements.prediction import BootPath

#: What firmware sees of a processor with TDX. From 46 address bits on, OVMF takes 46.
PROCESSOR = Processor(vendor="GenuineIntel", address_bits=46, gigabyte_pages=True)
#: The model that stands in for the host's in QEMU: with x2APIC, which more than 255 vCPUs need.
CPU = "qemu64,x2apic=on"

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


def td_arguments(machine: Machine, kernel: Path | None, *, bare: bool = False) -> list[str]:
    """Return the arguments of a plain machine whose ACPI tables are those of a trust domain.

    Args:
        machine: type, memory, vCPUs and additional devices.
        kernel: for ``-kernel``; ``None`` on a disk boot.
        bare: with nothing but the chipset's devices.
    """
    wiring = Wiring(tpm=Path("tpm"), variables=Path("variables"))
    arguments = [
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-machine", f"{machine.type},smm=off,pic=off,vmport=off",
        "-accel", "tcg",
        "-cpu", processor_argument(machine.cpu, PROCESSOR),
        *size_arguments(machine),
    ]  # fmt: skip
    if not bare:
        arguments += [*console_arguments(wiring), *device_arguments(machine, wiring)]
    return arguments if kernel is None else [*arguments, "-kernel", str(kernel)]


def td_key(digest: str, machine: Machine, boot: BootPath, *, pciexbar: int = PCIEXBAR) -> str:
    """Return a digest (64 hex digits) of everything that `td_tables` depends on, for a cache.

    ``digest`` is that of the tools (`Tools.digest`), which need not be unpacked yet.
    """
    arguments = td_arguments(machine, Path("kernel") if boot is BootPath.DIRECT else None)
    parts = [digest, pciexbar, arguments, *([machine.gpus] if machine.gpus else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def td_tables(
    tools: Tools, machine: Machine, boot: BootPath, *, pciexbar: int = PCIEXBAR, bare: bool = False
) -> FwCfgTables:
    """Return the tables of a trust domain with the devices of `builder.boot.qemu`; takes about 0.2 s.

    The SMBIOS table is that of `CPU`; see `td_smbios`.

    Args:
        tools: with a QEMU of the release that builds the trust domain.
        machine: type, memory, vCPUs and additional devices.
        boot: disk or ``-kernel``.
        pciexbar: MMCONFIG base that the firmware programs.
        bare: with nothing but the chipset's devices.

    Raises:
        BootError: QEMU does not start this machine.
        NotPredictableError: see `read_fw_cfg_tables`.
    """
    with tempfile.TemporaryDirectory(prefix="goldsmith-td-") as name:
        kernel = None
        if boot is BootPath.DIRECT:
            kernel = Path(name) / "kernel"
            kernel.write_bytes(bytes(1 << 16))
        arguments = td_arguments(machine, kernel, bare=bare)
        cards = {} if bare else gpu_slots(machine)
        return read_fw_cfg_tables(tools, arguments, processor=PROCESSOR, cards=cards, pciexbar=pciexbar)


def td_smbios(tables: FwCfgTables, profile: FirmwareProfile | None) -> bytes | None:
    """Return the SMBIOS table of ``tables`` where only stubs measure of it, which leave the processor out.

    Firmware that measures the table measures with it the processor's identification, which is the host's.
    """
    plain = profile is not None and profile.smbios is SmbiosMeasurement.NONE
    return tables.smbios if plain else None
