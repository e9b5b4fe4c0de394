"""``goldsmith schema``: the JSON Schema of recipes, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console


def command(
    output: Annotated[
        Path | None, typer.Argument(help="file to write; recipes/recipe.schema.json if absent")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the schema and write nothing")] = False,
) -> None:
    """Write the JSON Schema of recipes and fragments (recipes/recipe.schema.json)."""
    from builder.atomic import write_atomic
    from builder.errors import UsageError
    from builder.recipe.schema import recipe_schema, recipe_schema_text

    if json:
        console.emit_json(recipe_schema())
        return
    if output is None:
        if not Path("recipes").is_dir():
            raise UsageError("there is no folder recipes here", hint="goldsmith schema FILE")
        output = Path("recipes/recipe.schema.json")
    write_atomic(output, recipe_schema_text().encode())
    console.out(str(output))
