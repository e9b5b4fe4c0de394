"""Recipes: what an image is made of, in strict YAML."""
