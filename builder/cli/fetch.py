"""``goldsmith fetch``: bring every locked input into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console


def command(
    recipe: Annotated[str, typer.Argument(help="name of an image below recipes/, or a path")],
    mirror: Annotated[
        str | None, typer.Option(help="address of the archive; otherwise GOLDSMITH_MIRROR, then apt's own")
    ] = None,
    vault: Annotated[Path | None, typer.Option(help="vault folder; otherwise GOLDSMITH_VAULT")] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="snapshot service; otherwise GOLDSMITH_SNAPSHOT")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Bring every locked archive into the store: store, vault, mirror, snapshot service, in this order."""
    from builder.fetch import fetch
    from builder.inputs import InputOptions, open_sources
    from builder.lock import load_lock
    from builder.recipe import find_recipe, load_recipe
    from builder.store import Store

    loaded = load_recipe(find_recipe(recipe))
    lock = load_lock(loaded)
    store = Store.default()
    options = InputOptions(mirror=mirror, vault=vault, snapshot=snapshot)
    with open_sources(options, lock) as sources:
        count = fetch(lock.archives, store, sources, recipe=loaded.name, reporter=console.reporter())
    if json:
        console.emit_json(
            {
                "recipe": loaded.name,
                "archives": len(lock.archives),
                "fetched": count,
                "store": str(store.root),
            }
        )
    else:
        console.out(f"{loaded.name}: {len(lock.archives)} archives in {store.root}, {count} of them new")
