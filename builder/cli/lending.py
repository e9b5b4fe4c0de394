"""Lends what a recipe's lock pins to verbs that take files of the user's own."""

from __future__ import annotations

from pathlib import Path

from builder.artifacts import Lock
from builder.emulators import PREFIX, emulators
from builder.errors import BuilderError, UsageError
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock
from builder.progress import Reporter
from builder.recipe import find_recipe, load_recipe
from builder.recipe.merged import Recipe
from builder.store import Store
from builder.toolbox import firmware as unpack_firmware
from builder.toolbox import unpack_toolbox
from builder.tools import Tools


class Lender:
    """Lends the toolbox and the firmware of a recipe, fetched on the first use."""

    def __init__(self, recipe: str, reporter: Reporter) -> None:
        self._name, self._reporter = recipe, reporter
        self._loaded: tuple[Recipe, Lock] | None = None

    def firmware(self, name: str) -> Path:
        """Return the code file of a firmware build; BuilderError when it cannot be had."""
        recipe, lock = self._load()
        sources = [source for source in recipe.firmware if source.name == name]
        if not sources:
            known = ", ".join(source.name for source in recipe.firmware) or "none"
            raise UsageError(
                f"--firmware {name} is neither a file nor a firmware of the recipe {recipe.name}",
                hint=f"its firmware: {known}",
            )
        self._fetch(f"firmware/{name}")
        (build,) = unpack_firmware(sources, lock, Store.default())
        return build.code

    def tools(self) -> Tools:
        """Return the toolbox; BuilderError when it cannot be had."""
        _, lock = self._load()
        self._fetch("toolbox")
        return unpack_toolbox(lock, Store.default())

    def emulator(self, release: tuple[int, int]) -> Tools:
        """Return what runs QEMU of a release; BuilderError when it cannot be had."""
        _, lock = self._load()
        found = emulators(lock, self.tools(), Store.default())
        if release not in found:
            known = ", ".join("{}.{}".format(*each) for each in sorted(found)) or "none"
            raise BuilderError(
                "the recipe {} locks no QEMU {}.{}, and another release makes other tables (it has {})".format(
                    lock.recipe, *release, known
                ),
                hint="--acpi DIR",
            )
        for name in lock.sets:
            if name.startswith(PREFIX):
                self._fetch(name)
        return found[release].tools()

    def _load(self) -> tuple[Recipe, Lock]:
        if self._loaded is None:
            recipe = load_recipe(find_recipe(self._name))
            self._loaded = recipe, load_lock(recipe)
        return self._loaded

    def _fetch(self, members: str) -> None:
        recipe, lock = self._load()
        store = Store.default()
        with open_sources(InputOptions(), lock) as sources:
            fetch(lock.members(members), store, sources, recipe=recipe.name, reporter=self._reporter)
