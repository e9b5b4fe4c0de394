"""Python distributions whose code writes output bytes: pinned in the lock, checked before a build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from builder.artifacts import Lock, PythonPin
from builder.errors import LockError

#: pefile writes the UKI's sections (through ukify), zstandard the compressed initrd.
PINNED = ("pefile", "zstandard")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def find_requirements(start: Path) -> Path:
    """Return the requirements.txt of the checkout that ``start`` lies in.

    Raises:
        LockError: no folder above has one.
    """
    for folder in start.absolute().parents:
        if (folder / "requirements.txt").is_file():
            return folder / "requirements.txt"
    raise LockError(f"no requirements.txt above {start}; a lock takes the Python pins from it")


def read_pins(requirements: str, names: Iterable[str] = PINNED) -> dict[str, PythonPin]:
    """Return the pins of ``names`` out of the text of a hash-pinned requirements.txt.

    Raises:
        LockError: one of them is absent or has no hash.
    """
    joined = requirements.replace("\\\n", " ")
    found = {}
    for line in joined.splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
        if match and (name := match[1].lower().replace("_", "-")) in names:
            found[name] = PythonPin(version=match[2], sha256=tuple(sorted(set(_HASH.findall(line)))))
    for name in names:
        if name not in found or not found[name].sha256:
            raise LockError(
                f"requirements.txt: {name} is not pinned with a hash; its code writes output bytes"
            )
    return dict(sorted(found.items()))


def check_python(lock: Lock, installed: Mapping[str, str] | None = None) -> None:
    """Check that the running Python has exactly the locked versions.

    Args:
        lock: the lock.
        installed: distribution -> version; what is installed if absent.

    Raises:
        LockError: another version is installed, or none.
    """
    for name, pin in lock.python.items():
        if installed is not None:
            version = installed.get(name)
        else:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                version = None
        if version != pin.version:
            raise LockError(
                f"Python package {name}: the lock says {pin.version}, installed is {version or 'none'}",
                hint="pip install --require-hashes -r requirements.txt",
            )
