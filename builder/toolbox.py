"""The toolbox and the firmware, unpacked once into the store from their locked archives."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.artifacts import Archive, Firmware, Lock
from builder.debian import DebArchive, open_archive
from builder.elf import MACHINE_X86_64, is_elf, parse_elf
from builder.errors import ArchiveError, FetchError
from builder.recipe.model import FirmwareSource
from builder.store import Store
from builder.tools import LIBRARY_PATH, Tools
from builder.tree import Kind
from measurements.errors import FormatError

_TOOLBOX_KIND = "toolbox-1"
_COMPILER_KIND = "compiler-1"
_FIRMWARE_KIND = "firmware-1"
_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_DOCUMENTATION = tuple(
    f"/usr/share/{name}/"
    for name in (
        "doc",
        "man",
        "info",
        "locale",
        "lintian",
        "bash-completion",
        "zsh",
        "doc-base",
        "applications",
    )
)
_MAX_LINKS = 40
_JOBS = 2


def open_members(
    archives: Iterable[Archive], store: Store, *, recipe: str, keep: bool = True
) -> Iterator[DebArchive]:
    """Open archives of the store, in their order; a few are decompressed side by side.

    Args:
        archives: members of a set.
        store: what holds them.
        recipe: the image's name, for the hint.
        keep: whether their decompressed content stays in the store for the next build.

    Raises:
        FetchError: one is not in the store.
        ArchiveError: one is malformed.
    """
    paths = []
    for archive in archives:
        path = store.get(archive.sha256, archive.size)
        if path is None:
            raise FetchError(
                f"{archive.name} {archive.version} is not in the store", hint=f"goldsmith fetch {recipe}"
            )
        paths.append(path)
    cache = store if keep else None
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        # In batches: what is decompressed into memory must not be all of it at once.
        for start in range(0, len(paths), 2 * _JOBS):
            yield from pool.map(
                lambda path: open_archive(path, cache=cache), paths[start : start + 2 * _JOBS]
            )


def unpack_toolbox(lock: Lock, store: Store) -> Tools:
    """Return the tools of a lock, unpacking them when this store has not seen them yet.

    Raises:
        FetchError: an archive is not in the store.
        ArchiveError: an archive is malformed, or ships what cannot be unpacked safely.
    """
    archives = lock.members("toolbox")
    key = _key(archives)

    def make(target: Path) -> None:
        unpack(open_members(archives, store, recipe=lock.recipe, keep=False), target)
        check_libraries(target)

    root = store.derived(_TOOLBOX_KIND, key, make)
    return Tools(
        root=root,
        source_date_epoch=lock.source_date_epoch,
        versions={archive.name: archive.version for archive in archives},
        digest=key,
    )


def unpack_compiler(lock: Lock, links: Mapping[str, str], store: Store) -> Tools:
    """Return the compiler of a lock, like `unpack_toolbox`, with the links that maintainer scripts would make.

    Raises:
        FetchError: an archive is not in the store.
        ArchiveError: an archive is malformed, or a link's path is taken.
    """
    archives = lock.members("compiler")
    made = sorted(links.items())
    key = hashlib.sha256(f"{_key(archives)} {made}".encode()).hexdigest()

    def make(target: Path) -> None:
        unpack(open_members(archives, store, recipe=lock.recipe, keep=False), target)
        for path, link in made:
            place = target / _merged(path)[1:]
            if os.path.lexists(place):
                raise ArchiveError(f"compiler.links: a package ships {path} itself")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(_relative(path, link, "compiler.links"))
        check_libraries(target)

    root = store.derived(_COMPILER_KIND, key, make)
    return Tools(
        root=root,
        source_date_epoch=lock.source_date_epoch,
        versions={archive.name: archive.version for archive in archives},
        digest=key,
    )


def firmware(sources: Sequence[FirmwareSource], lock: Lock, store: Store) -> tuple[Firmware, ...]:
    """Return a recipe's firmware builds of code and variables, each unpacked into a folder of its own.

    Raises:
        FetchError: an archive is not in the store.
        ArchiveError: an archive is malformed, or lacks the file that the recipe names.
    """
    found = []
    for source in sources:
        if source.variables is None:
            continue
        archives = lock.members(f"firmware/{source.name}")
        # The archive listed first gives the build its name; others of a set add to it.
        first = next(archive for archive in archives if archive.name == source.packages[0])
        found.append(
            Firmware(
                name=source.name,
                package=first.name,
                version=first.version,
                code=_firmware_file(source, source.code, lock, store),
                variables=_firmware_file(source, source.variables, lock, store),
            )
        )
    return tuple(found)


def single_file_firmware(sources: Sequence[FirmwareSource], lock: Lock, store: Store) -> dict[str, Path]:
    """Return name -> file of a recipe's firmware builds that are one file; raises as `firmware`."""
    return {
        source.name: _firmware_file(source, source.code, lock, store)
        for source in sources
        if source.variables is None
    }


def _firmware_file(source: FirmwareSource, wanted: str, lock: Lock, store: Store) -> Path:
    archives = lock.members(f"firmware/{source.name}")

    def make(target: Path) -> None:
        unpack(open_members(archives, store, recipe=lock.recipe, keep=False), target)

    path = store.derived(_FIRMWARE_KIND, _key(archives), make) / wanted.lstrip("/")
    if not path.is_file():
        names = ", ".join(f"{archive.name} {archive.version}" for archive in archives)
        raise ArchiveError(f"firmware {source.name}: {wanted} is not in {names}")
    return path.resolve()


def unpack(packages: Iterable[DebArchive], target: Path, *, only: str | None = None) -> None:
    """Write the files of packages below ``target``: no owner, no device, no script, no link that leaves it.

    ``/bin``, ``/lib`` and their kind lead to ``/usr``, as on every merged system. Absolute links become
    relative ones. With ``only``, one path is unpacked and nothing else.

    Raises:
        ArchiveError: two packages disagree about a path, or a path leads through a link.
    """
    target.mkdir(parents=True)
    links: dict[str, str] = {}
    files: set[str] = set()
    directories: set[str] = set()
    for package in packages:
        name = package.control["Package"]
        for entry in package.entries():
            path = _merged(entry.path)
            if path == "/" or path.startswith(_DOCUMENTATION) or only not in (None, path):
                continue
            if entry.kind is Kind.DIRECTORY:
                directories.add(path)
            elif entry.kind is Kind.SYMLINK:
                link = _relative(entry.path, entry.target, name)
                if posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) == path:
                    continue  # /lib -> usr/lib, when both are the same here
                if path in files or links.setdefault(path, link) != link:
                    raise ArchiveError(f"{name}: another package ships {path} differently")
            elif entry.kind is Kind.FILE:
                if path in links or (path in files and (target / path[1:]).read_bytes() != entry.content):
                    raise ArchiveError(f"{name}: another package ships {path} differently")
                files.add(path)
                _write(target, path, entry.content, executable=bool(entry.mode & 0o111))
            else:
                raise ArchiveError(f"{name}: {path} is a device")
    for path in sorted(directories - set(links)):
        (target / path[1:]).mkdir(parents=True, exist_ok=True)
    _check_not_below_links([*files, *directories, *links], links)
    for path, link in sorted(links.items()):
        place = target / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(link)


def check_libraries(root: Path, *, beside: Path | None = None) -> None:
    """Check that no program or library of an unpacked toolbox would have to take a library from the host.

    ``beside`` is another toolbox, whose libraries serve as well.

    Raises:
        ArchiveError: a library is absent; with who needs it.
    """
    roots = [root] if beside is None else [root, beside]
    folders = [each / folder for each in roots for folder in LIBRARY_PATH]
    present = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    absent: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as handle:
            if not is_elf(handle.read(4)):
                continue
        try:
            elf = parse_elf(path.read_bytes())
        except FormatError:
            continue  # firmware of other machines, which QEMU carries
        if elf.machine == MACHINE_X86_64:
            for name in elf.needed:
                # A module's own helpers lie beside it ($ORIGIN), as gconv's do.
                if name not in present and not (path.parent / name).exists():
                    absent.setdefault(name, str(path.relative_to(root)))
    if absent:
        listed = ", ".join(f"{name} (needed by {path})" for name, path in sorted(absent.items()))
        raise ArchiveError(
            f"the toolbox lacks {listed}", hint="take its package out of `drop`, then goldsmith lock"
        )


def _write(target: Path, path: str, content: memoryview, *, executable: bool) -> None:
    place = target / path[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    # Links are made last, so no file is ever written through one.
    place.unlink(missing_ok=True)
    with place.open("xb") as handle:
        handle.write(content)
        os.fchmod(handle.fileno(), 0o755 if executable else 0o644)


def _merged(path: str) -> str:
    first, _, _ = path[1:].partition("/")
    return f"/usr{path}" if first in _MERGED else path


def _relative(path: str, link: str, package: str) -> str:
    """Return the target of the link at ``path`` relative to where it is unpacked, staying below the root."""
    absolute = link if link.startswith("/") else posixpath.join(posixpath.dirname(path), link)
    depth = 0
    for part in absolute.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            raise ArchiveError(f"{package}: the link {path} -> {link} leaves the root")
    return posixpath.relpath(_merged(posixpath.normpath(absolute)), posixpath.dirname(_merged(path)))


def _check_not_below_links(paths: Iterable[str], links: Iterable[str]) -> None:
    """Refuse a path whose folder is a link: it would be, or lead, somewhere else than was checked."""
    taken = set(links)
    for path in paths:
        parent = posixpath.dirname(path)
        while parent != "/":
            if parent in taken:
                raise ArchiveError(f"{path} lies below {parent}, which another package makes a link")
            parent = posixpath.dirname(parent)


def _key(archives: Sequence[Archive]) -> str:
    text = "\n".join(f"{archive.name} {archive.sha256}" for archive in archives)
    return hashlib.sha256(text.encode()).hexdigest()
