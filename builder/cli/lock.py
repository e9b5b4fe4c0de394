"""``goldsmith lock``: resolve a recipe and pin every input by hash."""

from __future__ import annotations

from typing import Annotated

import typer

from builder.cli import console


def command(
    recipe: Annotated[str, typer.Argument(help="name of an image below recipes/, or a path")],
    check: Annotated[
        bool, typer.Option("--check", help="only say whether recipe and lock agree; no network")
    ] = False,
    mirror: Annotated[
        str | None, typer.Option(help="address of the archive; otherwise GOLDSMITH_MIRROR, then apt's own")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Resolve a recipe's packages with apt and write lock.json; say what changed."""
    from builder.errors import LockError
    from builder.inputs import InputOptions
    from builder.lock import load_lock, resolve
    from builder.lockfile import changes, read_lock, write_lock
    from builder.recipe import find_recipe, load_recipe

    loaded = load_recipe(find_recipe(recipe))
    if check:
        lock = load_lock(loaded)
        if json:
            console.emit_json({"recipe": loaded.name, "lock": lock.digest, "fresh": True})
        else:
            console.out(f"{loaded.name}: recipe and lock agree ({len(lock.archives)} archives)")
        return
    reporter = console.reporter()
    try:
        previous = read_lock(loaded.lock_path, recipe=loaded.name)
    except LockError as error:
        if loaded.lock_path.exists():
            reporter.note(f"{error}; resolving anew")
        previous = None
    lock = resolve(loaded, InputOptions(mirror=mirror).mirrors(), previous=previous, reporter=reporter)
    write_lock(lock, loaded.lock_path)
    lines = changes(previous, lock)
    size = sum(archive.size for archive in lock.archives)
    if json:
        console.emit_json(
            {
                "recipe": loaded.name,
                "lock": lock.digest,
                "path": str(loaded.lock_path),
                "archives": len(lock.archives),
                "bytes": size,
                "changes": lines,
            }
        )
        return
    for line in lines:
        console.out(line)
    sets = ", ".join(f"{name} {len(members)}" for name, members in lock.sets.items())
    console.out(f"{loaded.lock_path}: {len(lock.archives)} archives, {size / 2**20:.0f} MiB ({sets})")
