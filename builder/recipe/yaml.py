"""YAML with line numbers and without surprises: no aliases, no duplicate keys, no tags, and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from builder.errors import RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 24
MAX_NODES = 50_000

Location = tuple[str | int, ...]

_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool", "null", "float")}
_SEQUENCE = "tag:yaml.org,2002:seq"
_MAPPING = "tag:yaml.org,2002:map"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file.

    Attributes:
        path: the file.
        label: how messages call it ("recipes/base/recipe.yaml").
        value: dicts, tuples (YAML lists) and scalars.
        lines: where each key and element stands, counted from 1.
    """

    path: Path
    label: str
    value: dict[str, Any]
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """Return the line of a location, or of the nearest one around it."""
        while location not in self.lines and location:
            location = location[:-1]
        return self.lines.get(location, 1)

    def at(self, location: Location) -> str:
        """Return ``file:line: key``, as every message about a recipe starts."""
        place = f"{self.label}:{self.line(location)}"
        return f"{place}: {spell(location)}" if location else place


def spell(location: Location) -> str:
    """Return a location as people write it: ``root.packages[3]``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Composer(yaml.SafeLoader):
    """Refuses aliases and depth before a tree of them is built."""

    def __init__(self, text: str, label: str) -> None:
        super().__init__(text)
        self.label = label
        self.depth = 0
        self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecipeError(f"{self.label}:{line}: anchors and aliases are not allowed; use a fragment")
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise RecipeError(f"{self.label}:{line}: nested deeper than {MAX_DEPTH} levels")
        if self.nodes > MAX_NODES:
            raise RecipeError(f"{self.label}:{line}: more than {MAX_NODES} values")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(path: Path, label: str) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        RecipeError: it cannot be read, is no UTF-8 or YAML, or uses what is not allowed; with file and line.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{label}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{label}: larger than {MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{label}:{line}: not UTF-8") from error
    try:
        loader = _Composer(text, label)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"{label}:{mark.line + 1 if mark else 1}: {error.problem}") from error
    except yaml.YAMLError as error:
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        raise RecipeError(f"{label}:{line}: {getattr(error, 'reason', error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{label}:1: expected a mapping of keys at the top level")
    lines: dict[Location, int] = {(): 1}
    value = _convert(loader, node, (), lines, label)
    assert isinstance(value, dict)
    return Document(path=path, label=label, value=value, lines=lines)


def _convert(
    loader: _Composer, node: yaml.Node, location: Location, lines: dict[Location, int], label: str
) -> Any:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _scalar(loader, key_node, location, label)
            if not isinstance(key, str):
                raise RecipeError(f"{label}:{line}: {spell(location)}: expected text as key, got {key!r}")
            if key in mapping:
                first = lines[(*location, key)]
                raise RecipeError(
                    f"{label}:{line}: {spell((*location, key))}: the key is already there, in line {first}"
                )
            lines[(*location, key)] = line
            mapping[key] = _convert(loader, value_node, (*location, key), lines, label)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
        return tuple(
            _convert(loader, item, (*location, index), lines, label) for index, item in enumerate(node.value)
        )
    return _scalar(loader, node, location, label)


def _scalar(loader: _Composer, node: yaml.Node, location: Location, label: str) -> Any:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
        kind = node.tag.rsplit(":", 1)[-1]
        raise RecipeError(
            f"{label}:{line}: {spell(location)}: a value of YAML type {kind!r} is not allowed here",
            hint="quote it, when text is meant",
        )
    try:
        value = loader.construct_object(node)
        if isinstance(value, str):
            value.encode()  # an escape can spell half a character
        return value
    except (ValueError, OverflowError) as error:
        raise RecipeError(f"{label}:{line}: {spell(location)}: {error}") from error
