"""systemd's configuration as it lies in an audited tree: units with their drop-ins, conf.d folders, sysctl.d."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from builder.audit.readers.tree import FileTree
from builder.errors import ComposeError
from builder.rootfs.unitfile import parse_unit
from measurements.errors import FormatError

#: systemd.unit(5), "Unit File Load Path"; the first that has a file wins. /run is empty at boot.
FOLDERS = (
    "/etc/systemd/system.control", "/etc/systemd/system", "/etc/systemd/system.attached",
    "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
)  # fmt: skip
_SUFFIXES = (
    "service",
    "socket",
    "target",
    "mount",
    "automount",
    "timer",
    "path",
    "slice",
    "swap",
    "device",
    "scope",
)
_EXEC = re.compile(r"Exec(Condition|StartPre|Start|StartPost|Reload|Stop|StopPre|StopPost)\Z")
_PREFIXES = "@-:+!|"

Settings = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit with its drop-ins, or a masked one.

    Attributes:
        name: "systemd-networkd.service"; a template ends in "@.service".
        path: at which the manager finds it.
        masked: a link to /dev/null, or an empty file.
        settings: (section, key, value) in order; empty where a list is reset.
        alias_of: the unit that this is another name of (a link to its file); empty for a unit of its own.
    """

    name: str
    path: str
    masked: bool
    settings: Settings
    alias_of: str = ""

    @property
    def kind(self) -> str:
        """What follows the last dot of the name."""
        return self.name.rpartition(".")[2]

    def values(self, section: str, key: str) -> tuple[str, ...]:
        """Return the values of a setting; an empty one clears what came before it."""
        return values(self.settings, section, key)

    def value(self, section: str, key: str) -> str:
        """Return the last value of a setting, or an empty string."""
        return next(reversed(self.values(section, key)), "")

    def words(self, section: str, key: str) -> tuple[str, ...]:
        """Return the words of a setting, over all its lines."""
        return tuple(word for value in self.values(section, key) for word in value.split())

    def programs(self) -> Iterator[tuple[str, str]]:
        """Yield (setting, command line without its special prefixes) of every Exec line."""
        for section, key, value in self.settings:
            if section == "Service" and _EXEC.match(key) and value:
                yield key, value.lstrip(_PREFIXES)


def values(settings: Settings, section: str, key: str) -> tuple[str, ...]:
    """Return the values of a setting in order; an empty one clears what came before it."""
    found: list[str] = []
    for setting in settings:
        if setting[:2] == (section, key):
            if setting[2]:
                found.append(setting[2])
            else:
                found.clear()
    return tuple(found)


@lru_cache(maxsize=4)  # a tree never changes, and most rules ask
def load_units(tree: FileTree) -> Mapping[str, Unit]:
    """Return every unit of a tree by name, masked ones included.

    Raises:
        FormatError: a unit file or drop-in does not parse.
    """
    names = {
        path.rpartition("/")[2]
        for folder in FOLDERS
        for path in tree.children(folder)
        if path.rpartition(".")[2] in _SUFFIXES
    }
    return {name: _load(tree, name) for name in sorted(names)}


def pulled_in(tree: FileTree) -> Mapping[str, frozenset[tuple[str, str]]]:
    """Return unit -> (unit that pulls it in, "wants", "requires" or "upholds") of all links."""
    found: dict[str, set[tuple[str, str]]] = {}
    for folder in FOLDERS:
        for place in tree.children(folder):
            owner, _, kind = place.rpartition("/")[2].rpartition(".")
            if kind in ("wants", "requires", "upholds"):
                for path in tree.children(place):
                    found.setdefault(path.rpartition("/")[2], set()).add((owner, kind))
    return {name: frozenset(links) for name, links in found.items()}


def settings_of(tree: FileTree, name: str) -> Settings:
    """Return the settings of /etc/systemd/NAME with every NAME.d of the load path (systemd-system.conf(5)).

    Raises:
        FormatError: a file does not parse.
    """
    bases = ("/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
    main = next((f"{base}/{name}" for base in bases if f"{base}/{name}" in tree), None)
    found = _parse(tree, main) if main else ()
    drop_ins: dict[str, str] = {}
    for base in bases:
        for path in tree.children(f"{base}/{name}.d"):
            if path.endswith(".conf"):
                drop_ins.setdefault(path.rpartition("/")[2], path)
    for file_name in sorted(drop_ins):
        found += _parse(tree, drop_ins[file_name])
    return found


def config_files(tree: FileTree, folder: str, suffix: str = ".conf") -> tuple[str, ...]:
    """Return the files of sysctl.d and its kind in the order in which they apply; a higher folder hides its names."""
    found: dict[str, str] = {}
    for base in ("/etc", "/usr/local/lib", "/usr/lib"):
        for path in tree.children(f"{base}/{folder}"):
            if path.endswith(suffix):
                found.setdefault(path.rpartition("/")[2], path)
    return tuple(found[name] for name in sorted(found))


def sysctl_settings(tree: FileTree) -> Mapping[str, tuple[str, str]]:
    """Return setting -> (value, file); the last one counts (sysctl.d(5)). A leading "-" stays in the name."""
    found: dict[str, tuple[str, str]] = {}
    for path in config_files(tree, "sysctl.d"):
        for line in (tree.text(path) or "").splitlines():
            key, equals, value = line.partition("=")
            if line.strip() and line.strip()[0] not in "#;":
                name = key.strip().replace("/", ".") if equals else line.strip()
                found[name] = (" ".join(value.split()) if equals else "\0no value", path)
    return found


def _load(tree: FileTree, name: str) -> Unit:
    path = next(f"{folder}/{name}" for folder in FOLDERS if f"{folder}/{name}" in tree)
    found = tree.get(path)
    masked = found is not None and (found.target == "/dev/null" or (found.is_file and not found.content))
    if masked:
        return Unit(name=name, path=path, masked=True, settings=())
    settings = _parse(tree, path)
    for drop_in in _drop_ins(tree, name):
        settings += _parse(tree, drop_in)
    real = (tree.resolve(path) or path).rpartition("/")[2]
    return Unit(name=name, path=path, masked=False, settings=settings, alias_of=real if real != name else "")


def _drop_ins(tree: FileTree, name: str) -> list[str]:
    """Return drop-ins by file name, whatever folder holds them (systemd.unit(5))."""
    stem, _, kind = name.rpartition(".")
    stems = [name]
    if "@" in stem:
        stems.append(f"{stem.partition('@')[0]}@.{kind}")
    parts = stem.split("-")
    stems += [f"{'-'.join(parts[:count])}-.{kind}" for count in range(len(parts) - 1, 0, -1)]
    stems.append(kind)
    found: dict[str, str] = {}
    for owner in stems:
        for folder in FOLDERS:
            for path in tree.children(f"{folder}/{owner}.d"):
                if path.endswith(".conf"):
                    found.setdefault(path.rpartition("/")[2], path)
    return [found[file_name] for file_name in sorted(found)]


def _parse(tree: FileTree, path: str) -> Settings:
    text = tree.text(path)
    if text is None:
        file = tree.get(path)
        if file is not None and file.target == "/dev/null":
            return ()
        raise FormatError(f"{path} leads to no file")
    try:
        return tuple(parse_unit(text, path))
    except ComposeError as error:
        raise FormatError(str(error)) from error
