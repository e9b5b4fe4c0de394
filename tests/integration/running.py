"""Starting the command like a user does, with a limit on time, and looking for what it left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "base"
#: A release folder to test in place of a build of recipes/base (tests/live/switched_off.py sets it).
RELEASE_VARIABLE = "GOLDSMITH_TEST_RELEASE"
COMMAND = Path(sys.executable).with_name("goldsmith")
#: Seconds a machine may take to answer; a software CPU on two busy cores needs some thirty.
BOOT_LIMIT = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRun:
    """A boot: what `goldsmith boot --json` said, and what it left behind.

    `evidence` and its key beside it exist when the guest answered.
    """

    code: int
    report: dict[str, Any]
    stderr: str
    evidence: Path
    attestation_key: Path
    leftovers: tuple[str, ...]

    @property
    def reasons(self) -> str:
        return "\n".join(self.report["reasons"])

    def register(self, bank: str, index: int) -> dict[str, Any]:
        return self.report["registers"][bank][str(index)]

    @property
    def nonce(self) -> str:
        return json.loads(self.evidence.read_bytes())["nonce"]


class Goldsmith:
    """The installed command, run in `cwd`."""

    def __init__(self, *, cwd: Path) -> None:
        self.cwd = cwd

    def __call__(
        self,
        *arguments: str | Path,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        process = self.start(*arguments, env=env, cwd=cwd)
        return finish(process, timeout=timeout)

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        # As main thread of its own session: signals of the terminal, and of the test, reach it alone.
        return subprocess.Popen(
            [COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            # A shell starts background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def boot(self, release: Path, *options: str | Path, folder: Path) -> BootRun:
        """Run `goldsmith boot --json`; evidence goes to `folder`."""
        evidence = folder / "evidence.json"
        with private_temporary() as temporary:
            done = self(
                "boot", release, "--json", "--timeout", str(BOOT_LIMIT), "--save-evidence", evidence, *options,
                timeout=BOOT_LIMIT + 90, env={"TMPDIR": str(temporary)},
            )  # fmt: skip
            left = leftovers(temporary)
        if not done.stdout:
            pytest.fail(f"goldsmith boot ended with {done.code} and printed no report:\n{done.stderr}")
        return BootRun(
            code=done.code,
            report=json.loads(done.stdout),
            stderr=done.stderr,
            evidence=evidence,
            attestation_key=folder / "evidence.json.ak.pem",
            leftovers=left,
        )


def finish(process: subprocess.Popen[str], *, timeout: float) -> Done:
    """Wait for a command; one that hangs is told to stop, so that it takes its machine down, and fails."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except BaseException as error:
        process.terminate()
        try:
            _, stderr = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            _, stderr = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            pytest.fail(
                f"{process.args} did not end within {timeout:.0f} s:\n{stderr[-4000:]}", pytrace=False
            )
        raise
    return Done(code=process.returncode, stdout=stdout, stderr=stderr)


def interrupt(process: subprocess.Popen[str], number: signal.Signals) -> Done:
    """Send one signal and wait for the end."""
    process.send_signal(number)
    return finish(process, timeout=60)


@contextmanager
def private_temporary() -> Iterator[Path]:
    """A short TMPDIR of its own (socket names are limited to 107 bytes), so that what stays there shows."""
    path = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def leftovers(folder: Path) -> tuple[str, ...]:
    """Name the files below `folder`, and the processes that were started with it in argument or environment."""
    return (
        *(f"file {path.relative_to(folder)}" for path in sorted(folder.rglob("*"))),
        *(f"process {line}" for line in processes(str(folder))),
    )


def processes(marker: str) -> list[str]:
    """Return the command lines of other processes that mention `marker`; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            said = command + b"\0" + (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if command and marker.encode() in said:
            found.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def await_process(marker: str, program: str, *, timeout: float) -> None:
    """Wait until a process that mentions `marker` runs `program`."""
    deadline = time.monotonic() + timeout
    while not any(program in line for line in processes(marker)):
        if time.monotonic() > deadline:
            pytest.fail(f"no {program} was started within {timeout:.0f} s")
        time.sleep(0.05)


def copy_release(release: Path, target: Path, *, without: Sequence[str] = ()) -> Path:
    """Copy a release folder; holes of the disk stay holes."""
    target.mkdir()
    for path in release.iterdir():
        if path.name not in without:
            subprocess.run(["cp", "--sparse=always", "--reflink=auto", path, target], check=True, timeout=120)
    return target


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name; copy it where that cannot be."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or somebody else's file
        shutil.copy2(source, target)
