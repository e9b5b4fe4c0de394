"""Modules of our own package `measurements` for an image: those that a recipe names, and all that they import.

The image then judges evidence with the very code that verifiers run. What is imported is read from the source, every
statement of it wherever it stands, so the answer does not depend on what happens to run here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import measurements
from builder.errors import RecipeError
from builder.recipe.merged import RecipeFile

_PACKAGE = measurements.__name__


def module_files(folder: str, modules: Sequence[str]) -> tuple[RecipeFile, ...]:
    """Return the files of these modules and of all of `measurements` that they import, by path.

    Args:
        folder: of the image, to be on its programs' search path.
        modules: dotted names.

    Raises:
        RecipeError: there is no such module.
    """
    found: dict[str, Path] = {}
    pending = [*modules]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found[name] = _source(name)
        parent = name.rpartition(".")[0]
        pending += [parent] if parent else []
        pending += _imported(found[name])
    return tuple(
        RecipeFile(
            path=f"{folder.rstrip('/')}/{path.relative_to(_root().parent).as_posix()}",
            content=path.read_bytes(),
            mode=0o644,
            owner="root",
            group="root",
            replaces=None,
            origin=path.relative_to(_root().parent).as_posix(),
        )
        for path in sorted(found.values())
    )


def _root() -> Path:
    return Path(measurements.__path__[0])


def _source(name: str) -> Path:
    place = _root().parent.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    raise RecipeError(f"there is no module {name}")


def _imported(path: Path) -> Iterator[str]:
    """Yield the modules of `measurements` that a file's import statements name."""
    for node in ast.walk(ast.parse(path.read_bytes(), path.name)):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if _ours(item.name))
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise RecipeError(f"{path.name}:{node.lineno}: a relative import; expected absolute ones alone")
        elif isinstance(node, ast.ImportFrom) and node.module is not None and _ours(node.module):
            yield node.module
            for item in node.names:  # a module, or a name that the module defines
                try:
                    _source(f"{node.module}.{item.name}")
                except RecipeError:
                    continue
                yield f"{node.module}.{item.name}"


def _ours(name: str) -> bool:
    return name == _PACKAGE or name.startswith(f"{_PACKAGE}.")
