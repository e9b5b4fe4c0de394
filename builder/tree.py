"""The file tree of an image while it is composed; every node knows where it came from."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from builder.errors import ComposeError


class Kind(StrEnum):
    """What a node is. Sockets, FIFOs and block devices have no place in an image."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character-device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a node came from.

    Attributes:
        kind: "package", "recipe" or "generated".
        name: the package's name, the recipe file, or the step that wrote it.
        version: the package's version; empty otherwise.
    """

    kind: str
    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One path of the tree.

    Attributes:
        kind: file, directory, symlink or character device.
        mode: permission bits including setuid, setgid and sticky (0 to 0o7777).
        uid: owner.
        gid: group.
        origin: where it came from.
        content: bytes of a file, often a view into an archive; empty for the other kinds.
        target: of a symlink; empty for the other kinds.
        device: (major, minor) of a character device.
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    origin: Origin
    content: bytes | memoryview = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)


class Tree:
    """Paths and their nodes, written once by each step and read in sorted order.

    Paths are absolute and normalised (``/usr/bin/mount``); the root itself is ``/``.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        # folder -> paths directly below it; a folder may be here without a node of its own
        self._below: dict[str, set[str]] = {}
        self._order: list[str] | None = None

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def get(self, path: str) -> Node | None:
        """Return the node at ``path`` itself (links are not followed), or None."""
        return self._nodes.get(path)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Yield every path with its node, parents before children, in byte order of the path."""
        if self._order is None:
            self._order = sorted(self._nodes)
        for path in self._order:
            yield path, self._nodes[path]

    def add(self, path: str, node: Node) -> None:
        """Add a node that nobody else claims.

        Raises:
            ComposeError: the path is taken by another origin; both are named. Two directories merge when
                their mode and owner agree, and identical files or links merge silently.
        """
        taken = self._nodes.get(path)
        if taken is None:
            self._insert(path, node)
            return
        if taken.kind is Kind.DIRECTORY and node.kind is Kind.DIRECTORY:
            if (taken.mode, taken.uid, taken.gid) == (node.mode, node.uid, node.gid):
                return
            raise ComposeError(
                f"{path}: {taken.origin} makes this directory {taken.mode:04o} {taken.uid}:{taken.gid}, "
                f"{node.origin} makes it {node.mode:04o} {node.uid}:{node.gid}"
            )
        if replace(taken, origin=node.origin) == node:
            return
        raise ComposeError(
            f"{path}: both {taken.origin} ({taken.kind}) and {node.origin} ({node.kind}) ship this path",
            hint="exclude one of them in the recipe",
        )

    def replace(self, path: str, node: Node) -> None:
        """Set a node, whatever was there: for recipe files, which win over packages on purpose.

        Raises:
            ComposeError: the path is a directory that holds something and the new node is none.
        """
        if node.kind is not Kind.DIRECTORY and self._below.get(path):
            raise ComposeError(
                f"{path}: {node.origin} ({node.kind}) would replace a directory that holds "
                f"{min(self._below[path])}"
            )
        if path in self._nodes:
            self._nodes[path] = node
        else:
            self._insert(path, node)

    def remove(self, path: str) -> None:
        """Take a node out, and everything below it."""
        for child in tuple(self._below.get(path, ())):
            self.remove(child)
        if self._nodes.pop(path, None) is not None:
            self._order = None
        self._below.pop(path, None)
        if path != "/":
            self._below.get(posixpath.dirname(path), set()).discard(path)

    def children(self, path: str) -> Iterator[str]:
        """Yield the paths directly below a directory, sorted."""
        for name in sorted(self._below.get(path, ())):
            if name in self._nodes:
                yield name

    def _insert(self, path: str, node: Node) -> None:
        self._nodes[path] = node
        self._order = None
        while path != "/":
            folder = path[: path.rindex("/")] or "/"
            siblings = self._below.get(folder)
            if siblings is not None:
                siblings.add(path)
                return
            self._below[folder] = {path}
            path = folder

    def resolve(self, path: str, *, limit: int = 40) -> str | None:
        """Return the path that ``path`` names when every link in it is followed inside the tree.

        Returns None when a component is missing. The last component may be missing no more than the others.

        Raises:
            ComposeError: more than ``limit`` links, as a loop would have.
        """
        pending = [part for part in path.split("/") if part]
        current = ""
        followed = 0
        while pending:
            part = pending.pop(0)
            if part == ".":
                continue
            if part == "..":
                current = posixpath.dirname(current).rstrip("/")
                continue
            candidate = f"{current}/{part}"
            node = self._nodes.get(candidate)
            if node is None:
                return None
            if node.kind is Kind.SYMLINK:
                followed += 1
                if followed > limit:
                    raise ComposeError(f"{path}: more than {limit} links to follow; is there a loop?")
                if node.target.startswith("/"):
                    current = ""
                pending = [piece for piece in node.target.split("/") if piece] + pending
                continue
            current = candidate
        return current or "/"
