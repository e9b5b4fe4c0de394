"""The closure check: nothing refers to what is not there, and no privilege goes unnamed."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from builder.errors import ComposeError
from builder.recipe.model import Layer
from builder.rootfs.accounts import Accounts, Needs
from builder.rootfs.findings import Findings
from builder.rootfs.interpreters import check_interpreters
from builder.rootfs.libraries import check_libraries
from builder.rootfs.permits import Missing
from builder.rootfs.services import References, check_tmpfiles, check_udev, check_units
from builder.rootfs.sysusers import check_sysusers
from builder.tree import Kind, Tree

#: Filled when the machine runs; a link there cannot be judged.
VOLATILE = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var")  # noqa: S108  paths of the image
_SETUID, _SETGID = 0o4000, 0o2000


def check_closure(tree: Tree, layer: Layer, accounts: Accounts) -> tuple[str, ...]:
    """Check the finished tree and return notes.

    Checked are: shared libraries and loaders, scripts and interpreters, programs and required units of
    units, udev rules, users and groups of sysusers.d, tmpfiles.d, units and rules, links, and the setuid and
    setgid bits.

    Raises:
        ComposeError: anything is absent or not allowed; the message lists every problem with both sides.
    """
    check_loops(tree)
    findings = Findings()
    missing = Missing(layer.missing)
    needs = Needs(accounts)
    references = References(tree=tree, needs=needs, missing=missing, findings=findings)
    check_sysusers(tree, needs, findings)
    check_units(references)
    check_udev(references)
    check_tmpfiles(references)
    needs.report(findings)
    check_interpreters(tree, layer.interpreters, missing, findings)
    check_libraries(tree, missing, findings)
    check_links(tree, missing, findings)
    check_setuid(tree, layer.setuid, findings)
    missing.note_unused(findings)
    findings.raise_errors("the tree does not close")
    return findings.notes


def check_loops(tree: Tree) -> None:
    """Refuse links that never end; every other check follows links and relies on this.

    Raises:
        ComposeError: a chain of links is longer than the kernel follows (path_resolution(7)).
    """
    findings = Findings()
    for path, node in tree.items():
        if node.kind is Kind.SYMLINK:
            try:
                tree.resolve(path)
            except ComposeError as error:
                findings.error(f"{error} ({node.origin} links it to {node.target})")
    findings.raise_errors("links")


def check_links(tree: Tree, missing: Missing, findings: Findings) -> None:
    """Find symbolic links that lead nowhere."""
    for path, node in tree.items():
        if node.kind is not Kind.SYMLINK or tree.resolve(path) is not None:
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), node.target))
        if target in VOLATILE or target.startswith(tuple(f"{folder}/" for folder in VOLATILE)):
            continue
        if not missing.permits(path, target, node.target):
            findings.error(
                f"{path} ({node.origin}) links to {node.target}, which the tree does not have",
                hint="exclude the link, or list its target in `missing`",
            )


def strip_setuid(tree: Tree, paths: Mapping[str, str]) -> None:
    """Take the setuid and setgid bits away from the files that the recipe lists.

    Raises:
        ComposeError: a listed path is no file with such a bit.
    """
    findings = Findings()
    for path in paths:
        node = tree.get(path)
        if node is None or not node.mode & (_SETUID | _SETGID):
            findings.error(f"`strip_setuid` lists {path}, which is no file with a setuid or setgid bit")
        else:
            tree.replace(path, replace(node, mode=node.mode & ~(_SETUID | _SETGID)))
    findings.raise_errors("setuid")


def check_setuid(tree: Tree, allowed: Mapping[str, str], findings: Findings) -> None:
    """Find setuid and setgid bits that the recipe does not name, and names that have none."""
    found = set()
    for path, node in tree.items():
        if node.mode & (_SETUID | _SETGID):
            found.add(path)
            if path not in allowed:
                bit = "setuid" if node.mode & _SETUID else "setgid"
                findings.error(
                    f"{path} ({node.origin}) is {bit} ({node.mode:04o}, {node.uid}:{node.gid}), "
                    "and the recipe does not name it",
                    hint="list it under `strip_setuid`, or under `setuid` if it must keep the bit",
                )
    for path in sorted(set(allowed) - found):
        findings.error(f"`setuid` lists {path}, which has neither the setuid nor the setgid bit")
