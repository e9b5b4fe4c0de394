"""The files beside a recipe: found below one folder, read with limits, rendered where they are templates."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builder.errors import RecipeError
from builder.recipe.merged import RecipeFile
from builder.recipe.model import File
from builder.recipe.yaml import Document

MAX_FILE = 64 << 20
MAX_TEMPLATE = 1 << 20


class _Environment(ImmutableSandboxedEnvironment):
    """Without the operators that make much out of little."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply numbers only; raise nothing to a power."""
        if operator == "**" or not (isinstance(left, int) and isinstance(right, int)):
            raise SecurityError(f"{operator} is not allowed here")
        return super().call_binop(context, operator, left, right)


def files_folder(document: Path) -> Path:
    """Return the folder that ``source`` is looked up in.

    ``recipes/<image>/recipe.yaml`` -> ``recipes/<image>/files``; any fragment ``<stem>.yaml`` -> ``<stem>``
    beside it.
    """
    return document.parent / ("files" if document.name == "recipe.yaml" else document.stem)


def resolve_file(
    file: File, document: Document, at: str, variables: Mapping[str, str | int | bool]
) -> RecipeFile:
    """Read and render one file of the recipe.

    Args:
        file: as the model has it.
        document: the YAML file that names it.
        at: ``file:line: key`` for messages.
        variables: what a template sees.

    Raises:
        RecipeError: no content or two, a path outside the folder, an unreadable file, a bad template.
    """
    if (file.source is None) == (file.content is None):
        raise RecipeError(f"{at}: expected either source or content")
    if file.content is not None:
        raw, origin, first_line = file.content.encode(), document.label, document.label
    else:
        assert file.source is not None
        raw = _read(files_folder(document.path), file.source, at)
        folder = files_folder(PurePosixPath(document.label))  # type: ignore[arg-type]
        origin = first_line = f"{folder}/{file.source}"
    if file.template:
        raw = _render(raw, first_line, at if file.source is None else "", variables)
    return RecipeFile(
        path=file.path,
        content=raw,
        mode=int(file.mode, 8),
        owner=file.owner,
        group=file.group,
        replaces=file.replaces,
        origin=origin,
    )


def _read(folder: Path, source: str, at: str) -> bytes:
    parts = PurePosixPath(source).parts
    if not parts or source.startswith("/") or ".." in parts or "\0" in source:
        raise RecipeError(f"{at}: source {source!r} must be a relative path without ..")
    path = folder.joinpath(*parts)
    try:
        # A link in a checkout could lead anywhere on the machine that builds.
        walked = folder
        for part in parts:
            walked /= part
            if walked.is_symlink():
                raise RecipeError(f"{at}: source {source!r} goes through a symbolic link ({walked.name})")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as handle:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RecipeError(f"{at}: source {source!r} is not a regular file")
            raw = handle.read(MAX_FILE + 1)
    except OSError as error:
        raise RecipeError(
            f"{at}: source {source!r} cannot be read: {error.strerror}",
            hint=f"it is looked up in {folder}",
        ) from error
    if len(raw) > MAX_FILE:
        raise RecipeError(f"{at}: source {source!r} is larger than {MAX_FILE} bytes")
    return raw


def _render(raw: bytes, label: str, inline_at: str, variables: Mapping[str, str | int | bool]) -> bytes:
    """Render a template; ``inline_at`` is the place of an inline one, whose own lines nobody counts."""
    if len(raw) > MAX_TEMPLATE:
        raise RecipeError(f"{inline_at or label}: a template of more than {MAX_TEMPLATE} bytes")
    environment = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals.clear()
    line = 1
    try:
        text = raw.decode("utf-8")
        code = environment.compile(text, label, label)
        template = environment.template_class.from_code(environment, code, {})
        return template.render(dict(variables)).encode()
    except UnicodeDecodeError as error:
        raise RecipeError(f"{inline_at or label}: the template is not UTF-8") from error
    except TemplateSyntaxError as error:
        raise RecipeError(f"{inline_at or f'{label}:{error.lineno}'}: {error.message}") from error
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == label:
                line = trace.tb_lineno
            trace = trace.tb_next
        known = ", ".join(sorted(variables)) or "none"
        raise RecipeError(
            f"{inline_at or f'{label}:{line}'}: template: {error}", hint=f"variables of this recipe: {known}"
        ) from error
