"""Fill a vault: a folder ``sha256/<hex>`` with every locked archive, and an ``index`` people can read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from builder.artifacts import Archive
from builder.atomic import locked, write_atomic
from builder.errors import FetchError
from builder.progress import SILENT, Reporter
from builder.store import Store, sha256_file

_INDEX = "index"
_MAX_INDEX = 64 << 20
_LINE = re.compile(r"^([0-9a-f]{64})  (\S.*)$")
_CHUNK = 1 << 20


def fill_vault(
    folder: Path, archives: Iterable[Archive], store: Store, *, reporter: Reporter = SILENT
) -> int:
    """Copy archives from the store into a vault and list them; return how many were new.

    The index has a line ``<sha256>  <pool path>`` an archive, sorted by path. What a vault holds already
    stays, unless its content is damaged.

    Raises:
        FetchError: an archive is not in the store; fetch first.
    """
    unique = sorted({item.sha256: item for item in archives}.values(), key=lambda item: item.path)
    added = 0
    with (
        reporter.phase("fill vault", total=sum(item.size for item in unique), unit="B") as phase,
        locked(folder / ".lock"),
    ):
        index = _read_index(folder / _INDEX)
        for archive in unique:
            place = folder / "sha256" / archive.sha256
            phase.detail(archive.name)
            intact = place.is_file() and place.stat().st_size == archive.size
            if not (intact and sha256_file(place) == archive.sha256):
                held = store.get(archive.sha256, archive.size)
                if held is None:
                    raise FetchError(f"{archive.name} {archive.version} is not in the store")
                write_atomic(place, held.read_bytes())
                added += 1
            index[archive.sha256] = archive.path
            phase.advance(archive.size)
        lines = sorted(f"{path}\0{digest}" for digest, path in index.items())
        text = "".join(f"{digest}  {path}\n" for path, digest in (line.split("\0") for line in lines))
        write_atomic(folder / _INDEX, text.encode())
    return added


def _read_index(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as handle:
            text = handle.read(_MAX_INDEX).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    return {match[1]: match[2] for line in text.splitlines() if (match := _LINE.match(line))}
