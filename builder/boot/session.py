"""Boots one release once, and brings back evidence of what its TPM holds.

Nothing outlives a session: processes end with their blocks, and all that they share lives in one private folder.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from builder.artifacts import Firmware, Machine
from builder.boot import accelerator as accelerators
from builder.boot.client import Address, request_evidence
from builder.boot.console import Console
from builder.boot.debug import SMBIOS_STRING, debug_disk
from builder.boot.qemu import Wiring, qemu_arguments
from builder.boot.swtpm import manufacture, software_tpm
from builder.errors import BootError, UsageError
from builder.progress import SILENT, Reporter
from builder.tools import PIPE, Process, Tools, last_lines
from measurements.prediction import BootPath

#: The guest port of recipes/common/evidence.yaml.
EVIDENCE_PORT = 8440
DEFAULT_TIMEOUT = 300.0

_QEMU = "qemu-system-x86_64"
_KVM_FAILURE = b"KVM internal error"
_DRAIN = 2.0  # seconds

Transport = Literal["network", "serial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootResult:
    """What a boot brought back.

    Attributes:
        evidence: the evidence document as the guest sent it: unverified bytes.
        attestation_key: SubjectPublicKeyInfo (PEM) of the key that this TPM signs with, taken from the TPM
            itself before the guest ran: what a verifier pins.
        seconds: from power-on to evidence.
        console_tail: the console's last lines.
        accelerator: "kvm" or "tcg".
    """

    evidence: bytes
    attestation_key: str
    seconds: float
    console_tail: str
    accelerator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMachine:
    """A machine under power.

    Attributes:
        process: QEMU.
        console: its serial console.
        attestation_key: public (PEM), from the machine's TPM.
        accelerator: the ``-accel`` value.
        started: `time.monotonic` time of power-on.
        errors: file with what QEMU said itself.
    """

    process: Process
    console: Console
    attestation_key: str
    accelerator: str
    started: float
    errors: Path

    def check(self) -> None:
        """Raise `BootError`, saying how far the boot came, unless the machine still runs."""
        said = self.errors.read_bytes()
        if _KVM_FAILURE in said:
            raise BootError(
                f"KVM gave up in phase {self.console.phase!r}\n{last_lines(said)}",
                hint="without access to /dev/kvm the machine is emulated, which is slower and works",
            )
        if self.process.poll() is not None:
            self.console.drain(_DRAIN)
            raise self.failure("the machine switched itself off")

    def failure(self, what: str) -> BootError:
        """Return the error that tells ``what`` happened, in which phase, and the last words."""
        said = last_lines(self.errors.read_bytes())
        console = self.console.tail() or "(the console stayed silent)"
        parts = [f"{what} in phase {self.console.phase!r}; last console lines:", console]
        return BootError(
            "\n".join([*parts, "QEMU said:", said] if said else parts),
            hint="boot with --debug: it adds a console and can never pass as production",
        )


@contextlib.contextmanager
def running_machine(
    tools: Tools,
    firmware: Firmware,
    machine: Machine,
    boot: BootPath,
    wiring: Wiring,
    folder: Path,
    *,
    console_log: Path | None = None,
    accelerator: str | None = None,
    bare: bool = False,
) -> Iterator[RunningMachine]:
    """Power a machine on with a fresh TPM; it is off and its processes are gone when the block is left.

    Args:
        wiring: `tpm`, `variables` and `console` are replaced by this function's own.
        folder: private and empty; holds the TPM's state, the variable store and sockets.
        accelerator: ``-accel`` value; probed if absent.
        bare: see `qemu_arguments`.

    Raises:
        BootError, ToolError: the TPM or QEMU cannot be started.
        UsageError: the path of ``folder`` is too long for sockets.
    """
    accelerator = accelerator or accelerators.probe(tools, machine.cpu)
    key = manufacture(tools, folder)
    variables, errors = folder / "vars.fd", folder / "qemu.log"
    shutil.copyfile(firmware.variables, variables)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals_raise())
        log = stack.enter_context(console_log.open("wb")) if console_log is not None else None
        said = stack.enter_context(errors.open("wb"))
        tpm = stack.enter_context(software_tpm(tools, folder))
        wired = replace(wiring, tpm=tpm, variables=variables, console="stdio")
        arguments = qemu_arguments(machine, firmware, boot, wired, accelerator=accelerator, bare=bare)
        started = time.monotonic()
        process = stack.enter_context(tools.spawn(_QEMU, *arguments, stdout=PIPE, stderr=said))
        assert process.stdout is not None
        yield RunningMachine(
            process=process,
            console=Console(process.stdout, log),
            attestation_key=key,
            accelerator=accelerator,
            started=started,
            errors=errors,
        )


def boot_session(
    tools: Tools,
    firmware: Firmware,
    machine: Machine,
    boot: BootPath,
    disk: Path | None,
    uki: Path | None,
    *,
    nonce: bytes,
    timeout: float = DEFAULT_TIMEOUT,
    reporter: Reporter = SILENT,
    console_log: Path | None = None,
    transport: Transport = "network",
    port: int = EVIDENCE_PORT,
    accelerator: str | None = None,
    debug: bool = False,
) -> BootResult:
    """Boot a release and ask it for evidence; disk and UKI are only read.

    Args:
        tools: the toolbox with QEMU and swtpm.
        disk: the raw disk; on a direct boot it holds the root file system all the same.
        uki: needed for a direct boot.
        nonce: 16 to 64 fresh bytes, which the quotes will carry.
        timeout: seconds until the machine must have answered.
        console_log: file that receives the console's bytes.
        port: the guest's evidence port.
        accelerator: ``-accel`` value; probed if absent.
        debug: give the guest a console, by an add-on on a copy of the disk, or by an SMBIOS string on a direct
            boot, which has no add-ons. PCR 12 moves, so the evidence never verifies.

    Raises:
        UsageError: no medium for this boot path.
        BootError: the machine did not come up or did not answer; the message holds the phase it was in and
            the last console lines.
        ToolError: QEMU or swtpm cannot be started.
    """
    if boot is BootPath.DISK and disk is None:
        raise UsageError("a disk boot needs a disk image, and got none")
    with tempfile.TemporaryDirectory(prefix="goldsmith-boot-") as name:
        folder = Path(name)
        host_port = _free_port() if transport == "network" else 0
        if debug and boot is BootPath.DISK and disk is not None:
            disk = debug_disk(tools, disk, folder)
        wiring = Wiring(
            tpm=folder,
            variables=folder,
            disk=disk,
            uki=uki if boot is BootPath.DIRECT else None,
            evidence=folder / "evidence.sock",
            forward=(host_port, port) if host_port else None,
            smbios_string=SMBIOS_STRING if debug and boot is BootPath.DIRECT else None,
        )
        address: Address = ("127.0.0.1", host_port) if host_port else folder / "evidence.sock"
        with (
            reporter.phase(f"boot {firmware.name} {boot}") as phase,
            running_machine(
                tools,
                firmware,
                machine,
                boot,
                wiring,
                folder,
                console_log=console_log,
                accelerator=accelerator,
            ) as running,
        ):

            def check() -> None:
                running.check()
                phase.detail(f"{running.console.phase}: {running.console.last_line}")

            try:
                evidence = request_evidence(address, nonce, deadline=running.started + timeout, check=check)
            except BootError as error:
                if running.process.poll() is not None or error.hint is not None:
                    raise
                raise running.failure(str(error)) from error
            return BootResult(
                evidence=evidence,
                attestation_key=running.attestation_key,
                seconds=time.monotonic() - running.started,
                console_tail=running.console.tail(),
                accelerator=running.accelerator.partition(",")[0],
            )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that blocks are left and processes end with them."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
