"""``goldsmith vault``: fill a folder with every locked input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console


def command(
    directory: Annotated[Path, typer.Argument(help="the vault; made when it is not there")],
    recipes: Annotated[list[str], typer.Argument(help="images below recipes/, or paths")],
    mirror: Annotated[
        str | None, typer.Option(help="address of the archive; otherwise GOLDSMITH_MIRROR, then apt's own")
    ] = None,
    vault: Annotated[
        Path | None, typer.Option(help="another vault to take from; otherwise GOLDSMITH_VAULT")
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="snapshot service; otherwise GOLDSMITH_SNAPSHOT")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Fetch every locked archive of some recipes and keep it in a folder sha256/<hex>, with an index."""
    from builder.fetch import fetch
    from builder.inputs import InputOptions, open_sources
    from builder.lock import load_lock
    from builder.recipe import find_recipe, load_recipe
    from builder.store import Store
    from builder.vault import fill_vault

    store = Store.default()
    reporter = console.reporter()
    options = InputOptions(mirror=mirror, vault=vault, snapshot=snapshot)
    added = total = 0
    for name in recipes:
        loaded = load_recipe(find_recipe(name))
        lock = load_lock(loaded)
        with open_sources(options, lock) as sources:
            fetch(lock.archives, store, sources, recipe=loaded.name, reporter=reporter)
        added += fill_vault(directory, lock.archives, store, reporter=reporter)
        total += len(lock.archives)
    if json:
        console.emit_json({"vault": str(directory), "archives": total, "added": added})
    else:
        console.out(f"{directory}: {total} archives, {added} of them new")
