"""Compose one layer: archives and recipe in, a closed tree out. The order of the steps is here alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.artifacts import Archive
from builder.errors import ComposeError
from builder.recipe.merged import RecipeFile
from builder.recipe.model import Layer
from builder.rootfs.accounts import read_accounts, write_accounts
from builder.rootfs.closure import check_closure, strip_setuid
from builder.rootfs.kernel import KernelPackage, Modules, install_modules
from builder.rootfs.merge import merge
from builder.rootfs.overlay import fixed_points, overlay
from builder.rootfs.units import apply_units
from builder.tar import Entry
from builder.tools import Tools
from builder.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """A composed layer.

    Attributes:
        tree: the closed tree.
        modules: its kernel modules.
        notes: what the checks found worth telling and no error.
    """

    tree: Tree
    modules: Modules
    notes: tuple[str, ...]


def compose(
    layer: Layer,
    packages: Sequence[tuple[Archive, Iterable[Entry]]],
    files: Sequence[RecipeFile],
    kernel: KernelPackage | None,
    *,
    tools: Tools,
    workdir: Path,
) -> Composition:
    """Compose a layer's tree without running anything of its packages.

    Args:
        layer: what the recipe declares.
        packages: the layer's archives; the kernel's, if among them, is left to ``kernel``.
        files: the layer's files, rendered.
        kernel: where modules come from; needed when the layer lists any.
        tools: the toolbox; ``depmod`` is the only program run, and only for modules.
        workdir: for depmod's scratch copy.

    Raises:
        ComposeError: conflicts, unpinned users, or anything the closure check refuses; all of a step's
            problems are in one report.
        ToolError: depmod failed.
    """
    accounts = read_accounts(layer)
    tree = Tree()
    own = [item for item in packages if kernel is None or item[0] != kernel.archive]
    decided = {
        *(file.path for file in files if file.replaces is not None),
        *(directory.path for directory in layer.directories),
    }
    merge(tree, own, excludes=layer.exclude, decided=decided, accounts=accounts)
    overlay(tree, layer, files, accounts)
    strip_setuid(tree, layer.strip_setuid)
    write_accounts(tree, accounts)
    fixed_points(tree)
    unit_notes = apply_units(tree, layer.units)
    modules = Modules()
    if layer.modules:
        if kernel is None:
            raise ComposeError(
                f"the layer lists {len(layer.modules)} kernel modules, and no kernel package is locked",
                hint="set `kernel.package` in the recipe",
            )
        modules = install_modules(tree, kernel, layer.modules, tools=tools, workdir=workdir)
    notes = check_closure(tree, layer, accounts)
    return Composition(tree=tree, modules=modules, notes=(*unit_notes, *modules.notes, *notes))
