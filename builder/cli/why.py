"""goldsmith why; runs on the base dependencies, and needs a release folder and no store."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from builder.cli import console
from builder.cli.arguments import DEFAULT_RELEASE, Parser
from builder.cli.files import parse_file
from builder.errors import UsageError
from builder.globs import is_pattern, translate
from builder.release.sbom.read import CYCLONEDX, MAX_DOCUMENT, Contents, Place, Source, read_contents
from measurements import golden
from measurements.errors import FormatError
from measurements.golden.model import MAX_DOCUMENT_BYTES

GOLDEN = "golden.json"
_NEAREST = 5
_CONSIDERED = 20_000  # names that are compared with an unknown one


def main(arguments: list[str]) -> int:
    """Say where paths of an image come from; returns 0, or 2 when one of them is not in the image."""
    parser = Parser(
        "why",
        "Say which package, recipe file or build step a path of an image comes from, in the root file system "
        "and in the initrd, and why that package is there. The release's own SBOM answers.",
    )
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", help="path in the image; * ? match within a component, ** across")
    add(
        "--release",
        metavar="DIR",
        type=Path,
        default=DEFAULT_RELEASE,
        help=f"release folder ({DEFAULT_RELEASE})",
    )
    add("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    contents = _read(given.release)
    asked = {path: [*_find(contents, path)] for path in given.paths}
    unknown = {path: _nearest(contents, path) for path, places in asked.items() if not places}
    if given.json:
        found = [place for places in asked.values() for place in places]
        chains = _chains(contents, found)
        console.emit_json(
            {
                "image": {"name": contents.name, "version": contents.version},
                "paths": [_to_json(contents, place, chains[place.tree, place.origin]) for place in found],
                "unknown": [{"path": path, "nearest": near} for path, near in unknown.items()],
            }
        )
        return 2 if unknown else 0
    for path, places in asked.items():
        if is_pattern(path) and places:
            _print_table(contents, places)
        else:
            _print_places(contents, path, places)
    if unknown:
        path, near = next(iter(unknown.items()))
        raise UsageError(
            f"{', '.join(unknown)}: not in {contents.name} {contents.version}",
            hint=", ".join(near) if near else f"goldsmith why '/**' --release {given.release}",
        )
    return 0


def _read(release: Path) -> Contents:
    """Read the SBOM of a release folder; where its golden document is, the SBOM must be the one it lists."""
    path = release / GOLDEN
    listed: dict[str, str] = {}
    if path.exists():
        document = parse_file(path, MAX_DOCUMENT_BYTES, golden.parse)
        listed = {output.name: output.sha256 for output in document.outputs}

    def read(raw: bytes) -> Contents:
        found = hashlib.sha256(raw).hexdigest()
        if listed.get(CYCLONEDX, found) != found:
            raise FormatError(
                f"its SHA-256 is {found}; {GOLDEN} beside it lists {listed[CYCLONEDX]}: somebody changed one of them"
            )
        return read_contents(raw)

    return parse_file(release / CYCLONEDX, MAX_DOCUMENT, read, hint="goldsmith build writes a new one")


def _find(contents: Contents, path: str) -> Iterator[Place]:
    """Yield what a path or pattern names, and behind a link what it leads to, tree by tree."""
    path = "/" + path.lstrip("/")
    if len(path) > 1:
        path = path.rstrip("/")
    if is_pattern(path):
        regex = re.compile(translate(path), re.DOTALL)
        for places in contents.trees.values():
            yield from (place for name, place in places.items() if regex.fullmatch(name))
        return
    for tree, places in contents.trees.items():
        if path in places:
            yield places[path]
        final = contents.resolve(tree, path)
        if final is not None and final != path and final in places:
            yield places[final]


def _nearest(contents: Contents, path: str) -> list[str]:
    """Return paths that may have been meant: the same file name elsewhere, then similar ones."""
    name = path.rstrip("/").rpartition("/")[2]
    every = dict.fromkeys(other for places in contents.trees.values() for other in places)
    same = [other for other in every if name and other.rpartition("/")[2] == name]
    similar = difflib.get_close_matches(path, [*islice(every, _CONSIDERED)], n=_NEAREST)
    return [*dict.fromkeys([*same, *similar])][:_NEAREST]


def _print_table(contents: Contents, places: Sequence[Place]) -> None:
    rows = [[place.tree, place.path, _title(contents.sources[place.origin])] for place in places]
    console.table("", ["tree", "path", "from"], rows)


def _print_places(contents: Contents, path: str, places: Sequence[Place]) -> None:
    chains = _chains(contents, places)
    for place in places:
        via = "" if place.path == "/" + path.strip("/") else f" (where {path} leads)"
        console.out(f"{place.tree}: {place.path}{via}")
        details = {
            "file": f"{place.size} bytes, sha256 {place.sha256}",
            "symlink": f"link to {place.target}",
        }
        source = contents.sources[place.origin]
        console.out(f"  {details.get(place.kind, place.kind)}")
        shared = ", the first of those that ship this directory" if _shared(place, source) else ""
        console.out(f"  from {_title(source)}{shared}")
        if source.archive:
            console.out(f"       {source.archive}")
            console.out(f"       sha256 {source.sha256}")
        if place.signature is not None:
            made = place.signature
            console.out(f"  {made.unsigned}, sha256 {made.unsigned_sha256}, with the signature")
            console.out(f"       {made.file}, sha256 {made.sha256}, of {made.signer}")
        if source.purl:
            console.out(f"  because {_reason(chains[place.tree, place.origin])}")


def _shared(place: Place, source: Source) -> bool:
    return place.kind == "directory" and bool(source.purl)


def _title(source: Source) -> str:
    """Name a source for people."""
    if source.purl:
        built = f" (source {source.source})" if source.source else ""
        return f"package {source.name} {source.version}{built}"
    return {"recipe": f"recipe file {source.name}", "step": f"build step: {source.name}"}.get(
        _kind(source), source.name
    )


def _kind(source: Source) -> str:
    """Return "package", "recipe", "step" or "declaration": what the recipe says without a file of its own."""
    if source.purl:
        return "package"
    prefix, colon, _ = source.ref.partition(":")
    return prefix if colon and prefix in ("recipe", "step") else "declaration"


def _reason(chain: Sequence[str]) -> str:
    if not chain:
        return "the lock has it; nothing in the document leads there"
    return ", which needs ".join([f"the recipe lists {chain[0]}", *chain[1:]])


def _chains(contents: Contents, places: Iterable[Place]) -> dict[tuple[str, str], list[str]]:
    """Return (tree, origin) -> the packages' names on the way there, once for all paths of a package."""
    return {
        (tree, origin): [
            contents.sources[ref].name for ref in contents.chain(tree, origin) if ref in contents.sources
        ]
        for tree, origin in dict.fromkeys((place.tree, place.origin) for place in places)
    }


def _to_json(contents: Contents, place: Place, chain: Sequence[str]) -> dict[str, Any]:
    source = contents.sources[place.origin]
    origin: dict[str, Any] = {"kind": _kind(source), "name": source.name}
    if source.purl:
        origin |= {
            "version": source.version,
            "purl": source.purl,
            "archive": source.archive,
            "sha256": source.sha256,
            "source": source.source,
            "chain": chain,
        }
    value: dict[str, Any] = {"tree": place.tree, "path": place.path, "kind": place.kind}
    if place.kind == "file":
        value |= {"size": place.size, "sha256": place.sha256}
    if place.kind == "symlink":
        value["target"] = place.target
    if place.signature is not None:
        value["signature"] = asdict(place.signature)
    return {**value, "origin": origin}
