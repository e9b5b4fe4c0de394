"""Merging recipe files: lists are joined, mappings united, and a contradiction names both sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from builder.recipe.yaml import Document, Location

#: Lists whose elements have an identity: two different elements with one identity contradict each other.
_IDENTITY = {"files": "path", "directories": "path", "users": "name", "groups": "name", "firmware": "name",
             "module_sources": "name", "emulators": "name"}  # fmt: skip


@dataclass(slots=True)
class Merged:
    """The values of several documents, and where each of them was said.

    Attributes:
        value: as one document would hold it.
        origins: location in ``value`` -> (document, location in it).
        problems: contradictions, one message each.
    """

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[Location, tuple[Document, Location]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, document: Document) -> None:
        """Merge one more document in; ``include`` is not part of the result."""
        value = {key: item for key, item in document.value.items() if key != "include"}
        self._mapping(self.value, value, (), document, ())

    def document(self, location: Location) -> tuple[Document, Location]:
        """Return who said the value at a location of the merged recipe, and where."""
        rest: list[str | int] = []
        while location not in self.origins and location:
            rest.insert(0, location[-1])
            location = location[:-1]
        document, original = self.origins[location]
        return document, (*original, *rest)

    def at(self, location: Location) -> str:
        """Return ``file:line: key`` of a location of the merged recipe."""
        document, original = self.document(location)
        return document.at(original)

    def _mapping(
        self,
        into: dict[str, Any],
        value: dict[str, Any],
        location: Location,
        document: Document,
        source: Location,
    ) -> None:
        for key, item in value.items():
            here, there = (*location, key), (*source, key)
            if key not in into:
                self.origins[here] = (document, there)
                if isinstance(item, dict):
                    into[key] = {}
                    self._mapping(into[key], item, here, document, there)
                elif isinstance(item, tuple):
                    into[key] = ()
                    self._sequence(into, key, item, here, document, there)
                else:
                    into[key] = item
            elif isinstance(item, dict) and isinstance(into[key], dict):
                self._mapping(into[key], item, here, document, there)
            elif isinstance(item, tuple) and isinstance(into[key], tuple):
                self._sequence(into, key, item, here, document, there)
            elif (type(into[key]), into[key]) != (type(item), item):
                self.problems.append(
                    f"{document.at(there)}: {item!r} contradicts {into[key]!r} in {self.at(here)}"
                )

    def _sequence(
        self,
        into: dict[str, Any],
        key: str,
        items: tuple[Any, ...],
        location: Location,
        document: Document,
        source: Location,
    ) -> None:
        joined: list[Any] = list(into[key])
        identity = _IDENTITY.get(key)
        for index, item in enumerate(items):
            if item in joined:
                continue
            if identity is not None and isinstance(item, dict):
                name = item.get(identity)
                taken = next(
                    (at for at, other in enumerate(joined) if other.get(identity) == name is not None), None
                )
                if taken is not None:
                    self.problems.append(
                        f"{document.at((*source, index))}: {name} is also in "
                        f"{self.at((*location, taken))}, with other values"
                    )
                    continue
            self.origins[(*location, len(joined))] = (document, (*source, index))
            joined.append(item)
        into[key] = tuple(joined)
