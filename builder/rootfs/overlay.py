"""What the recipe adds to the packages: files, directories, links, and the few fixed points of a system."""

from __future__ import annotations

from collections.abc import Sequence

from builder.errors import ComposeError
from builder.recipe.merged import RecipeFile
from builder.recipe.model import Layer
from builder.rootfs.accounts import Accounts
from builder.rootfs.findings import Findings
from builder.rootfs.merge import fill_parents
from builder.tree import Kind, Node, Origin, Tree

_RECIPE = Origin(kind="recipe", name="recipe")
_GENERATED = Origin(kind="generated", name="file hierarchy")
#: file-hierarchy(7): mount points and the directories that systemd expects on a read-only root.
_MOUNT_POINTS = {
    "/dev": 0o755,
    "/etc": 0o755,
    "/proc": 0o555,
    "/run": 0o755,
    "/sys": 0o555,
    "/tmp": 0o1777,  # noqa: S108  a path of the image
    "/usr": 0o755,
    "/var": 0o755,
}
_STUB = "/usr/lib/systemd/systemd-resolved"


def overlay(tree: Tree, layer: Layer, files: Sequence[RecipeFile], accounts: Accounts) -> None:
    """Add the recipe's directories, files and links.

    Args:
        tree: receives them.
        layer: declares directories and links.
        files: the layer's files, rendered.
        accounts: names their owners.

    Raises:
        ComposeError: a path is taken and the recipe does not say that it replaces it, or says so and
            nothing is there; an owner is not pinned.
    """
    findings = Findings()
    for directory in layer.directories:
        uid, gid = _owner(findings, accounts, directory.path, directory.owner, directory.group)
        mode = int(directory.mode, 8)
        node = Node(kind=Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, origin=_RECIPE)
        taken = tree.get(directory.path)
        if taken is not None and taken.kind is not Kind.DIRECTORY:
            findings.error(
                f"{directory.path}: the recipe's directory, and {taken.origin} ships a {taken.kind}"
            )
        else:
            tree.replace(directory.path, node)
    for file in files:
        uid, gid = _owner(findings, accounts, file.path, file.owner, file.group)
        node = Node(
            kind=Kind.FILE,
            mode=file.mode,
            uid=uid,
            gid=gid,
            origin=Origin(kind="recipe", name=file.origin),
            content=file.content,
        )
        taken = tree.get(file.path)
        if file.replaces is not None and taken is None:
            findings.error(f"{file.path}: `replaces` is set, and no package ships this path")
        try:
            if file.replaces is None:
                tree.add(file.path, node)
            else:
                tree.replace(file.path, node)
        except ComposeError as error:
            findings.error(str(error), hint="`replaces: <reason>` lets a recipe's file win")
    for path, target in layer.links.items():
        try:
            tree.add(path, Node(kind=Kind.SYMLINK, mode=0o777, origin=_RECIPE, target=target))
        except ComposeError as error:
            findings.caught(error)
    fill_parents(tree, {}, findings)
    findings.raise_errors("the recipe's files do not fit")


def fixed_points(tree: Tree) -> None:
    """Add mount points, an empty machine-id and the resolver's link, where nobody else did.

    An empty /etc/machine-id on a read-only root makes systemd set up a transient id at each boot
    (machine-id(5)), so that no two machines share one and the image holds none.
    """
    for path, mode in _MOUNT_POINTS.items():
        if path not in tree:
            tree.add(path, Node(kind=Kind.DIRECTORY, mode=mode, origin=_GENERATED))
    if "/etc/machine-id" not in tree:
        tree.add("/etc/machine-id", Node(kind=Kind.FILE, mode=0o444, origin=_GENERATED))
    if _STUB in tree and "/etc/resolv.conf" not in tree:
        target = "../run/systemd/resolve/stub-resolv.conf"
        tree.add("/etc/resolv.conf", Node(kind=Kind.SYMLINK, mode=0o777, origin=_GENERATED, target=target))


def _owner(findings: Findings, accounts: Accounts, path: str, owner: str, group: str) -> tuple[int, int]:
    if owner not in accounts.users:
        findings.error(f"{path}: its owner {owner} is no user that the recipe pins")
        return 0, 0
    if group not in accounts.groups:
        findings.error(f"{path}: its group {group} is no group that the recipe pins")
        return 0, 0
    return accounts.users[owner].uid, accounts.groups[group]
