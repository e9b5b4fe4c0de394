"""The JSON Schema of recipes and fragments, generated from the model, for editors."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from builder.recipe.model import Fragment, RecipeDocument

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12): a recipe or a fragment."""
    schema: dict[str, Any] = TypeAdapter(RecipeDocument | Fragment).json_schema()
    return {"$schema": _DIALECT, "title": "Goldsmith recipe or fragment", **schema}


def recipe_schema_text() -> str:
    """Return the text of ``recipes/recipe.schema.json``."""
    return json.dumps(recipe_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
