"""Recipes: what an image is made of, in strict YAML."""

from builder.recipe.load import find_recipe, load_recipe
from builder.recipe.merged import Recipe, RecipeFile

__all__ = ["Recipe", "RecipeFile", "find_recipe", "load_recipe"]
