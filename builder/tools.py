"""The only module that starts processes.

Byte-writing tools come out of the locked toolbox and run through the toolbox's own dynamic loader, so the
host's distribution never changes a byte. Every process gets a closed environment: no locale, time zone,
umask-dependent or user setting of the caller reaches it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from builder.errors import ToolError

_LIBRARY = "usr/lib/x86_64-linux-gnu"
#: Where the toolbox's loader looks for libraries, below the toolbox's root.
LIBRARY_PATH = (_LIBRARY, f"{_LIBRARY}/systemd", f"{_LIBRARY}/swtpm", f"{_LIBRARY}/pulseaudio")
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_PROGRAM_PATH = ("usr/bin", "usr/sbin", "usr/lib/systemd")
#: Where QEMU finds its option ROMs; it would look beside its program, which the loader hides, and then on the host.
_QEMU, _QEMU_DATA = "qemu-system-", ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
_MISSING = "is its package in recipes/common/toolbox.yaml?"
_ERROR_LINES = 15
_DEFAULT_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A finished process: what it wrote, and how long its CPUs worked (seconds)."""

    stdout: bytes
    stderr: bytes


def closed_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment every tool runs in."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    environment.update(extra or {})
    return environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The unpacked toolbox, or the host when ``root`` is None (apt, which only resolves).

    Attributes:
        root: directory that holds the toolbox's ``usr``.
        source_date_epoch: seconds since 1970 that tools write in place of the clock.
        versions: package -> version of what is in the toolbox, for documents and cache keys.
        digest: SHA-256 over the toolbox's archives; part of every cache key.
        programs: directory with programs that stand before the toolbox's, and run on its loader and libraries.
    """

    root: Path | None
    source_date_epoch: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    programs: Path | None = None

    def path(self, relative: str) -> Path:
        """Return a toolbox file by its path in the packages (``usr/share/OVMF/OVMF_CODE_4M.fd``).

        Raises:
            ToolError: it is not there.
        """
        if self.root is None:
            raise ToolError(
                "this step needs the toolbox, and none is unpacked", hint="goldsmith fetch RECIPE"
            )
        path = self.root / relative.lstrip("/")
        if not path.exists():
            raise ToolError(f"the toolbox has no {relative}", hint=_MISSING)
        return path

    def command(self, program: str) -> list[str]:
        """Return the argument vector that starts ``program`` through the toolbox's loader."""
        if self.root is None:
            return [program]
        roots = [self.root] if self.programs is None else [self.programs, self.root]
        candidates = [root / folder / program for root in roots for folder in _PROGRAM_PATH]
        binary = next((path for path in candidates if path.exists()), None)
        if binary is None:
            raise ToolError(
                f"the toolbox has no program {program!r}",
                hint=_MISSING,
            )
        if binary.read_bytes()[:2] == b"#!":  # only ukify and its kind: they run on this interpreter
            return [sys.executable, "-I", str(binary)]
        libraries = ":".join(str(self.root / folder) for folder in LIBRARY_PATH)
        # The host's ld.so.cache would let a library that the toolbox lacks come from the host.
        folders = _QEMU_DATA if program.startswith(_QEMU) else ()
        return [
            str(self.root / _LOADER), "--inhibit-cache", "--argv0", program, "--library-path", libraries,
            str(binary), *(argument for folder in folders for argument in ("-L", str(self.root / folder))),
        ]  # fmt: skip

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the closed environment plus what the toolbox's libraries need to find their own files."""
        environment = closed_environment({"SOURCE_DATE_EPOCH": str(self.source_date_epoch)})
        if self.root is not None:
            environment["GCONV_PATH"] = str(self.root / _LIBRARY / "gconv")
            environment["QEMU_MODULE_DIR"] = str(self.root / _LIBRARY / "qemu")
        environment.update(extra or {})
        return environment

    def run(
        self,
        program: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        feed: bytes | None = None,
        stdin: IO[bytes] | None = None,
        timeout: float = _DEFAULT_TIMEOUT,
    ) -> Completed:
        """Run a program to its end.

        Raises:
            ToolError: it cannot be started, failed, or took longer than ``timeout`` seconds; the message
                carries its last lines.
        """
        command = [*self.command(program), *map(str, arguments)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if feed is not None else (stdin or subprocess.DEVNULL),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment(env),
                cwd=cwd,
                umask=0o022,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"cannot start {program}: {error}") from error
        try:
            stdout, stderr = process.communicate(feed, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            raise ToolError(f"{program} did not finish within {timeout:.0f} s and was stopped") from None
        except BaseException:
            kill_group(process)
            raise
        if process.returncode != 0:
            raise ToolError(
                f"{program} failed with status {process.returncode}\n{last_lines(stderr or stdout)}".rstrip()
            )
        return Completed(stdout=stdout, stderr=stderr)

    @contextlib.contextmanager
    def spawn(
        self,
        program: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a long-running program; it and its children are gone when the block is left, however.

        ``stdin``, ``stdout`` and ``stderr`` default to the null device.
        """
        command = [*self.command(program), *map(str, arguments)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.DEVNULL if stdout is None else stdout,
                stderr=subprocess.DEVNULL if stderr is None else stderr,
                env=self.environment(env),
                cwd=cwd,
                umask=0o077,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(f"cannot start {program}: {error}") from error
        try:
            yield process
        finally:
            kill_group(process)


PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
Process = subprocess.Popen[bytes]

HOST = Tools(root=None)


def last_lines(output: bytes, count: int = _ERROR_LINES) -> str:
    """Return the last ``count`` lines of a tool's output as text."""
    return "\n".join(output.decode("utf-8", "replace").rstrip().splitlines()[-count:])


def kill_group(process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """Stop a process started in its own session, and everything it started: first kindly, then for good."""
    for sent, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sent)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            continue
        if sent is signal.SIGTERM:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        break
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
