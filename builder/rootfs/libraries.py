"""Every shared library that an ELF file of the tree needs is where the dynamic loader will look for it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from builder.elf import MACHINE_X86_64, TYPE_EXECUTABLE, TYPE_SHARED, Elf, is_elf, parse_elf
from builder.rootfs.findings import Findings
from builder.rootfs.permits import Missing
from builder.tree import Kind, Node, Tree
from measurements.errors import FormatError

#: The search path built into Debian's glibc (``ld.so --help``), for a system without /etc/ld.so.cache.
DEFAULT_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib")
_TOKENS = {"$LIB": "lib/x86_64-linux-gnu", "${LIB}": "lib/x86_64-linux-gnu", "$PLATFORM": "x86_64",
           "${PLATFORM}": "x86_64"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    path: str
    node: Node
    elf: Elf

    def __str__(self) -> str:
        return f"{self.path} ({self.node.origin})"


def check_libraries(tree: Tree, missing: Missing, findings: Findings) -> None:
    """Find ELF files whose loader or needed libraries are absent (System V gABI, "Dynamic Linking").

    A library that is only opened at run time (.note.dlopen) is an error when its note says "required", and
    a note otherwise.
    """
    loader = _Loader(tree, findings)
    roots = [item for item in loader.objects.values() if item.elf.interpreter]
    for item in roots:
        if tree.resolve(item.elf.interpreter) is None and not missing.permits(item.elf.interpreter):
            findings.error(f"{item} needs the loader {item.elf.interpreter}, which the tree does not have")
        loader.load(item)
    for item in loader.objects.values():
        if item.path not in loader.reached:  # what only dlopen() loads stands for itself
            loader.load(item)
    for (path, name), program in loader.unresolved.items():
        if missing.permits(name):
            continue
        item = loader.objects[path]
        folders = ":".join(item.elf.runpath)
        findings.error(
            f"{item} needs the library {name}, which is in none of its folders"
            + (f", its own being {folders}" if folders else "")
            + (f", when {program} loads it" if program != path else ""),
            hint="add the library's package, exclude the file, or list the library in `missing`",
        )
    _check_opened(loader, missing, findings)


class _Loader:
    """ld.so(8) over a tree: breadth first, and what is loaded already satisfies a need by its name."""

    def __init__(self, tree: Tree, findings: Findings) -> None:
        self.objects = _objects(tree, findings)
        self.reached: set[str] = set()
        #: (object, library) -> the program that was being loaded
        self.unresolved: dict[tuple[str, str], str] = {}
        self._tree = tree
        self._folders: dict[str, str | None] = {}
        self._files: dict[str, str | None] = {}
        self._search = {path: _search_path(item) for path, item in self.objects.items()}

    def load(self, program: _Object) -> None:
        loaded = {posixpath.basename(program.elf.interpreter)}
        queue = [program]
        for item in queue:
            for name in item.elf.needed:
                if name in loaded:
                    continue
                loaded.add(name)
                found = self.find(item.path, name)
                if found is None:
                    self.unresolved.setdefault((item.path, name), program.path)
                elif found in self.objects:
                    library = self.objects[found]
                    loaded.add(library.elf.soname)
                    self.reached.add(found)
                    queue.append(library)

    def find(self, user: str, name: str) -> str | None:
        """Return the file that ``user`` gets when it asks for ``name``, or None."""
        if "/" in name:
            return self._tree.resolve(name)
        for folder in self._search[user]:
            if folder not in self._folders:
                self._folders[folder] = self._tree.resolve(folder)
            real = self._folders[folder]
            if real is None:
                continue
            path = f"{real}/{name}"
            if path not in self._files:
                self._files[path] = self._tree.resolve(path) if path in self._tree else None
            if self._files[path] is not None:
                return self._files[path]
        return None


def _check_opened(loader: _Loader, missing: Missing, findings: Findings) -> None:
    opened: dict[str, tuple[str, list[str]]] = {}
    for item in loader.objects.values():
        for note in item.elf.dlopen:
            if any(loader.find(item.path, name) for name in note.sonames):
                continue
            if note.priority == "required" and not missing.permits(*note.sonames):
                findings.error(f"{item} requires {' or '.join(note.sonames)} for {note.feature or 'itself'}")
            elif note.sonames:
                opened.setdefault(note.sonames[0], (note.feature, []))[1].append(item.path)
    for name, (feature, users) in sorted(opened.items()):
        others = f" and {len(users) - 1} more" if len(users) > 1 else ""
        findings.note(f"{name} ({feature}) is absent; {users[0]}{others} would open it")


def _objects(tree: Tree, findings: Findings) -> dict[str, _Object]:
    found: dict[str, _Object] = {}
    for path, node in tree.items():
        if node.kind is not Kind.FILE or not is_elf(node.content) or ".ko" in path[-7:]:
            continue
        if path.startswith("/usr/lib/firmware/"):
            continue  # for another processor
        try:
            elf = parse_elf(node.content)
        except FormatError as error:
            findings.error(f"{path} ({node.origin}): {error}")
            continue
        if elf.machine != MACHINE_X86_64:
            findings.note(f"{path} ({node.origin}) is for ELF machine {elf.machine}, not x86-64")
        elif elf.type in (TYPE_EXECUTABLE, TYPE_SHARED):
            found[path] = _Object(path=path, node=node, elf=elf)
    return found


def _search_path(item: _Object) -> tuple[str, ...]:
    own = []
    for folder in item.elf.runpath:
        origin = posixpath.dirname(item.path)
        expanded = folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
        for token, value in _TOKENS.items():
            expanded = expanded.replace(token, value)
        own.append(posixpath.normpath(expanded))
    return (*own, *DEFAULT_FOLDERS)
