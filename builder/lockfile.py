"""``lock.json``: its strict form (``goldsmith-lock/1``), and what changed between two of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from builder.apt import valid_pool_path
from builder.artifacts import Archive, Lock, PythonPin, SuiteIndex
from builder.atomic import write_atomic
from builder.errors import LockError
from builder.store import is_sha256

FORMAT = "goldsmith-lock/1"
MAX_BYTES = 16 << 20
MAX_ARCHIVES = 20_000
MAX_ARCHIVE_SIZE = 2 << 30
MAX_TIME = 1 << 40
MAX_TEXT = 300

_NAME = re.compile(r"^[a-z0-9][a-z0-9+.-]*$")
_VERSION = re.compile(r"^[0-9A-Za-z][A-Za-z0-9.+~:-]*$")
_SET = re.compile(r"^(root|initrd|kernel|toolbox|compiler|(firmware|modules|emulator)/[a-z][a-z0-9.-]*)$")
_KEYS = (
    "format", "recipe", "resolution", "source_date_epoch", "indexes", "archives", "sets", "python",
)  # fmt: skip
_RELOCK = "goldsmith lock {recipe}"


def dump_lock(lock: Lock) -> bytes:
    """Return the bytes of ``lock.json``: sorted, indented, the same for equal locks; no host in it."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "recipe": lock.recipe,
        "resolution": lock.resolution,
        "source_date_epoch": lock.source_date_epoch,
        "indexes": [
            {"pocket": index.pocket, "date": index.date, "sha256": index.sha256} for index in lock.indexes
        ],
        "archives": [
            {
                "name": archive.name,
                "version": archive.version,
                "architecture": archive.architecture,
                "path": archive.path,
                "pocket": archive.pocket,
                "size": archive.size,
                "sha256": archive.sha256,
            }
            for archive in lock.archives
        ],
        "sets": {name: list(members) for name, members in lock.sets.items()},
        "python": {
            name: {"version": pin.version, "sha256": list(pin.sha256)} for name, pin in lock.python.items()
        },
    }
    if lock.scratch:
        document["scratch"] = True
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock atomically."""
    write_atomic(path, dump_lock(lock))


def read_lock(path: Path, *, recipe: str) -> Lock:
    """Read ``lock.json`` strictly.

    Args:
        path: the file.
        recipe: the image's name, for the hint.

    Raises:
        LockError: absent, corrupt, or not in this form; the message names the field.
    """
    hint = _RELOCK.format(recipe=recipe)
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise LockError(f"{path}: the recipe has no lock yet", hint=hint) from None
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_lock(raw)
    except LockError as error:
        raise LockError(f"{path}: {error}", hint=hint) from error


def parse_lock(raw: bytes) -> Lock:
    """Return the lock in ``raw``.

    Raises:
        LockError: corrupt or not in this form.
    """
    if len(raw) > MAX_BYTES:
        _refuse("", f"at most {MAX_BYTES} bytes", "more")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=lambda text: _refuse("", "plain JSON", text),
        )
    except RecursionError:
        raise LockError("corrupt: nested too deeply") from None
    except ValueError as error:
        raise LockError(f"corrupt: not JSON: {error}") from error
    if not isinstance(document, dict):
        _refuse("", "an object", document)
    if document.get("format") != FORMAT:
        _refuse("format", repr(FORMAT), document.get("format"))
    _keys(document, "", required=_KEYS, optional=("scratch",))
    archives = tuple(_archive(item, f"archives[{at}]") for at, item in enumerate(_list(document, "archives")))
    sets = _sets(document["sets"], archives)
    scratch = document.get("scratch", False)
    if not isinstance(scratch, bool):
        _refuse("scratch", "true or false", scratch)
    return Lock(
        recipe=_text(document, "recipe", "", _NAME),
        resolution=_hex(document, "resolution", ""),
        source_date_epoch=_integer(document, "source_date_epoch", "", MAX_TIME),
        indexes=tuple(_index(item, f"indexes[{at}]") for at, item in enumerate(_list(document, "indexes"))),
        archives=archives,
        sets=sets,
        python=_python(document["python"]),
        digest=hashlib.sha256(raw).hexdigest(),
        scratch=scratch,
    )


def changes(before: Lock | None, after: Lock) -> list[str]:
    """Return what is different, one line each: per set what was added, removed, upgraded or downgraded."""
    lines: list[str] = []
    old_sets: Mapping[str, tuple[str, ...]] = before.sets if before else {}
    for name in sorted({*old_sets, *after.sets}):
        old, new = _versions(old_sets.get(name, ())), _versions(after.sets.get(name, ()))
        for package in sorted({*old, *new}):
            if package not in old:
                lines.append(f"{name}: added {package} {new[package]}")
            elif package not in new:
                lines.append(f"{name}: removed {package} {old[package]}")
            elif old[package] != new[package]:
                lines.append(f"{name}: {package} {old[package]} -> {new[package]}")
    if before is None:
        return lines
    old_hashes = {(item.name, item.version): item.sha256 for item in before.archives}
    lines += [
        f"{item.name} {item.version}: same version, other content: "
        f"{old_hashes[item.name, item.version][:12]}… -> {item.sha256[:12]}…"
        for item in after.archives
        if old_hashes.get((item.name, item.version), item.sha256) != item.sha256
    ]
    for name in sorted({*before.python, *after.python}):
        was, now = before.python.get(name), after.python.get(name)
        if was != now:
            lines.append(
                f"python: {name} {was.version if was else 'none'} -> {now.version if now else 'none'}"
            )
    if before.source_date_epoch != after.source_date_epoch:
        lines.append(f"source_date_epoch: {before.source_date_epoch} -> {after.source_date_epoch}")
    return lines


def _versions(members: tuple[str, ...]) -> dict[str, str]:
    return dict(member.split("=", 1) for member in members)


def _refuse(where: str, expected: str, got: Any) -> NoReturn:
    shown = repr(got)
    raise LockError(
        f"{where or 'lock'}: expected {expected}, got {shown[:80]}{'…' if len(shown) > 80 else ''}"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise LockError(f"corrupt: the key {twice[:80]!r} is there twice")
    return result


def _keys(value: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(value, dict):
        _refuse(where, "an object", value)
    for key in required:
        if key not in value:
            raise LockError(f"{where or 'lock'}: the key {key!r} is absent")
    for key in value:
        if key not in required and key not in optional:
            raise LockError(f"{where or 'lock'}: unknown key {key[:80]!r}")


def _list(value: dict[str, Any], key: str) -> list[Any]:
    found = value[key]
    if not isinstance(found, list) or len(found) > MAX_ARCHIVES:
        _refuse(key, f"a list of at most {MAX_ARCHIVES}", found)
    return found


def _text(value: dict[str, Any], key: str, where: str, pattern: re.Pattern[str]) -> str:
    found = value[key]
    if not isinstance(found, str) or len(found) > MAX_TEXT or not pattern.fullmatch(found):
        _refuse(f"{where}.{key}".lstrip("."), f"text like {pattern.pattern}", found)
    return found


def _hex(value: dict[str, Any], key: str, where: str) -> str:
    found = value[key]
    if not isinstance(found, str) or not is_sha256(found):
        _refuse(f"{where}.{key}".lstrip("."), "64 lower-case hex digits", found)
    return found


def _integer(value: dict[str, Any], key: str, where: str, limit: int) -> int:
    found = value[key]
    if type(found) is not int or not 0 <= found <= limit:
        _refuse(f"{where}.{key}".lstrip("."), f"a whole number from 0 to {limit}", found)
    return found


def _archive(value: Any, where: str) -> Archive:
    _keys(value, where, required=("name", "version", "architecture", "path", "pocket", "size", "sha256"))
    path = value["path"]
    if not isinstance(path, str) or len(path) > MAX_TEXT or not valid_pool_path(path):
        _refuse(f"{where}.path", "a path below pool/ that ends in .deb", path)
    if value["architecture"] not in ("amd64", "all"):
        _refuse(f"{where}.architecture", "amd64 or all", value["architecture"])
    return Archive(
        name=_text(value, "name", where, _NAME),
        version=_text(value, "version", where, _VERSION),
        architecture=value["architecture"],
        path=path,
        pocket=_text(value, "pocket", where, _NAME),
        size=_integer(value, "size", where, MAX_ARCHIVE_SIZE),
        sha256=_hex(value, "sha256", where),
    )


def _index(value: Any, where: str) -> SuiteIndex:
    _keys(value, where, required=("pocket", "date", "sha256"))
    return SuiteIndex(
        pocket=_text(value, "pocket", where, _NAME),
        date=_integer(value, "date", where, MAX_TIME),
        sha256=_hex(value, "sha256", where),
    )


def _sets(value: Any, archives: tuple[Archive, ...]) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        _refuse("sets", "an object", value)
    known = [f"{archive.name}={archive.version}" for archive in archives]
    if len(set(known)) != len(known):
        raise LockError("archives: one package and version is there twice")
    unused = set(known)
    sets = {}
    for name, members in value.items():
        if not _SET.fullmatch(name):
            _refuse("sets", "root, initrd, kernel, toolbox, compiler, firmware/NAME or modules/NAME", name)
        for member in _list({name: members}, name):
            if not isinstance(member, str) or member not in set(known):
                _refuse(f"sets.{name}", "package=version of an archive in this lock", member)
        if len({member.split("=", 1)[0] for member in members}) != len(members):
            raise LockError(f"sets.{name}: one package is there twice")
        unused -= set(members)
        sets[name] = tuple(members)
    if unused:
        raise LockError(f"archives: {min(unused)} belongs to no set")
    return dict(sorted(sets.items()))


def _python(value: Any) -> dict[str, PythonPin]:
    if not isinstance(value, dict):
        _refuse("python", "an object", value)
    return {name: _pin(item, f"python.{name[:80]}") for name, item in sorted(value.items())}


def _pin(value: Any, where: str) -> PythonPin:
    _keys(value, where, required=("version", "sha256"))
    hashes = tuple(_hashes(_list(value, "sha256"), where))
    return PythonPin(version=_text(value, "version", where, _VERSION), sha256=hashes)


def _hashes(values: list[Any], where: str) -> Iterator[str]:
    for item in values:
        yield _hex({"sha256": item}, "sha256", where)
