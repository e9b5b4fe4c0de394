"""Enable and mask units: the links that ``systemctl`` makes for enable, mask and set-default."""

from __future__ import annotations

from difflib import get_close_matches

from builder.errors import ComposeError
from builder.recipe.model import Units
from builder.rootfs.findings import Findings
from builder.rootfs.merge import fill_parents
from builder.rootfs.unitfile import Unit, expand, find_unit, load_unit, unit_names
from builder.tree import Kind, Node, Origin, Tree

_RECIPE = Origin(kind="recipe", name="units")
_FOLDER = "/etc/systemd/system"
#: [Install] settings that make a link below a folder of the other unit, and that folder's ending.
_PULLED_BY = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}


def apply_units(tree: Tree, units: Units) -> tuple[str, ...]:
    """Add the links of a layer's units and return notes.

    Presets play no part: what is enabled neither here nor by a package's own .wants link does not start.

    Raises:
        ComposeError: a unit is in no package, has no [Install] section, is both enabled and masked, or its
            link's path is taken.
    """
    findings = Findings()
    for name in units.mask:
        if name in units.enable or name == units.default_target:
            findings.error(f"{name} is masked and enabled")
        elif find_unit(tree, name) is None:
            _unknown(tree, name, "masked", findings)
        else:
            _link(tree, f"{_FOLDER}/{name}", "/dev/null", findings)
    done: set[str] = set()
    pending = [(name, "") for name in units.enable if name not in units.mask]
    while pending:
        name, cause = pending.pop(0)
        if name in done or (cause and name in units.mask):
            continue
        done.add(name)
        try:
            unit = load_unit(tree, name)
            if unit is None:
                if cause:  # a companion that the recipe left out; the closure check has the last word
                    findings.note(f"{cause} names {name} in Also=, which the tree does not have")
                else:
                    _unknown(tree, name, "enabled", findings)
                continue
            pending += [(other, name) for other in _enable(tree, unit, bool(cause), findings)]
        except ComposeError as error:
            findings.caught(error)
    if units.default_target is not None:
        path = find_unit(tree, units.default_target)
        if path is None:
            _unknown(tree, units.default_target, "the default target", findings)
        else:
            _link(tree, f"{_FOLDER}/default.target", path, findings)
    fill_parents(tree, {}, findings)
    findings.raise_errors("units")
    return findings.notes


def _enable(tree: Tree, unit: Unit, quiet: bool, findings: Findings) -> list[str]:
    """Make the links of one unit's [Install] section and return what its Also= names."""
    name = unit.name
    where = f"{unit.path} ({unit.node.origin})"
    if "@." in name:
        instance = unit.value("Install", "DefaultInstance")
        if instance:
            name = name.replace("@.", f"@{instance}.", 1)
    links: list[str] = []
    for key, ending in _PULLED_BY.items():
        for word in unit.words("Install", key):
            by = expand(word, name, where)
            if find_unit(tree, by) is None:
                findings.error(f"{where}: {key}={by}, and no package ships {by}: enabling has no effect")
            if "@." in name and "@." not in by:
                findings.error(
                    f"{name} is a template without DefaultInstance=", hint=f"enable an instance of {name}"
                )
                continue
            links.append(f"{_FOLDER}/{by}.{ending}/{name}")
    links += [f"{_FOLDER}/{expand(word, name, where)}" for word in unit.words("Install", "Alias")]
    for link in links:
        if link != f"{_FOLDER}/{unit.path.rpartition('/')[2]}":
            _link(tree, link, unit.path, findings)
    also = unit.words("Install", "Also")
    if not links and not also and not quiet:
        findings.error(f"{where} has no [Install] section, so it cannot be enabled; other units pull it in")
    return [expand(word, name, where) for word in also]


def _link(tree: Tree, path: str, target: str, findings: Findings) -> None:
    try:
        tree.add(path, Node(kind=Kind.SYMLINK, mode=0o777, origin=_RECIPE, target=target))
    except ComposeError as error:
        findings.caught(error)


def _unknown(tree: Tree, name: str, what: str, findings: Findings) -> None:
    near = get_close_matches(name, unit_names(tree), n=3)
    findings.error(
        f"the unit {name} is {what}, and the tree has no unit file for it",
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )
