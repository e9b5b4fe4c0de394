"""sysusers.d(5): which users and groups packages expect, held against those that the recipe pins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import ComposeError
from builder.rootfs.accounts import Needs
from builder.rootfs.config import config_files, file_at, split_words, text_of
from builder.rootfs.findings import Findings
from builder.tree import Tree

MAX_LINES = 10_000
_FIELDS = {"u": (2, 6), "u!": (2, 6), "g": (2, 3), "m": (3, 3), "r": (3, 3)}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}\Z")
_NUMBER = re.compile(r"[0-9]{1,10}\Z")
_RANGE = re.compile(r"[0-9]{1,10}(-[0-9]{1,10})?\Z")
_SPECIFIER = re.compile(r"%(.?)")
#: Specifiers that an image fixes; those of a machine (%b %H %l %m %q %v) have no value here.
_OS_RELEASE = {"A": "IMAGE_VERSION", "B": "BUILD_ID", "M": "IMAGE_ID", "o": "ID", "w": "VERSION_ID",
               "W": "VARIANT_ID"}  # fmt: skip
_FIXED = {"%": "%", "a": "x86-64", "T": "/tmp", "V": "/var/tmp"}  # noqa: S108  sysusers.d(5), "Specifiers"


@dataclass(frozen=True, slots=True, kw_only=True)
class SysusersLine:
    """One line of sysusers.d.

    Attributes:
        type: "u" (user and its group), "u!" (the same, locked), "g", "m" (membership) or "r" (id range).
        name: user or group; "-" for "r".
        uid: number of a user that the line fixes; None where any will do.
        gid: number that the line fixes for the group ("g") or the primary group ("u"); None: any.
        group: primary group by name ("uid:groupname"), or the group of "m"; empty: none is named.
    """

    type: str
    name: str
    uid: int | None = None
    gid: int | None = None
    group: str = ""


def parse_sysusers(text: str, where: str, specifiers: Mapping[str, str]) -> Iterator[SysusersLine]:
    """Yield the lines of a sysusers.d file (sysusers.d(5)).

    Args:
        text: the file.
        where: what to call it in errors.
        specifiers: letter -> value, without those that sysusers.d(5) fixes.

    Raises:
        ComposeError: a line does not follow the grammar; the message names it by number.
    """
    for number, line in enumerate(text.splitlines(), 1):
        here = f"{where}:{number}"
        if number > MAX_LINES:
            raise ComposeError(f"{here}: more than {MAX_LINES} lines")
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        words = split_words(line, here)
        low, high = _FIELDS.get(words[0], (0, 0))
        if not high:
            raise ComposeError(f"{here}: line type {words[0]!r}; expected one of {', '.join(_FIELDS)}")
        while len(words) > low and words[-1] in ("-", ""):
            words.pop()
        if not low <= len(words) <= high:
            raise ComposeError(f"{here}: {len(words)} fields for type {words[0]}; expected {low} to {high}")
        name = _expand(words[1], specifiers, here)
        third = _expand(words[2], specifiers, here) if len(words) > 2 else "-"
        yield _line(words[0], name, third, here)


def specifiers_of(tree: Tree) -> dict[str, str]:
    """Return the specifiers that the image's os-release(5) gives a value."""
    node = file_at(tree, "/etc/os-release") or file_at(tree, "/usr/lib/os-release")
    if node is None:
        return {}
    fields: dict[str, str] = {}
    for line in text_of("os-release", node).splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            fields[key.strip()] = "".join(split_words(value, "os-release"))
    return {letter: fields.get(key, "") for letter, key in _OS_RELEASE.items()}


def check_sysusers(tree: Tree, needs: Needs, findings: Findings) -> None:
    """Find every user, group and membership that a package expects and the recipe does not pin."""
    specifiers = specifiers_of(tree)
    for path, node in config_files(tree, "sysusers.d", ".conf"):
        where = f"{path} ({node.origin})"
        try:
            lines = list(parse_sysusers(text_of(path, node), path, specifiers))
        except ComposeError as error:
            findings.caught(error)
            continue
        for line in lines:
            if line.type == "m":
                _check_member(line, needs, findings, where)
            elif line.type != "r":
                _check_ids(line, needs, findings, where)


def _line(kind: str, name: str, third: str, here: str) -> SysusersLine:
    if kind == "r":
        if name != "-" or not _RANGE.match(third):
            raise ComposeError(f"{here}: expected `r - FIRST-LAST`, got name {name!r} and range {third!r}")
        return SysusersLine(type=kind, name=name)
    for part in (name, third) if kind == "m" else (name,):
        if not _NAME.match(part):
            raise ComposeError(f"{here}: {part!r} is no name of a user or group")
    if kind == "m":
        return SysusersLine(type=kind, name=name, group=third)
    if third == "-" or third.startswith("/"):  # any id, or that of a file's owner
        return SysusersLine(type=kind, name=name)
    first, colon, second = third.partition(":")
    if kind == "g":
        if not _NUMBER.match(third):
            raise ComposeError(f"{here}: {third!r} is no gid, path or `-`")
        return SysusersLine(type=kind, name=name, gid=int(third))
    if not (_NUMBER.match(first) or (colon and first == "-")):
        raise ComposeError(f"{here}: {third!r} is no uid, uid:gid, uid:group, path or `-`")
    uid = int(first) if first != "-" else None
    if not colon:
        return SysusersLine(type=kind, name=name, uid=uid)
    if _NUMBER.match(second):
        return SysusersLine(type=kind, name=name, uid=uid, gid=int(second))
    if not _NAME.match(second):
        raise ComposeError(f"{here}: {second!r} is no gid and no name of a group")
    return SysusersLine(type=kind, name=name, uid=uid, group=second)


def _check_ids(line: SysusersLine, needs: Needs, findings: Findings, where: str) -> None:
    if line.type == "g":
        if not needs.expect("group", line.name, where, line.gid):
            return
        gid = needs.accounts.groups[line.name]
        if line.gid not in (None, gid):
            findings.error(f"{where} fixes group {line.name} as {line.gid}; the recipe pins {gid}")
        return
    if not needs.expect("user", line.name, where, line.uid):
        return
    user = needs.accounts.users[line.name]
    if line.uid not in (None, user.uid):
        findings.error(f"{where} fixes user {line.name} as {line.uid}; the recipe pins {user.uid}")
    group = line.group or (line.name if line.gid is None else "")
    if line.gid is None and not needs.expect("group", group, where):
        return
    expected = line.gid if line.gid is not None else needs.accounts.groups[group]
    if expected != user.gid:
        findings.error(
            f"{where} gives user {line.name} the primary group {group or line.gid}; the recipe gives it gid "
            f"{user.gid}"
        )


def _check_member(line: SysusersLine, needs: Needs, findings: Findings, where: str) -> None:
    user = needs.expect("user", line.name, where)
    group = needs.expect("group", line.group, where)
    if user and group and line.name not in needs.accounts.members.get(line.group, ()):
        findings.error(
            f"{where} makes {line.name} a member of {line.group}; the recipe does not",
            hint=f"add {line.name} to `members` of the group {line.group}",
        )


def _expand(word: str, specifiers: Mapping[str, str], here: str) -> str:
    def value(match: re.Match[str]) -> str:
        letter = match.group(1)
        if letter in _FIXED:
            return _FIXED[letter]
        if letter in specifiers:
            return specifiers[letter]
        raise ComposeError(f"{here}: %{letter} in {word!r} has no fixed value in an image")

    return _SPECIFIER.sub(value, word)
