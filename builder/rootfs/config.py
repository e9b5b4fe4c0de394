"""Find and split systemd's configuration files inside a tree, with the precedence that systemd applies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from builder.errors import ComposeError
from builder.tree import Kind, Node, Tree

MAX_CONFIG = 4 << 20
_BASES = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
_QUOTING = re.compile(r"""["'\\]""")


def config_files(tree: Tree, folder: str, suffix: str) -> Iterator[tuple[str, Node]]:
    """Yield the files of ``folder`` ("sysusers.d") that count, by file name.

    A file of /etc hides one of the same name in /usr/lib, and a link to /dev/null or an empty file hides it
    for good (sysusers.d(5), tmpfiles.d(5), udev(7)).
    """
    found: dict[str, str] = {}
    for base in _BASES:
        for path in tree.children(f"{base}/{folder}"):
            name = path.rpartition("/")[2]
            if name.endswith(suffix):
                found.setdefault(name, path)
    for name in sorted(found):
        node = file_at(tree, found[name])
        if node is not None and node.content:
            yield found[name], node


def file_at(tree: Tree, path: str) -> Node | None:
    """Return the regular file that ``path`` leads to, links followed, or None."""
    real = tree.resolve(path)
    node = tree.get(real) if real is not None else None
    return node if node is not None and node.kind is Kind.FILE else None


def text_of(path: str, node: Node) -> str:
    """Return a configuration file's text.

    Raises:
        ComposeError: it is not UTF-8, or larger than any configuration file.
    """
    if len(node.content) > MAX_CONFIG:
        raise ComposeError(f"{path} ({node.origin}): {len(node.content)} bytes; at most {MAX_CONFIG}")
    try:
        return bytes(node.content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ComposeError(f"{path} ({node.origin}): not UTF-8: {error.reason}") from error


def split_words(line: str, where: str) -> list[str]:
    """Split a line at white space; quotes join words and a backslash escapes.

    Raises:
        ComposeError: a quote is not closed.
    """
    if _QUOTING.search(line) is None:
        return line.split()
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ComposeError(f"{where}: {error}: {line.strip()[:120]!r}") from error
