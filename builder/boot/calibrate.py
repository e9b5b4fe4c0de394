"""Boots firmware alone and takes its event log out of the guest's memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qemu import Wiring
from builder.boot.session import RunningMachine, running_machine
from builder.errors import BootError
from builder.progress import SILENT, Reporter
from builder.tools import Tools
from measurements.errors import FormatError
from measurements.events import EventType
from measurements.formats import eventlog
from measurements.prediction import BootPath

_TIMEOUT = 90.0  # seconds; about 5 under TCG
_POLL = 0.5
_SIGNATURE = b"Spec ID Event03\0"
_SIGNATURE_OFFSET = 32  # PCR index, type, SHA-1 digest, size (TCG PFP 1.06, 10.2.1)
_LOG_AREA = 0x10000  # edk2 PcdTcgLogMaxLen; what the log leaves free is ff
_CHUNK = 1 << 24
_KERNEL_SIZE = 1 << 16


def calibrate(
    tools: Tools,
    firmware: Firmware,
    machine: Machine,
    boot: BootPath = BootPath.DISK,
    *,
    timeout: float = _TIMEOUT,
    reporter: Reporter = SILENT,
    accelerator: str | None = None,
) -> bytes:
    """Boot ``firmware`` alone and return its TCG event log, complete for PCR 0 to 7.

    The machine is the one that boots releases, without its disk, network and evidence port: what the firmware
    then tries to boot is its own, and the attempt closes the registers with separators. The log is followed by
    padding up to 64 KiB. For a direct boot ``-kernel`` gets a file of zeros, which firmware refuses to start.

    Raises:
        BootError: no complete log within ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="goldsmith-calibrate-") as name:
        folder = Path(name)
        memory = folder / "memory"
        kernel = folder / "kernel"
        kernel.write_bytes(bytes(_KERNEL_SIZE))
        wiring = Wiring(tpm=folder, variables=folder, memory=memory, uki=kernel)
        with (
            reporter.phase(f"calibrate {firmware.name} {boot}") as phase,
            running_machine(
                tools, firmware, machine, boot, wiring, folder, accelerator=accelerator, bare=True
            ) as running,
        ):
            while time.monotonic() < running.started + timeout:
                running.check()
                phase.detail(running.console.last_line)
                time.sleep(_POLL)
                log = complete_log(memory)
                if log is not None:
                    return log
            raise _incomplete(running, smm=machine.smm)


def _incomplete(running: RunningMachine, *, smm: bool) -> BootError:
    return BootError(
        "the firmware left no event log with separators in PCR 0 to 7: it has no TPM 2.0 support, or it "
        f"does not run on a machine {'with' if smm else 'without'} system management mode\n"
        f"last console lines:\n{running.console.tail() or '(the console stayed silent)'}"
    )


def complete_log(memory: Path) -> bytes | None:
    """Return the complete log with the most records, of all that lie in the guest's memory."""
    best: tuple[int, bytes] | None = None
    for candidate in _candidates(memory):
        try:
            log = eventlog.parse(candidate, kind=eventlog.LogKind.CRYPTO_AGILE)
        except FormatError:  # a copy that was moved or cut
            continue
        closed = {record.register for record in log.records if record.type == EventType.SEPARATOR}
        if closed >= set(range(8)) and (best is None or len(log.records) > best[0]):
            best = (len(log.records), candidate)
    return best[1] if best is not None else None


def _candidates(memory: Path) -> Iterator[bytes]:
    """Yield what follows each log header in those parts of memory that were ever written."""
    with memory.open("rb") as file:
        for start, end in _written(file.fileno()):
            overlap = len(_SIGNATURE) - 1
            for at in range(start, end, _CHUNK):
                block = os.pread(file.fileno(), min(_CHUNK + overlap, end - at), at)
                found = block.find(_SIGNATURE)
                while found != -1:
                    header = at + found - _SIGNATURE_OFFSET
                    if header >= 0:
                        yield os.pread(file.fileno(), _LOG_AREA, header)
                    found = block.find(_SIGNATURE, found + 1)


def _written(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of a sparse file's data."""
    end = 0
    size = os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
