"""Merge package archives into one tree: usr-merge, exclusions, conflicts; every node keeps its package."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from builder.artifacts import Archive
from builder.errors import ComposeError
from builder.recipe.model import Exclude
from builder.rootfs.accounts import Accounts
from builder.rootfs.findings import Findings
from builder.rootfs.globs import Globs
from builder.tar import Entry
from builder.tree import Kind, Node, Origin, Tree

#: file-hierarchy(7): these live in /usr; the names at the root are links to there.
USR_MERGED = ("/bin", "/lib", "/lib64", "/sbin")
_PREFIXES = tuple(f"{name}/" for name in USR_MERGED)
_GENERATED = Origin(kind="generated", name="file hierarchy")


def package_origin(archive: Archive) -> Origin:
    """Return the origin of everything that comes out of an archive."""
    return Origin(kind="package", name=archive.name, version=archive.version)


def merged_path(path: str) -> str:
    """Return where a packaged path lies after the usr-merge."""
    return f"/usr{path}" if path.startswith(_PREFIXES) else path


def node_of(entry: Entry, origin: Origin) -> Node:
    """Return the node of an archive's entry; the content stays a view into the archive."""
    return Node(
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        origin=origin,
        content=entry.content,
        target=entry.target,
        device=entry.device,
    )


def merge(
    tree: Tree,
    packages: Sequence[tuple[Archive, Iterable[Entry]]],
    *,
    excludes: Sequence[Exclude],
    decided: Collection[str],
    accounts: Accounts,
) -> None:
    """Merge what the packages ship into ``tree``.

    An excluded directory takes what is below it with it; a directory that exclusion emptied goes as well.

    Args:
        tree: receives the nodes.
        packages: archives with their entries.
        excludes: what the recipe leaves out.
        decided: paths that the recipe itself decides; packages may disagree about them.
        accounts: the ids that files may belong to.

    Raises:
        ComposeError: two archives ship different things at one path, a file belongs to an id that no
            account has, or an exclude pattern matches nothing. All such problems are in one report.
    """
    findings = Findings()
    out = _Exclusion(excludes)
    left_out: dict[str, Node] = {}
    thinned: set[str] = set()
    for archive, entries in packages:
        origin = package_origin(archive)
        for entry in entries:
            path = merged_path(entry.path)
            if path in USR_MERGED:
                if entry.kind is Kind.DIRECTORY:
                    continue  # an archive from before the merge: its files moved, the link stays
                if entry.kind is Kind.SYMLINK and entry.target.strip("/") != f"usr{path}":
                    findings.error(f"{path}: {origin} links it to {entry.target}; expected usr{path}")
                    continue
            if out.matches(path):
                if entry.kind is Kind.DIRECTORY:
                    left_out.setdefault(path, node_of(entry, origin))
                thinned.add(_parent(path))
                continue
            node = node_of(entry, origin)
            if (entry.uid or entry.gid) and not accounts.has(entry.uid, entry.gid):
                findings.error(
                    f"{path}: {origin} gives it to {entry.uid}:{entry.gid}, and the recipe pins no such ids",
                    hint="pin them under `users`/`groups`, or exclude the path",
                )
            if path in decided and path in tree:
                continue
            try:
                tree.add(path, node)
            except ComposeError as error:
                findings.caught(error)
    out.report_unused(findings)
    fill_parents(tree, left_out, findings)
    _prune(tree, thinned)
    for name in USR_MERGED:
        if name not in tree and f"/usr{name}" in tree:
            tree.add(name, Node(kind=Kind.SYMLINK, mode=0o777, origin=_GENERATED, target=f"usr{name}"))
    findings.raise_errors("packages cannot be merged")


def fill_parents(tree: Tree, known: dict[str, Node], findings: Findings) -> None:
    """Make the directories that paths imply, and find paths that lie below a link or a file.

    Args:
        tree: completed in place.
        known: directories to take as they are where one of them is implied.
        findings: receives an error for each path below something that is no directory.
    """
    seen: set[str] = {"/"}
    if "/" not in tree:
        tree.add("/", Node(kind=Kind.DIRECTORY, mode=0o755, origin=_GENERATED))
    for path, node in list(tree.items()):
        parent = _parent(path)
        while parent not in seen:
            seen.add(parent)
            above = tree.get(parent)
            if above is None:
                tree.add(
                    parent, known.get(parent) or Node(kind=Kind.DIRECTORY, mode=0o755, origin=_GENERATED)
                )
            elif above.kind is not Kind.DIRECTORY:
                findings.error(
                    f"{path}: {node.origin} ships it below {parent}, "
                    f"which {above.origin} makes a {above.kind}"
                )
            parent = _parent(parent)


class _Exclusion:
    """The recipe's exclusions; what any of them keeps stays, so that a fragment adds to another's list."""

    def __init__(self, excludes: Sequence[Exclude]) -> None:
        self._paths = Globs((path for exclude in excludes for path in exclude.paths), below=True)
        self._keep = Globs((path for exclude in excludes for path in exclude.keep), below=True)

    def matches(self, path: str) -> bool:
        """Say whether a path is left out."""
        return self._paths.matches(path) and not self._keep.matches(path)

    def report_unused(self, findings: Findings) -> None:
        """Record patterns that matched nothing: a typing error, or a package that changed."""
        for pattern in self._paths.unused:
            findings.error(f"the exclude pattern {pattern} matches no path of any package")
        for pattern in self._keep.unused:
            findings.error(f"the keep pattern {pattern} matches no path that an exclusion leaves out")


def _prune(tree: Tree, thinned: set[str]) -> None:
    for path in sorted(thinned, reverse=True):
        current = path
        while current != "/":
            node = tree.get(current)
            if node is None or node.kind is not Kind.DIRECTORY or any(True for _ in tree.children(current)):
                break
            tree.remove(current)
            current = _parent(current)


def _parent(path: str) -> str:
    return path[: path.rindex("/")] or "/"
