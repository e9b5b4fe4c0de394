"""A software TPM 2.0: fresh for every boot, with a seed of its own, gone afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from builder.boot.tpm import make_attestation_key
from builder.errors import BootError, UsageError
from builder.tools import Process, Tools, last_lines

_START_TIMEOUT = 20.0  # seconds
_MAX_FOLDER = 90  # sun_path holds 107 characters (unix(7)); the names of a session's sockets need the rest
_POLL = 0.01


def manufacture(tools: Tools, folder: Path) -> str:
    """Make a TPM's state in ``folder`` and return the attestation key (public, PEM) its guest will use.

    The TPM is shut down again: what a guest finds later is a TPM after reset, its PCRs zero.

    Raises:
        BootError: the TPM does not come up or refuses.
        UsageError: the path of ``folder`` is too long for sockets.
    """
    channel, control = folder / "setup.sock", folder / "setup.sock.ctrl"
    with _swtpm(
        tools, folder,
        "--server", f"type=unixio,path={channel}", "--ctrl", f"type=unixio,path={control}",
        "--flags", "not-need-init,startup-clear",
    ) as process:  # fmt: skip
        for path in (channel, control):
            _await_socket(process, path, folder)
        return make_attestation_key(channel)


@contextlib.contextmanager
def software_tpm(tools: Tools, folder: Path) -> Iterator[Path]:
    """Run the TPM whose state is in ``folder`` for QEMU; yield its control socket.

    Raises:
        BootError: it does not come up.
        UsageError: the path of ``folder`` is too long for sockets.
    """
    control = folder / "control.sock"
    with _swtpm(tools, folder, "--ctrl", f"type=unixio,path={control}", "--terminate") as process:
        _await_socket(process, control, folder)
        yield control


@contextlib.contextmanager
def _swtpm(tools: Tools, folder: Path, *arguments: str) -> Iterator[Process]:
    if len(str(folder)) > _MAX_FOLDER:
        raise UsageError(
            f"{folder} is too long a path for sockets: {len(str(folder))} characters, at most {_MAX_FOLDER}",
            hint="set TMPDIR to a shorter one",
        )
    with tools.spawn(
        "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder},mode=0600",
        "--log", f"file={folder / 'swtpm.log'},level=1", *arguments,
    ) as process:  # fmt: skip
        yield process


def _await_socket(process: Process, path: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not path.is_socket():
        if process.poll() is not None or time.monotonic() > deadline:
            log = folder / "swtpm.log"
            said = last_lines(log.read_bytes()) if log.exists() else ""
            raise BootError(f"the software TPM did not come up\n{said}".rstrip())
        time.sleep(_POLL)
