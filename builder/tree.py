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
        for path in sorted(self._nodes):
            yield path, self._nodes[path]

    def add(self, path: str, node: Node) -> None:
        """Add a node that nobody else claims.

        Raises:
            ComposeError: the path is taken by another origin; both are named. Two directories merge when
                their mode and owner agree, and identical files or links merge silently.
        """
        taken = self._nodes.get(path)
        if taken is None:
            self._nodes[path] = node
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
        """Set a node, whatever was there: for recipe files, which win over packages on purpose."""
        self._nodes[path] = node

    def remove(self, path: str) -> None:
        """Take a node out, and everything below it."""
        self._nodes.pop(path, None)
        prefix = f"{path.rstrip('/')}/"
        for name in [name for name in self._nodes if name.startswith(prefix)]:
            del self._nodes[name]

    def children(self, path: str) -> Iterator[str]:
        """Yield the paths directly below a directory, sorted."""
        prefix = f"{path.rstrip('/')}/"
        for name in sorted(self._nodes):
            if name.startswith(prefix) and "/" not in name[len(prefix) :] and name != prefix:
                yield name

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
                current = posixpath.dirname(current)
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
