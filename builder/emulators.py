"""The QEMU releases that a lock pins: the toolbox's, and others, which are asked for tables of machines alone.

Tables are a release's own, whatever the machine type is called. An emulator beside the toolbox's is one program
on the toolbox's loader, libraries and ROMs, and is unpacked only when a table is not in the store yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder.artifacts import Archive, Lock
from builder.errors import ArchiveError, LockError
from builder.store import Store
from builder.toolbox import check_libraries, open_members, unpack
from builder.tools import Tools

PREFIX = "emulator/"
_KIND = "emulator-1"
_PACKAGE = "qemu-system-x86"
_PROGRAM = "/usr/bin/qemu-system-x86_64"
#: The upstream release in a Debian version: 1:11.1.3+ds-1~bpo13+1.
_RELEASE = re.compile(r"(?:\d+:)?(\d{1,3})\.(\d{1,3})[.+~-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A QEMU of one release.

    Attributes:
        release: (major, minor).
        digest: SHA-256 (hex) over everything that it is made of, for cache keys.
        tools: unpacks it where that is not done yet, and returns what runs it; raises as `unpack_toolbox`.
    """

    release: tuple[int, int]
    digest: str
    tools: Callable[[], Tools]


def emulators(lock: Lock, toolbox: Tools, store: Store) -> dict[tuple[int, int], Emulator]:
    """Return release -> emulator of everything that a lock pins.

    Raises:
        LockError: two are of one release, or a version does not say its release.
    """
    found: dict[tuple[int, int], Emulator] = {}
    for emulator in _emulators(lock, toolbox, store):
        if emulator.release in found:
            raise LockError(
                "the lock has two QEMUs of release {}.{}".format(*emulator.release),
                hint=f"leave one out of emulators, then goldsmith lock {lock.recipe}",
            )
        found[emulator.release] = emulator
    return found


def _emulators(lock: Lock, toolbox: Tools, store: Store) -> Iterator[Emulator]:
    for archive in lock.members("toolbox"):
        if archive.name == _PACKAGE:
            yield Emulator(release=_release(archive), digest=toolbox.digest, tools=lambda: toolbox)
    for name in sorted(lock.sets):
        if name.startswith(PREFIX):
            (archive,) = lock.members(name)
            key = hashlib.sha256(f"{toolbox.digest} {archive.version} {archive.sha256}".encode()).hexdigest()
            tools = partial(_unpacked, archive, key, lock, toolbox, store)
            yield Emulator(release=_release(archive), digest=key, tools=tools)


def _unpacked(archive: Archive, key: str, lock: Lock, toolbox: Tools, store: Store) -> Tools:
    def make(target: Path) -> None:
        unpack(open_members((archive,), store, recipe=lock.recipe, keep=False), target, only=_PROGRAM)
        if not (target / _PROGRAM[1:]).is_file():
            raise ArchiveError(f"{archive.name} {archive.version} ships no {_PROGRAM}")
        assert toolbox.root is not None
        check_libraries(target, beside=toolbox.root)

    return replace(toolbox, programs=store.derived(_KIND, key, make), digest=key)


def _release(archive: Archive) -> tuple[int, int]:
    match = _RELEASE.match(archive.version)
    if match is None:
        raise LockError(
            f"{archive.name}: expected a version that starts with a release, got {archive.version}"
        )
    return int(match[1]), int(match[2])
