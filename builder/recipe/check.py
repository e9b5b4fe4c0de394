"""Checking documents against the model, in words that help: what was expected, and what is there."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from builder.recipe.yaml import Location

_M = TypeVar("_M", bound=BaseModel)
_SHOWN = 60


def validate(model: type[_M], value: Any, at: Callable[[Location], str], problems: list[str]) -> _M | None:
    """Return ``value`` as a model, or None after adding every problem; each starts with ``at(location)``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            location = tuple(part for part in detail["loc"] if part != "[key]")
            problems.append(f"{at(location)}: {_explain(model, location, dict(detail))}")
        return None


def _explain(model: type[BaseModel], location: Location, detail: dict[str, Any]) -> str:
    kind = detail["type"]
    context = detail.get("ctx", {})
    given = _show(detail.get("input"))
    if kind == "extra_forbidden":
        known = sorted(_keys(model, location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key; {advice}"
    if kind == "missing":
        return "expected this key, and it is absent"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {given}"
    if kind == "string_pattern_mismatch":
        return f"expected text like {context['pattern']}, got {given}"
    expected = {
        "string_type": "text",
        "int_type": "a whole number",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "string_too_short": f"at least {context.get('min_length')} characters",
        "string_too_long": f"at most {context.get('max_length')} characters",
        "too_short": f"at least {context.get('min_length')} elements",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
    }.get(kind)
    if expected is None:
        return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {given}"
    quoting = isinstance(detail.get("input"), bool | int | float) and kind == "string_type"
    return f"expected {expected}, got {given}{' (quote it)' if quoting else ''}"


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _keys(model: type[BaseModel], location: Location) -> set[str]:
    """Return the keys the model knows at a location, by walking its JSON Schema."""
    schema = _schema(model)
    found = [schema]
    for part in location:
        found = [step for node in found for step in _descend(schema, node, part)]
    return {
        key for node in found for option in _options(schema, node) for key in option.get("properties", {})
    }


def _descend(schema: dict[str, Any], node: dict[str, Any], part: str | int) -> Iterator[dict[str, Any]]:
    for option in _options(schema, node):
        step = option.get("properties", {}).get(part) if isinstance(part, str) else option.get("items")
        if isinstance(step, dict):
            yield step


def _options(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    yield node
    for option in (*node.get("anyOf", ()), *node.get("allOf", ())):
        yield from _options(schema, option)
