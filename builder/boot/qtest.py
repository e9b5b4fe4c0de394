"""What firmware would read from QEMU's fw_cfg, without running a guest: over QEMU's test protocol.

The unmodified QEMU that boots releases starts with the same devices and stopped vCPUs; this module programs
what OVMF programs before it reads ACPI, because QEMU builds the tables at their first selection. Protocol:
QEMU docs/devel/testing/qtest; interface: docs/specs/fw_cfg; chipset: Intel 316966 (Q35 MCH), 316972 (ICH9).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from builder.artifacts import Firmware, Machine
from builder.boot import pci
from builder.boot.qemu import PROCESSOR, Wiring, gpu_slots, qemu_arguments
from builder.boot.swtpm import software_tpm
from builder.errors import BootError
from builder.tools import PIPE, Process, Tools, last_lines
from measurements.errors import NotPredictableError
from measurements.platforms.qemu import LOADER_FILE, RSDP_FILE, TABLES_FILE, TPM_LOG_FILE, AcpiBlobs
from measurements.prediction import BootPath

#: MMCONFIG base that edk2 >= 202305 programs (commit 82c1aa87f9; 0xb0000000 before).
PCIEXBAR = 0xE0000000

_SMBIOS, _BOOT_ORDER = "etc/smbios/smbios-tables", "bootorder"
_RAM_MAP, _RESERVED_END = "etc/e820", "etc/reserved-memory-end"
#: Files by which a host can move OVMF's 64-bit window in ways that `pci.mmio64_window` does not compute.
_WINDOW_OVERRIDES = ("etc/hardware-info", "opt/ovmf/X-PciMmio64Mb")

_MAX_FILES, _MAX_FILE = 4096, 16 << 20
_DESCRIPTOR, _BUFFER = 0x1000, 0x200000  # guest RAM nobody uses: no vCPU runs
_FW_CFG_DMA_HIGH, _FW_CFG_DMA_LOW = 0x514, 0x518
_FW_CFG_DIRECTORY = 0x19
_FW_CFG_READ_SELECTED, _FW_CFG_WRITE_SELECTED = 2 | 8, 16 | 8

_SMI_SUPPORTED, _SMI_REQUESTED = "etc/smi/supported-features", "etc/smi/requested-features"
_SMI_LATCH = "etc/smi/features-ok"
#: edk2 OvmfPkg/SmmControl2Dxe/SmiFeatures.c: broadcast, CPU hotplug, CPU hot-unplug.
_SMI_WANTED = 0b111

_LPC = (0x1F, 0)
_HOST_BRIDGE = (0, 0)
_DECODE_IO_MEMORY_MASTER = 7
_MULTIFUNCTION, _BRIDGE = 0x80, 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfgTables:
    """What firmware measures or hands on from fw_cfg.

    Attributes:
        acpi: the ACPI blobs.
        smbios: ``etc/smbios/smbios-tables``, without OVMF's own type 0.
        bootorder: ``bootorder``; `None` where QEMU has no preference.
    """

    acpi: AcpiBlobs
    smbios: bytes
    bootorder: bytes | None

    def save(self, folder: Path) -> None:
        """Write one file per blob into ``folder``, which is created."""
        folder.mkdir()
        blobs = {
            "table-loader": self.acpi.table_loader,
            "rsdp": self.acpi.rsdp,
            "tables": self.acpi.tables,
            "tpm-log": self.acpi.tpm_log,
            "smbios-tables": self.smbios,
            "bootorder": self.bootorder,
        }
        for name, blob in blobs.items():
            if blob is not None:
                (folder / name).write_bytes(blob)

    @classmethod
    def load(cls, folder: Path) -> FwCfgTables:
        """Read back what `save` wrote."""

        def optional(name: str) -> bytes | None:
            path = folder / name
            return path.read_bytes() if path.exists() else None

        return cls(
            acpi=AcpiBlobs(
                table_loader=(folder / "table-loader").read_bytes(),
                rsdp=(folder / "rsdp").read_bytes(),
                tables=(folder / "tables").read_bytes(),
                tpm_log=optional("tpm-log"),
            ),
            smbios=(folder / "smbios-tables").read_bytes(),
            bootorder=optional("bootorder"),
        )


def tables_key(tools: Tools, machine: Machine, boot: BootPath, *, pciexbar: int = PCIEXBAR) -> str:
    """Return a digest (64 hex digits) of everything that `machine_tables` depends on, for a cache."""
    firmware = Firmware(name="", package="", version="", code=Path("code"), variables=Path("variables"))
    wiring = Wiring(tpm=Path("tpm"), variables=Path("variables"), uki=Path("uki"))
    arguments = qemu_arguments(machine, firmware, boot, wiring, accelerator="tcg")
    parts = [tools.digest, pciexbar, arguments, *([machine.gpus] if machine.gpus else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def machine_tables(
    tools: Tools,
    machine: Machine,
    firmware: Firmware,
    boot: BootPath,
    *,
    pciexbar: int = PCIEXBAR,
    bare: bool = False,
) -> FwCfgTables:
    """Return the tables of the machine that `builder.boot.session` boots; takes about 0.2 s.

    They follow from QEMU, ``machine`` and ``boot``: disk and UKI contents do not matter, so stand-ins serve.

    Raises:
        BootError: QEMU or the TPM does not start, or does not follow the protocol.
        NotPredictableError: see `read_fw_cfg_tables`.
    """
    with tempfile.TemporaryDirectory(prefix="goldsmith-qtest-") as name:
        folder = Path(name)
        variables, uki = folder / "vars.fd", folder / "uki.efi"
        shutil.copyfile(firmware.variables, variables)
        uki.write_bytes(bytes(1 << 16))
        with software_tpm(tools, folder) as tpm:
            wiring = Wiring(tpm=tpm, variables=variables, uki=uki if boot is BootPath.DIRECT else None)
            arguments = qemu_arguments(machine, firmware, boot, wiring, accelerator="tcg", bare=bare)
            cards = {} if bare else gpu_slots(machine)
            return read_fw_cfg_tables(tools, arguments, cards=cards, pciexbar=pciexbar, smm=machine.smm)


def read_fw_cfg_tables(
    tools: Tools,
    arguments: Sequence[str],
    *,
    processor: pci.Processor = PROCESSOR,
    cards: Mapping[int, Sequence[int]] = MappingProxyType({}),
    pciexbar: int = PCIEXBAR,
    smm: bool = False,
) -> FwCfgTables:
    """Start QEMU with ``arguments`` and read its tables as OVMF would, with ``smm`` as its builds with SMM.

    ``processor`` is the one that firmware will see, whatever QEMU is started with here; ``cards`` are those that
    stand-ins stand for, as in `pci.with_cards`.

    Raises:
        BootError: QEMU ends early or does not follow the protocol; the message holds its last lines.
        NotPredictableError: the machine has PCI bridges on bus 0 or an override of OVMF's 64-bit window.
    """
    with tempfile.TemporaryFile() as errors:
        full = [*arguments, "-S", "-qtest", "stdio", "-qtest-log", "none"]
        with tools.spawn("qemu-system-x86_64", *full, stdin=PIPE, stdout=PIPE, stderr=errors) as process:
            try:
                return _read_tables(_Qtest(process), processor, cards, pciexbar, smm=smm)
            except (OSError, struct.error, ValueError) as error:
                errors.seek(0)
                raise BootError(
                    f"cannot read ACPI tables from QEMU: {error}\n{last_lines(errors.read())}".rstrip()
                ) from error


def _read_tables(
    qtest: _Qtest,
    processor: pci.Processor,
    cards: Mapping[int, Sequence[int]],
    pciexbar: int,
    *,
    smm: bool,
) -> FwCfgTables:
    files = dict(_directory(qtest))
    for name in _WINDOW_OVERRIDES:
        if name in files:
            raise NotPredictableError(f"fw_cfg file {name} moves OVMF's PCI window: not predictable")

    def read(name: str) -> bytes:
        key, size = files[name]
        return _read_file(qtest, key, size)

    reserved = struct.unpack("<Q", read(_RESERVED_END))[0] if _RESERVED_END in files else None
    window = pci.mmio64_window(
        tuple(
            pci.E820Entry(base=b, length=n, type=t) for b, n, t in struct.iter_unpack("<QQI", read(_RAM_MAP))
        ),
        processor,
        reserved_end=reserved,
    )
    _program_chipset(qtest, pciexbar)
    _program_devices(qtest, window, cards)
    if smm:
        _negotiate_smi(qtest, files)
    return FwCfgTables(
        acpi=AcpiBlobs(
            table_loader=read(LOADER_FILE),
            rsdp=read(RSDP_FILE),
            tables=read(TABLES_FILE),
            tpm_log=read(TPM_LOG_FILE) if TPM_LOG_FILE in files else None,
        ),
        smbios=read(_SMBIOS),
        bootorder=(read(_BOOT_ORDER) or None) if _BOOT_ORDER in files else None,
    )


def _program_chipset(qtest: _Qtest, pciexbar: int) -> None:
    """Enable ACPI I/O and MMCONFIG as OvmfPkg/Library/PlatformInitLib does (PlatformMiscInitialization)."""
    qtest.config_write(*_LPC, 0x40, 0x601)  # PMBASE
    qtest.config_write(*_LPC, 0x44, 0x80)  # ACPI_CNTL: enable
    qtest.config_write(*_HOST_BRIDGE, 0x64, pciexbar >> 32)
    qtest.config_write(*_HOST_BRIDGE, 0x60, (pciexbar & 0xFFFFFFFF) | 1)


def _negotiate_smi(qtest: _Qtest, files: Mapping[str, tuple[int, int]]) -> None:
    """Agree on SMI features (SmiFeatures.c, NegotiateSmiFeatures): with CPU hotplug by SMI the DSDT is another."""
    key, size = files[_SMI_SUPPORTED]
    wanted = int.from_bytes(_read_file(qtest, key, size), "little") & _SMI_WANTED
    key, size = files[_SMI_REQUESTED]
    _write_file(qtest, key, wanted.to_bytes(size, "little"))
    if _read_file(qtest, *files[_SMI_LATCH]) != b"\1":
        raise ValueError(f"QEMU refuses the SMI features 0b{wanted:b}, which it supports")


def _program_devices(qtest: _Qtest, window: pci.Window, cards: Mapping[int, Sequence[int]]) -> None:
    """Give each 64-bit BAR its address and switch decoding on (OvmfPkg/AcpiPlatformDxe EnablePciDecoding)."""
    found = [bar for device, function in _functions(qtest) for bar in _bars(qtest, device, function)]
    addresses = pci.place(pci.with_cards(found, cards), window.base)
    pci.check(addresses, window)
    bars = [bar for bar in addresses if bar.register >= 0]
    for bar in bars:
        address = addresses[bar]
        qtest.config_write(bar.device, bar.function, bar.register, address & 0xFFFFFFFF)
        qtest.config_write(bar.device, bar.function, bar.register + 4, address >> 32)
    for device, function in {(bar.device, bar.function) for bar in bars}:
        qtest.config_write(device, function, 0x04, _DECODE_IO_MEMORY_MASTER)


def _functions(qtest: _Qtest) -> Iterator[tuple[int, int]]:
    for device in range(32):
        functions = 8 if qtest.config_read(device, 0, 0x0C) >> 16 & _MULTIFUNCTION else 1
        for function in range(functions):
            if qtest.config_read(device, function, 0x00) & 0xFFFF == 0xFFFF:
                continue
            if qtest.config_read(device, function, 0x0C) >> 16 & 0x7F == _BRIDGE:
                raise NotPredictableError(
                    f"PCI bridge at {device:02x}.{function}: bridge windows are not predictable; use bus 0"
                )
            yield device, function


def _bars(qtest: _Qtest, device: int, function: int) -> Iterator[pci.Bar]:
    """Size the memory BARs of a function (PCI Local Bus 3.0, 6.2.5.1) and yield those of 64 bits."""
    register = 0x10
    while register <= 0x24:
        low = qtest.config_read(device, function, register)
        if low & 0b111 != 0b100:  # I/O, or a 32-bit memory BAR
            register += 4
            continue
        mask = 0
        for half in (0, 4):
            before = qtest.config_read(device, function, register + half)
            qtest.config_write(device, function, register + half, 0xFFFFFFFF)
            mask |= qtest.config_read(device, function, register + half) << 8 * half
            qtest.config_write(device, function, register + half, before)
        size = (~(mask & ~0xF) & 0xFFFFFFFFFFFFFFFF) + 1
        yield pci.Bar(device=device, function=function, register=register, size=size)
        register += 8


def _directory(qtest: _Qtest) -> Iterator[tuple[str, tuple[int, int]]]:
    (count,) = struct.unpack(">I", _read_file(qtest, _FW_CFG_DIRECTORY, 4))
    if count > _MAX_FILES:
        raise ValueError(f"fw_cfg lists {count} files; at most {_MAX_FILES} were expected")
    entries = _read_file(qtest, _FW_CFG_DIRECTORY, 4 + 64 * count)[4:]
    for size, key, name in struct.iter_unpack(">IHxx56s", entries):
        yield name.rstrip(b"\0").decode("ascii"), (key, size)


def _read_file(qtest: _Qtest, key: int, size: int) -> bytes:
    """Read by DMA: the descriptor is control, length and address, big endian (docs/specs/fw_cfg)."""
    if size == 0:
        return b""
    if size > _MAX_FILE:
        raise ValueError(f"a fw_cfg file of {size} bytes; at most {_MAX_FILE} were expected")
    _transfer(qtest, key, _FW_CFG_READ_SELECTED, size)
    return qtest.memory_read(_BUFFER, size)


def _write_file(qtest: _Qtest, key: int, content: bytes) -> None:
    qtest.memory_write(_BUFFER, content)
    _transfer(qtest, key, _FW_CFG_WRITE_SELECTED, len(content))


def _transfer(qtest: _Qtest, key: int, command: int, size: int) -> None:
    qtest.memory_write(_DESCRIPTOR, struct.pack(">IIQ", key << 16 | command, size, _BUFFER))
    qtest.out(_FW_CFG_DMA_HIGH, 0)
    qtest.out(_FW_CFG_DMA_LOW, int.from_bytes(struct.pack(">I", _DESCRIPTOR), "little"))
    (control,) = struct.unpack(">I", qtest.memory_read(_DESCRIPTOR, 4))
    if control != 0:
        raise ValueError(f"fw_cfg refuses a transfer for key 0x{key:x} (control 0x{control:x})")


class _Qtest:
    """The test protocol: one text line each way."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    def out(self, port: int, value: int) -> None:
        self._command(f"outl 0x{port:x} 0x{value:x}")

    def memory_write(self, address: int, data: bytes) -> None:
        self._command(f"write 0x{address:x} 0x{len(data):x} 0x{data.hex()}")

    def memory_read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self._command(f"read 0x{address:x} 0x{size:x}").removeprefix("0x"))

    def config_read(self, device: int, function: int, register: int) -> int:
        self._select(device, function, register)
        return int(self._command("inl 0xcfc"), 16)

    def config_write(self, device: int, function: int, register: int, value: int) -> None:
        self._select(device, function, register)
        self.out(0xCFC, value)

    def _select(self, device: int, function: int, register: int) -> None:
        self.out(0xCF8, 1 << 31 | device << 11 | function << 8 | register)

    def _command(self, line: str) -> str:
        self._in.write(line.encode() + b"\n")
        self._in.flush()
        answer = self._out.readline().decode("ascii", "replace").split()
        if not answer or answer[0] != "OK":
            raise ValueError(f"QEMU answered {' '.join(answer)[:80]!r} to {line[:40]!r}")
        return answer[1] if len(answer) > 1 else ""
