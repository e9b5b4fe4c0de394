"""systemd unit files (systemd.unit(5), systemd.syntax(7)) as they lie in a tree, drop-ins applied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import ComposeError
from builder.rootfs.config import file_at, text_of
from builder.tree import Kind, Node, Tree

#: Where the system manager looks, first match wins. /run is empty at boot.
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
USER_UNIT_FOLDERS = ("/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user")
_SUFFIXES = frozenset(
    ["service", "socket", "target", "mount", "automount", "timer", "path", "slice", "swap", "device", "scope"]
)
_SPECIFIER = re.compile(r"%(.?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit with its drop-ins.

    Attributes:
        name: "systemd-networkd.service"; a template ends in "@.service".
        path: of the unit file itself, links followed.
        node: the unit file.
        settings: (section, key, value) in order; an empty value stands where a list is reset.
    """

    name: str
    path: str
    node: Node
    settings: tuple[tuple[str, str, str], ...]

    def values(self, section: str, key: str) -> tuple[str, ...]:
        """Return the values of a setting in order; an empty one clears what came before it."""
        found: list[str] = []
        for setting in self.settings:
            if setting[:2] == (section, key):
                if setting[2]:
                    found.append(setting[2])
                else:
                    found.clear()
        return tuple(found)

    def words(self, section: str, key: str) -> tuple[str, ...]:
        """Return the white-space separated words of a setting, over all its lines."""
        return tuple(word for value in self.values(section, key) for word in value.split())

    def value(self, section: str, key: str) -> str:
        """Return the last value of a setting, or an empty string."""
        return next(iter(reversed(self.values(section, key))), "")


def parse_unit(text: str, where: str) -> list[tuple[str, str, str]]:
    """Return the settings of a unit file: (section, key, value).

    Raises:
        ComposeError: a line is neither section, comment nor assignment.
    """
    settings: list[tuple[str, str, str]] = []
    section = ""
    pending = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line[:1] in ("#", ";") or (not line and not pending):
            continue  # a comment inside a continued line is skipped as well (systemd.syntax(7))
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        line, pending = (pending + line).strip(), ""
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, equals, value = line.partition("=")
        if not equals or not section:
            raise ComposeError(f"{where}:{number}: expected [Section] or Key=value, got {line[:80]!r}")
        settings.append((section, key.strip(), value.strip()))
    return settings


def unit_names(tree: Tree, folders: tuple[str, ...] = UNIT_FOLDERS) -> list[str]:
    """Return the names of all units that have a file or a link of their own, masked ones included."""
    names = {path.rpartition("/")[2] for folder in folders for path in tree.children(folder)}
    return sorted(name for name in names if name.rpartition(".")[2] in _SUFFIXES)


def find_unit(tree: Tree, name: str, folders: tuple[str, ...] = UNIT_FOLDERS) -> str | None:
    """Return the path at which the manager finds a unit or, for an instance, its template; None: nowhere."""
    for candidate in (name, template_of(name)):
        for folder in folders if candidate else ():
            path = f"{folder}/{candidate}"
            if path in tree:
                return path
    return None


def is_masked(tree: Tree, name: str, folders: tuple[str, ...] = UNIT_FOLDERS) -> bool:
    """Say whether a unit is masked: a link to /dev/null, or an empty file."""
    path = find_unit(tree, name, folders)
    if path is None:
        return False
    node = tree[path]
    return node.target == "/dev/null" or (node.kind is Kind.FILE and not node.content)


def load_unit(tree: Tree, name: str, folders: tuple[str, ...] = UNIT_FOLDERS) -> Unit | None:
    """Return a unit with its drop-ins, or None if the tree has none of this name or it is masked.

    Raises:
        ComposeError: the file or a drop-in does not parse.
    """
    path = find_unit(tree, name, folders)
    if path is None or is_masked(tree, name, folders):
        return None
    node = file_at(tree, path)
    if node is None:
        return None  # a dangling link, which the check of links reports
    settings = parse_unit(text_of(path, node), path)
    for drop_in in _drop_ins(tree, name, folders):
        extra = file_at(tree, drop_in)
        if extra is not None:
            settings += parse_unit(text_of(drop_in, extra), drop_in)
    return Unit(name=name, path=tree.resolve(path) or path, node=node, settings=tuple(settings))


def template_of(name: str) -> str:
    """Return "foo@.service" for "foo@bar.service"; an empty string for a unit without an at sign."""
    prefix, at, rest = name.partition("@")
    return f"{prefix}@.{rest.rpartition('.')[2]}" if at else ""


def instance_of(name: str) -> str:
    """Return "bar" for "foo@bar.service"; an empty string for templates and plain units."""
    return name.partition("@")[2].rpartition(".")[0]


def expand(value: str, name: str, where: str) -> str:
    """Expand the specifiers that a unit's own name decides (systemd.unit(5), "Specifiers").

    Raises:
        ComposeError: another specifier stands there, which only a running machine can know.
    """
    stem = name.rpartition(".")[0]
    known = {"%": "%", "n": name, "N": stem, "p": stem.partition("@")[0], "i": instance_of(name)}

    def replacement(match: re.Match[str]) -> str:
        letter = match.group(1)
        if letter not in known:
            raise ComposeError(f"{where}: %{letter} in {value!r} has no fixed value in an image")
        return known[letter]

    return _SPECIFIER.sub(replacement, value)


def _drop_ins(tree: Tree, name: str, folders: tuple[str, ...]) -> Iterator[str]:
    """Yield drop-ins in the order in which they apply: by file name, whatever folder holds it."""
    stems = [name, template_of(name), name.rpartition(".")[2]]
    found: dict[str, str] = {}
    for stem in filter(None, stems):
        for folder in folders:
            for path in tree.children(f"{folder}/{stem}.d"):
                if path.endswith(".conf"):
                    found.setdefault(path.rpartition("/")[2], path)
    for file_name in sorted(found):
        if tree[found[file_name]].target != "/dev/null":
            yield found[file_name]
