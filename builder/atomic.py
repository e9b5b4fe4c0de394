"""Files that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Write ``path`` through a temporary neighbour: flushed to disk, then renamed into place.

    When the block raises, nothing is left behind and what was at ``path`` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is never part of a result; it only keeps two writers apart.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write ``content`` to ``path`` so that a reader or a crash sees the old file or the new one."""
    with atomic_file(path, mode=mode) as handle:
        handle.write(content)


@contextlib.contextmanager
def temporary_folder(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Make a private folder that is gone when the block is left, by a signal too.

    `tempfile.TemporaryDirectory` leaves its folder behind when a signal arrives while it is made.

    Args:
        prefix: of its name.
        parent: where; the system's folder for temporary files if absent.
    """
    path = (parent or Path(tempfile.gettempdir())) / f"{prefix}{secrets.token_hex(6)}"
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make a rename below ``path`` survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` alone among all processes and threads; waits for it without limit.

    The lock goes with the process that holds it, so a killed build blocks nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _same_file(descriptor, path):
                try:
                    yield
                finally:
                    # Unlinked while held: whoever waits on this file sees that it is gone, and opens anew.
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)
