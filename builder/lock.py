"""Resolve a recipe to hash-pinned archives. With `fetch`, the only step that uses the network."""

from __future__ import annotations

import fnmatch
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from builder.apt import KEYRING, Apt
from builder.artifacts import Archive, Lock, PythonPin, SuiteIndex
from builder.debian import upstream_version
from builder.errors import LockError
from builder.lockfile import dump_lock, parse_lock, read_lock
from builder.mirror import Mirrors
from builder.pins import find_requirements, read_pins
from builder.progress import SILENT, Reporter
from builder.recipe import Recipe
from builder.recipe.model import EmulatorSource, FirmwareSource, ModuleSource

_POCKET_SUFFIX = {"release": "", "updates": "-updates", "security": "-security"}
#: Sets of this kind decide tables of machines and no byte of an image, so a scratch lock may go without them.
_EMULATOR = "emulator/"
_CONCRETE_KERNEL = re.compile(r"\b(linux-image-\d[a-z0-9+.-]*)")


def load_lock(recipe: Recipe) -> Lock:
    """Return the recipe's committed lock.

    Raises:
        LockError: absent, corrupt, or stale; with the command that makes a new one.
    """
    lock = read_lock(recipe.lock_path, recipe=recipe.name)
    check_lock(recipe, lock)
    return lock


def check_lock(recipe: Recipe, lock: Lock) -> None:
    """Check that a lock belongs to the recipe as it is now; needs no network.

    Raises:
        LockError: it was resolved for another recipe or another state of it, or a module and what works with it alone
            are of different versions.
    """
    hint = f"goldsmith lock {recipe.name}"
    if lock.recipe != recipe.name:
        raise LockError(f"the lock is for {lock.recipe!r}, the recipe is {recipe.name!r}", hint=hint)
    if lock.resolution != recipe.resolution_digest:
        raise LockError(
            f"the lock of {recipe.name} is stale: packages, drops, suites or firmware of the recipe changed "
            f"since (lock {lock.resolution[:12]}…, recipe {recipe.resolution_digest[:12]}…)",
            hint=hint,
        )
    _check_versions(recipe, lock)


def resolve(
    recipe: Recipe,
    mirrors: Mirrors,
    *,
    previous: Lock | None = None,
    reporter: Reporter = SILENT,
    keyring: Path = KEYRING,
    requirements: str | None = None,
    lenient: bool = False,
) -> Lock:
    """Resolve every set of a recipe against the signed indexes of the mirror.

    Args:
        recipe: what to resolve.
        mirrors: where to.
        previous: the lock so far; firmware versions that left the index are kept from it.
        reporter: hears of phases and of what was kept.
        keyring: trusted signing keys.
        requirements: text of requirements.txt; found above the recipe if absent.
        lenient: take the newest version of firmware and of modules' sources where the exact one is gone, and do
            without a dropped package that nothing pulls in any more (scratch locks only).

    Raises:
        LockError: a package is missing, a dropped package is not in the closure, no network, no trust.
    """
    if requirements is None:
        requirements = find_requirements(recipe.path).read_text(encoding="utf-8")
    python = read_pins(requirements)
    suite = recipe.distribution.suite
    with tempfile.TemporaryDirectory(prefix="goldsmith-lock-") as folder:
        with reporter.phase(f"index of {suite}"):
            main = Apt(
                workdir=_subfolder(folder, suite),
                mirrors=mirrors,
                pockets=[f"{suite}{_POCKET_SUFFIX[pocket]}" for pocket in recipe.distribution.pockets],
                components=recipe.distribution.components,
                keyring=keyring,
            )
            indexes = list(main.update())
        # The newest date of what the image is made of; firmware suites move without it.
        epoch = max(index.date for index in indexes)
        sets: dict[str, dict[str, Archive]] = {}
        with reporter.phase("dependencies"):
            for name, packages, drop in (
                ("root", recipe.root.packages, recipe.root.drop),
                ("initrd", recipe.initrd.packages, recipe.initrd.drop),
                ("toolbox", recipe.toolbox.packages, recipe.toolbox.drop),
                *(
                    [("compiler", recipe.compiler.packages, recipe.compiler.drop)]
                    if recipe.module_sources
                    else []
                ),
            ):
                sets[name] = _layer(main, name, packages, drop, reporter, lenient=lenient)
            sets["kernel"] = _kernel(main, recipe.kernel_package)
            for module_source in recipe.module_sources:
                name = f"modules/{module_source.name}"
                sets[name] = _pinned(main, name, module_source, previous, reporter, newest=lenient)
        resolvers = {suite: main}
        suites = [each.suite for each in recipe.firmware] + [each.suite for each in recipe.emulators]
        for other in suites:
            if other not in resolvers:
                with reporter.phase(f"index of {other}"):
                    resolvers[other] = Apt(
                        workdir=_subfolder(folder, other),
                        mirrors=mirrors,
                        pockets=[other],
                        components=recipe.distribution.components,
                        keyring=keyring,
                    )
                    indexes += resolvers[other].update()
        for source in recipe.firmware:
            name = f"firmware/{source.name}"
            sets[name] = _pinned(resolvers[source.suite], name, source, previous, reporter, newest=lenient)
        for emulator in recipe.emulators:
            name = f"{_EMULATOR}{emulator.name}"
            try:
                sets[name] = _pinned(
                    resolvers[emulator.suite], name, emulator, previous, reporter, newest=False
                )
            except LockError as error:
                if not lenient:
                    raise
                # The tables of another release would be another machine's.
                reporter.note(f"{error}; this run goes without it")
    lock = _assemble(recipe, sets, indexes, epoch, python_pins=python)
    _check_versions(recipe, lock)
    return lock


def resolve_scratch(
    recipe: Recipe,
    mirrors: Mirrors,
    *,
    previous: Lock,
    gone: Iterable[str],
    reporter: Reporter = SILENT,
    keyring: Path = KEYRING,
) -> Lock:
    """Resolve for this run alone, because archives of the committed lock are gone from every source.

    The result is marked ``scratch`` and must not be written over the committed lock. Firmware stays as
    locked where it can be had; where it cannot, the newest takes its place and ``reporter`` hears of it. An
    emulator that cannot be had is left out; where nothing else is gone, nothing is resolved.

    Args:
        recipe: what to resolve.
        mirrors: where to.
        previous: the committed lock.
        gone: "package=version" of the archives no source has (`GoneError.archives`).
        reporter: hears of phases and of every replacement.
        keyring: trusted signing keys.
    """
    lost = set(gone)
    needed = {
        name: members
        for name, members in previous.sets.items()
        if not (name.startswith(_EMULATOR) and lost & set(members))
    }
    if not lost & {member for members in needed.values() for member in members}:
        return _without(previous, needed, reporter)
    kept = {
        name: tuple(member for member in members if member not in lost)
        for name, members in previous.sets.items()
    }
    fresh = resolve(
        recipe,
        mirrors,
        previous=replace(previous, sets=kept),
        reporter=reporter,
        keyring=keyring,
        lenient=True,
    )
    return parse_lock(dump_lock(replace(fresh, scratch=True)))


def _check_versions(recipe: Recipe, lock: Lock) -> None:
    """Check that what works with one version of a module alone is of that version, as the lock has them."""
    root = {archive.name: archive.version for archive in lock.members("root")}
    for source in recipe.module_sources:
        version = lock.members(f"modules/{source.name}")[0].version
        for package in source.same_version:
            found = root.get(package)
            if found is None or upstream_version(found) != upstream_version(version):
                raise LockError(
                    f"module_sources: {source.name} is of {version}, and works with {package} of the same "
                    f"version alone; the root has {found or 'no such package'}",
                    hint=f"change the version of {source.name} in the recipe, then goldsmith lock {recipe.name}",
                )


def _without(lock: Lock, sets: Mapping[str, tuple[str, ...]], reporter: Reporter) -> Lock:
    """Return a scratch lock with some of the lock's sets alone."""
    for name in sorted(set(lock.sets) - set(sets)):
        reporter.note(f"{name}: this run goes without it")
    used = {member for members in sets.values() for member in members}
    archives = tuple(item for item in lock.archives if f"{item.name}={item.version}" in used)
    return parse_lock(dump_lock(replace(lock, archives=archives, sets=sets, scratch=True)))


def _subfolder(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def _layer(
    apt: Apt,
    name: str,
    packages: Iterable[str],
    drop: Iterable[str],
    reporter: Reporter,
    *,
    lenient: bool,
) -> dict[str, Archive]:
    """Return the closure of packages less what the recipe drops."""
    closure = apt.closure(list(packages))
    dropped = {pattern: fnmatch.filter(closure, pattern) for pattern in drop}
    if unknown := sorted(pattern for pattern, found in dropped.items() if not found):
        told = f"{name}.drop names {', '.join(unknown)}, which nothing pulls in"
        if not lenient:
            raise LockError(told, hint=f"take {'them' if len(unknown) > 1 else 'it'} out of {name}.drop")
        reporter.note(told)
    absent = set().union(*dropped.values())
    return {
        package: apt.archive(package, version)
        for package, version in closure.items()
        if package not in absent
    }


def _kernel(apt: Apt, package: str) -> dict[str, Archive]:
    """Return the one archive that holds the kernel: its dependencies only serve installation."""
    version = apt.candidate(package)
    if version is None:
        raise LockError(f"kernel.package: {', '.join(apt.pockets)} have no {package}")
    if not _CONCRETE_KERNEL.fullmatch(package):
        concrete = sorted(set(_CONCRETE_KERNEL.findall(apt.depends(package, version))))
        if len(concrete) != 1:
            raise LockError(
                f"kernel.package: expected {package} to depend on one linux-image package, "
                f"got {', '.join(concrete) or 'none'}"
            )
        package = concrete[0]
        version = apt.candidate(package)
        if version is None:
            raise LockError(f"kernel.package: {', '.join(apt.pockets)} have no {package}")
    return {package: apt.archive(package, version)}


def _pinned(
    apt: Apt,
    name: str,
    source: FirmwareSource | ModuleSource | EmulatorSource,
    previous: Lock | None,
    reporter: Reporter,
    *,
    newest: bool,
) -> dict[str, Archive]:
    """Return the packages that a source lists, at the exact version where the recipe says one."""
    found = {}
    pockets = ", ".join(apt.pockets)
    kept = {
        archive.name: archive
        for archive in (previous.members(name) if previous and name in previous.sets else ())
    }
    packages = (source.package,) if isinstance(source, EmulatorSource) else source.packages
    for package in packages:
        version = source.version or apt.candidate(package)
        offered = apt.versions(package)
        if version in offered:
            found[package] = apt.archive(package, version)
            continue
        shown = ", ".join(offered) or "none"
        pinned = kept.get(package)
        if source.version and pinned is not None and pinned.version == source.version:
            reporter.note(
                f"{name}: {pockets} no longer has {package} {source.version} (it has {shown}); "
                "kept from the lock so far"
            )
            found[package] = pinned
            continue
        candidate = apt.candidate(package)
        if newest and candidate is not None:
            reporter.note(
                f"{name}: {package} {source.version} is gone; this run uses {candidate} of {pockets}"
            )
            found[package] = apt.archive(package, candidate)
            continue
        raise LockError(
            f"{name}: no {package} {version or 'at all'} in {pockets} (there is {shown})",
            hint="change its version in the recipe",
        )
    return found


def _assemble(
    recipe: Recipe,
    sets: Mapping[str, Mapping[str, Archive]],
    indexes: Iterable[SuiteIndex],
    epoch: int,
    *,
    python_pins: Mapping[str, PythonPin],
) -> Lock:
    archives: dict[tuple[str, str], Archive] = {}
    for members in sets.values():
        for archive in members.values():
            known = archives.setdefault((archive.name, archive.version), archive)
            if known.sha256 != archive.sha256:
                raise LockError(
                    f"{archive.name} {archive.version}: two archives of this version, in {known.pocket} and "
                    f"{archive.pocket}"
                )
    lock = Lock(
        recipe=recipe.name,
        resolution=recipe.resolution_digest,
        source_date_epoch=epoch,
        indexes=tuple(sorted(indexes, key=lambda index: index.pocket)),
        archives=tuple(archives[key] for key in sorted(archives)),
        sets={
            name: tuple(sorted(f"{item.name}={item.version}" for item in members.values()))
            for name, members in sorted(sets.items())
        },
        python=python_pins,
    )
    # What is returned is what a reader of the file gets: parsed from its bytes, with their digest.
    return parse_lock(dump_lock(lock))
