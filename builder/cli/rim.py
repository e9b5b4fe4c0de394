"""goldsmith rim: reference values of GPUs beside a recipe."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console
from builder.cli.arguments import timestamp
from builder.cli.files import read_limited
from builder.errors import UsageError
from builder.recipe import find_recipe, load_recipe
from builder.rims import MAX_ANSWER_BYTES, import_rim, to_json

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Import reference values of GPUs into a recipe.",
)


@app.callback()
def _group() -> None:
    """Keep ``add`` a word of its own."""


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="manifest (SWID XML), or the RIM service's answer with one")
    ],
    recipe: Annotated[str, typer.Option(metavar="NAME", help="the recipe, by name or path")] = "gpu-cc",
    identifier: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="NVIDIA's id, where the file's name is another")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="judge its signature as of this time (RFC 3339); otherwise now"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Check a manifest's signature, certificates and form, and keep it beside the recipe."""
    into = load_recipe(find_recipe(recipe))
    data = read_limited(file, MAX_ANSWER_BYTES)
    imported = import_rim(into, data, name=file.stem, at=_time(at), identifier=identifier)
    for missing in imported.missing:
        console.warn(f"{into.name} still holds no reference values of {missing}")
    if json:
        console.emit_json(to_json(imported, into))
        return
    rim = imported.reference
    console.out(
        f"{rim.id}: {rim.kind} {rim.version} of {rim.chip}, {imported.measurements} active measurements"
    )
    console.out(f"signed under NVIDIA's root for reference values at {rim.judged_at.isoformat()}")
    console.out(f"kept as {imported.path}; goldsmith build {into.name} --accept takes it into the image")


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        return timestamp(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--at: {error}") from None
