"""What an image is held against out of its lock: the kernel package, and `systemd-analyze security`."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.artifacts import Archive, Lock
from builder.audit.model import References
from builder.audit.readers.tree import FileTree
from builder.audit.rules.services import running_services
from builder.audit.units import FOLDERS, load_units
from builder.errors import AuditError
from builder.store import Store
from builder.tar import Entry
from builder.toolbox import open_members, unpack
from builder.tools import Tools
from builder.tree import Kind

MAX_UNIT_FILES: Final = 10_000

_ANALYZE_KIND, _EXPOSURE_KIND = "systemd-analyze-1", "exposure-1"
_ANALYZE = "systemd-analyze"
_PACKAGE = "systemd"
_OVERALL = re.compile(r"Overall exposure level for (\S+): (\d{1,2}\.\d)")


def references_of(
    image_root: FileTree, lock: Lock, store: Store, *, kernel: Sequence[Entry] | None = None
) -> References:
    """Gather what the audit compares an image with.

    Args:
        image_root: the root file system as it was read from the image; only its unit files are used.
        lock: the release's.
        store: holds the lock's archives.
        kernel: entries of the kernel's package, where somebody has opened it already.

    Raises:
        FetchError: an archive is not in the store.
        AuditError: the kernel package is not what it should be, or systemd-analyze gives no number.
    """
    (archive,) = lock.members("kernel")
    if kernel is None:
        (package,) = open_members((archive,), store, recipe=lock.recipe)
        kernel = tuple(package.entries())
    return References(
        kernel_package=f"{archive.name} {archive.version}",
        kernel=_boot_file(kernel, "/boot/vmlinuz-", archive),
        kernel_config=_boot_file(kernel, "/boot/config-", archive).decode("utf-8", "replace"),
        exposure=exposure_of(image_root, lock, store),
    )


def exposure_of(root: FileTree, lock: Lock, store: Store) -> Mapping[str, float]:
    """Return service -> exposure, 0.0 to 10.0, by the locked systemd-analyze, for every service that runs.

    The numbers follow from the program and the unit files, so the store keeps them under the digest of both.

    Raises:
        FetchError: an archive is not in the store.
        AuditError: systemd-analyze says no number for a service.
        FormatError: a unit does not parse.
    """
    names = running_services(load_units(root))
    units = _unit_files(root)
    program = _analyze(lock, store)
    key = hashlib.sha256(program.digest.encode())
    for path, content in sorted(units.items()):
        for part in (path.encode("utf-8", "surrogateescape"), content[0].encode(), content[1]):
            key.update(len(part).to_bytes(8, "big") + part)

    def make(put: Callable[[bytes], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="goldsmith-audit-") as folder:
            put(json.dumps(_measure(program, Path(folder), units, names)).encode())

    measured = json.loads(bytes(store.derived_bytes(_EXPOSURE_KIND, key.hexdigest(), make)))
    return {str(name): float(value) for name, value in measured.items()}


def _boot_file(entries: Sequence[Entry], prefix: str, archive: Archive) -> bytes:
    found = [entry for entry in entries if entry.path.startswith(prefix) and entry.kind is Kind.FILE]
    if len(found) != 1:
        raise AuditError(
            f"{archive.name} {archive.version} ships {len(found)} files {prefix}*; expected one",
            hint="kernel.package names a linux-image package",
        )
    return bytes(found[0].content)


def _analyze(lock: Lock, store: Store) -> Tools:
    """Return systemd-analyze and its libraries, out of the archives of the root; never out of the image itself."""
    archives = lock.members("root")
    digest = hashlib.sha256("\n".join(archive.sha256 for archive in archives).encode()).hexdigest()

    def make(target: Path) -> None:
        unpack(open_members(archives, store, recipe=lock.recipe), target)

    root = store.derived(_ANALYZE_KIND, digest, make)
    return Tools(root=root, source_date_epoch=lock.source_date_epoch, digest=digest)


def _unit_files(root: FileTree) -> dict[str, tuple[str, bytes]]:
    """Return path -> ("file" or "link", content) of everything in the system manager's folders."""
    found: dict[str, tuple[str, bytes]] = {}
    for path, file in root.items():
        if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and (file.is_file or file.is_link):
            found[path] = ("link" if file.is_link else "file", file.content)
    if len(found) > MAX_UNIT_FILES:
        raise AuditError(f"the image has {len(found)} unit files; the limit is {MAX_UNIT_FILES}")
    return found


def _measure(
    program: Tools, folder: Path, units: Mapping[str, tuple[str, bytes]], names: Sequence[str]
) -> dict[str, float]:
    for path, (kind, content) in units.items():
        place = folder / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            place.write_bytes(content)
    for path, (kind, content) in units.items():
        if kind == "link":  # last: no file is ever written through one
            (folder / path[1:]).symlink_to(content.decode("utf-8", "surrogateescape"))
    found: dict[str, float] = {}
    for name in names:
        said = program.run(
            _ANALYZE, "security", "--no-pager", "--offline=yes", f"--root={folder}", "--", name, timeout=60
        ).stdout.decode("utf-8", "replace")
        match = _OVERALL.search(said)
        if match is None or match[1].replace("@test_instance.", "@.") != name:
            raise AuditError(f"systemd-analyze security says no exposure of {name}: {said[-300:]}")
        found[name] = float(match[2])
    return found
