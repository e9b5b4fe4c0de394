"""Take the inventory of a build: every path with its digest and origin, every package, recipe file and tool."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from builder.artifacts import Archive, Lock, Output
from builder.errors import ImageError
from builder.recipe.merged import Recipe
from builder.release.sbom.facts import PackageFacts, dependencies
from builder.release.sbom.model import (
    INITRD,
    RECIPE,
    ROOT,
    TREES,
    UKI,
    File,
    Inventory,
    Package,
    Signature,
)
from builder.tree import Kind, Node, Origin, Tree

# Debian policy, 5.6.1: "name", or "name (version)" where the source package's version is another.
_SOURCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?: \((?P<version>[^()\s]+)\))?")


def take_inventory(
    recipe: Recipe,
    lock: Lock,
    *,
    trees: Mapping[str, Tree],
    uki_inputs: Mapping[str, tuple[Archive, bytes]],
    facts: Mapping[str, PackageFacts],
    root_hash: str,
    disk: Output,
    uki: Output,
    signatures: Mapping[str, Signature] | None = None,
) -> Inventory:
    """Take the inventory of a build.

    Args:
        recipe: what was built.
        lock: from what.
        trees: "root" and "initrd", as composed.
        uki_inputs: what became sections of the unified kernel image: path in its package -> archive, bytes.
        facts: SHA-256 of an archive -> what it says about itself; of those of "root" and "initrd" at least,
            of others where they are open anyway.
        root_hash: dm-verity root hash, hex.
        disk: disk.raw, finished.
        uki: uki.efi, finished.
        signatures: SHA-256 (hex) of a module that this build signed -> what it is made of.

    Raises:
        ImageError: a file came from a package that is not locked.
    """
    suite = recipe.distribution.suite
    sources = sorted(name for name in lock.sets if name.startswith("modules/"))
    tools = ("toolbox", "compiler") if "compiler" in lock.sets else ("toolbox",)
    members = {name: lock.members(name) for name in (ROOT, INITRD, "kernel", *sources, *tools)}
    refs = {archive.sha256: purl(archive, suite) for group in members.values() for archive in group}
    recipe_files = {recipe_ref(file.origin): file.origin for files in recipe.files.values() for file in files}
    origins = {
        Origin(kind="package", name=archive.name, version=archive.version): refs[archive.sha256]
        for group in members.values()
        for archive in group
    }
    files = [
        _file(tree, path, node, _origin_ref(path, node.origin, origins, recipe_files), signatures or {})
        for tree, path, node in _nodes(trees, uki_inputs)
    ]
    inside: dict[str, set[str]] = {
        tree: {file.origin for file in files if file.tree == tree} for tree in TREES
    }
    for name in (ROOT, INITRD):
        # A member whose every file the recipe leaves out is still what others were resolved against.
        inside[name] |= {refs[archive.sha256] for archive in members[name]}
    return Inventory(
        name=recipe.name,
        version=recipe.version,
        summary=recipe.summary,
        source_date_epoch=lock.source_date_epoch,
        recipe=recipe.digest,
        lock=lock.digest,
        root_hash=root_hash,
        disk=disk,
        uki=uki,
        packages=tuple(sorted(_packages(members, refs, inside, facts), key=lambda package: package.ref)),
        python={name: pin.version for name, pin in sorted(lock.python.items())},
        recipe_files=dict(sorted(recipe_files.items())),
        steps={step_ref(name): name for name in sorted(_steps(trees))},
        files=tuple(sorted(files, key=lambda file: (TREES.index(file.tree), file.path))),
        listed=_listed(recipe, members, refs, inside),
        depends=_depends(members, refs, facts),
    )


def purl(archive: Archive, suite: str) -> str:
    """Return the package URL of an archive (Package URL specification, type "deb")."""
    name, version = quote(archive.name, safe=""), quote(archive.version, safe=":")
    return f"pkg:deb/debian/{name}@{version}?arch={archive.architecture}&distro={quote(suite, safe='')}"


def recipe_ref(path: str) -> str:
    """Return the reference of a recipe file."""
    return f"{RECIPE}:{path}"


def step_ref(name: str) -> str:
    """Return the reference of a step of the build that wrote files of its own."""
    return f"step:{name}"


def _nodes(
    trees: Mapping[str, Tree], uki_inputs: Mapping[str, tuple[Archive, bytes]]
) -> Iterator[tuple[str, str, Node]]:
    for name, tree in trees.items():
        for path, node in tree.items():
            yield name, path, node
    for path, (archive, content) in uki_inputs.items():
        origin = Origin(kind="package", name=archive.name, version=archive.version)
        yield UKI, path, Node(kind=Kind.FILE, mode=0o644, origin=origin, content=content)


def _steps(trees: Mapping[str, Tree]) -> set[str]:
    return {
        node.origin.name
        for tree in trees.values()
        for _, node in tree.items()
        if node.origin.kind == "generated"
    }


def _origin_ref(
    path: str, origin: Origin, packages: Mapping[Origin, str], recipe_files: Mapping[str, str]
) -> str:
    if origin.kind == "generated":
        return step_ref(origin.name)
    if origin.kind == "recipe":
        ref = recipe_ref(origin.name)
        return ref if ref in recipe_files else RECIPE
    try:
        return packages[origin]
    except KeyError:
        raise ImageError(
            f"{path} came from {origin}, and the lock has no such package: it would be missing from the SBOM"
        ) from None


def _file(tree: str, path: str, node: Node, origin: str, signatures: Mapping[str, Signature]) -> File:
    if node.kind is not Kind.FILE:
        return File(tree=tree, path=path, kind=node.kind, origin=origin, target=node.target)
    sha256 = hashlib.sha256(node.content).hexdigest()
    return File(
        tree=tree,
        path=path,
        kind=node.kind,
        origin=origin,
        size=len(node.content),
        sha1=hashlib.sha1(node.content, usedforsecurity=False).hexdigest(),
        sha256=sha256,
        signature=signatures.get(sha256),
    )


def _packages(
    members: Mapping[str, tuple[Archive, ...]],
    refs: Mapping[str, str],
    inside: Mapping[str, set[str]],
    facts: Mapping[str, PackageFacts],
) -> Iterator[Package]:
    tools = {archive.sha256 for name in ("toolbox", "compiler") for archive in members.get(name, ())}
    for archive in {archive.sha256: archive for group in members.values() for archive in group}.values():
        known = facts.get(archive.sha256)
        source, source_version = _source(archive, known)
        yield Package(
            ref=refs[archive.sha256],
            archive=archive,
            source=source,
            source_version=source_version,
            licence=known.licence if known else None,
            trees=tuple(tree for tree in TREES if refs[archive.sha256] in inside[tree]),
            tool=archive.sha256 in tools,
        )


def _source(archive: Archive, facts: PackageFacts | None) -> tuple[str, str]:
    """Return the source package's name, and its version where the control file is at hand."""
    found = _SOURCE.fullmatch(facts.control.get("Source", archive.name)) if facts else None
    if found is None:
        # Where pools keep source packages: pool/<component>/<prefix>/<source>/<archive>.
        return archive.path.split("/")[-2], ""
    return found["name"], found["version"] or archive.version


def _listed(
    recipe: Recipe,
    members: Mapping[str, tuple[Archive, ...]],
    refs: Mapping[str, str],
    inside: Mapping[str, set[str]],
) -> dict[str, tuple[str, ...]]:
    """Return what the recipe itself asks for; its kernel and its stub are such packages of each tree they reach."""
    listed = {UKI: tuple(sorted(inside[UKI]))}
    for name in (ROOT, INITRD):
        wanted = [archive for archive in members[name] if archive.name in recipe.layer(name).packages]
        found = {refs[archive.sha256] for archive in (*wanted, *members["kernel"])}
        listed[name] = tuple(sorted(found & inside[name]))
    return listed


def _depends(
    members: Mapping[str, tuple[Archive, ...]], refs: Mapping[str, str], facts: Mapping[str, PackageFacts]
) -> dict[str, tuple[str, ...]]:
    """Return the edges between packages of one tree; what the recipe drops is no package of it."""
    edges: dict[str, set[str]] = {}
    for name in (ROOT, INITRD):
        present = {archive.name: archive.sha256 for archive in members[name]}
        needs = dependencies({package: facts[sha256].control for package, sha256 in present.items()})
        for package, needed in needs.items():
            edges.setdefault(refs[present[package]], set()).update(refs[present[other]] for other in needed)
    return {ref: tuple(sorted(needed)) for ref, needed in sorted(edges.items()) if needed}
