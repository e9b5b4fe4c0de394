"""From a recipe to a release: compose, predict, sign, boot."""
