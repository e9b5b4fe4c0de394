"""What is in a tree, by origin."""

from __future__ import annotations

from builder.artifacts import PackageShare
from builder.tree import Kind, Tree


def summarise(tree: Tree) -> tuple[PackageShare, ...]:
    """Return the share of each package, recipe file and step, largest first, then by name.

    Files and links count; directories do not.
    """
    shares: dict[tuple[str, str], list[int]] = {}
    for _, node in tree.items():  # noqa: PERF102  a tree is no dict
        if node.kind is Kind.DIRECTORY:
            continue
        share = shares.setdefault((node.origin.name, node.origin.version), [0, 0])
        share[0] += 1
        share[1] += len(node.content)
    found = [
        PackageShare(name=name, version=version, files=files, size=size)
        for (name, version), (files, size) in shares.items()
    ]
    return tuple(sorted(found, key=lambda share: (-share.size, share.name, share.version)))
