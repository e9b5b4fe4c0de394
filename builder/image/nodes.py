"""The nodes of a tree in the order in which archives hold them, checked to be an archive's worth."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from builder.errors import ImageError
from builder.tree import Kind, Node, Origin, Tree

_ROOT = Node(
    kind=Kind.DIRECTORY, mode=0o755, origin=Origin(kind="generated", name="image root")
)  # unless the tree says otherwise


def archive_order(tree: Tree) -> Iterator[tuple[bytes, Node]]:
    """Yield (path without the leading slash, node) in byte order, the root first, with the path ``b"."``.

    Raises:
        ImageError: a path is not absolute and normalised, holds a NUL, or its parent is not a directory of
            the tree. An archive without a parent would leave its mode and owner to whoever unpacks it.
    """
    yield b".", tree.get("/") or _ROOT
    for path, node in tree.items():
        if path == "/":
            continue
        if not path.startswith("/") or posixpath.normpath(path) != path or "\0" in path + node.target:
            raise ImageError(f"path {path!r} from {node.origin}: expected an absolute, normalised path")
        parent = tree.get(posixpath.dirname(path))
        if posixpath.dirname(path) != "/" and (parent is None or parent.kind is not Kind.DIRECTORY):
            found = "nothing" if parent is None else f"a {parent.kind} from {parent.origin}"
            raise ImageError(
                f"{path} from {node.origin}: expected its parent to be a directory of the tree, got {found}"
            )
        yield path[1:].encode("utf-8", "surrogateescape"), node
