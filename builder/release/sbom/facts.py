"""What a package archive says about itself: its control file, and its copyright file where machines can read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from builder.artifacts import Archive
from builder.release.sbom.licences import Licence, read_copyright
from builder.tar import Entry
from builder.tree import Kind

#: The fields of a control file (deb-control(5)).
Control: TypeAlias = Mapping[str, str]

# Debian policy, 7.1: a name, perhaps with an architecture, a version in brackets, and more that only sources say.
_NAME = re.compile(r"\s*([a-z0-9][a-z0-9+.-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFacts:
    """What an archive says about itself.

    Attributes:
        control: the fields of its control file.
        licence: what its copyright file lists; None without one that machines can read.
    """

    control: Control
    licence: Licence | None


def package_facts(archive: Archive, control: Control, entries: Iterable[Entry]) -> PackageFacts:
    """Return the facts of an opened archive.

    A copyright file that is a link into another package is not followed.
    """
    path = f"/usr/share/doc/{archive.name}/copyright"
    found = (entry for entry in entries if entry.path == path and entry.kind is Kind.FILE)
    entry = next(found, None)
    return PackageFacts(control=control, licence=read_copyright(bytes(entry.content)) if entry else None)


def dependencies(controls: Mapping[str, Control]) -> dict[str, tuple[str, ...]]:
    """Return package -> the packages among ``controls`` that it depends on, sorted.

    Versions are not compared: apt did when the lock was made. Of alternatives, all that are there count. A
    dependency on what is not there is left out: the recipe dropped it.

    Args:
        controls: package name -> its control file.
    """
    provided: dict[str, set[str]] = {name: {name} for name in controls}
    for name, control in controls.items():
        for virtual in _names(control.get("Provides", "")):
            provided.setdefault(virtual, set()).add(name)
    found = {}
    for name, control in controls.items():
        wanted = [*_names(control.get("Pre-Depends", "")), *_names(control.get("Depends", ""))]
        found[name] = tuple(
            sorted({other for item in wanted for other in provided.get(item, ()) if other != name})
        )
    return found


def _names(field: str) -> list[str]:
    matches = (_NAME.match(item) for item in re.split(r"[,|]", field))
    return [match[1] for match in matches if match]
