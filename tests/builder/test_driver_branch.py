"""Another branch of the driver is some other lines of YAML: the fragment of recipes/gpu-cc with them, resolved by apt.

Debian has one version of the open modules only, so the archive is made here; it has what the fragment names and drops.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from signed_archive import SignedArchive, needs_apt, package

from builder.errors import LockError, RecipeError
from builder.lock import check_lock, resolve
from builder.recipe import load_recipe

COMMON = Path(__file__).parents[2] / "recipes" / "common"
FRAGMENT = yaml.safe_load((COMMON / "nvidia-cc.yaml").read_text())
(SOURCE,) = FRAGMENT["module_sources"]
PIN = "pefile==2024.8.26 --hash=sha256:" + "a" * 64 + "\nzstandard==0.25.0 --hash=sha256:" + "b" * 64 + "\n"
#: What changes: the version, where the recipe says it too, and a patch that this branch does without.
VERSION, BRANCH = "570.195.03-1", "570.195.03"
LINES = {
    "nvidia-cc.yaml": {
        "    version: 550.163.01-2\n": f"    version: {VERSION}\n",
        "    patches: [resize-bar.patch]\n": "",
    },
    "recipe.yaml": {'driver: "550.163.01"': f'driver: "{BRANCH}"'},
}
RECIPE = """\
name: img
version: "1"
svn: 1
summary: x
include: [common/nvidia-cc]
kernel: {package: linux-image-cloud-amd64}
initrd: {packages: [libc6]}
toolbox: {packages: [libc6]}
gpu: {architecture: hopper, driver: "550.163.01"}
"""
#: Of the fragment's packages, what another source package ships, with versions of its own.
INDEPENDENT = {"nvidia-modprobe": "570.133.07-1", "nvidia-persistenced": "550.163.01-1"}
KERNEL = "linux-image-6.18.9+deb13-cloud-amd64"


def layer_packages(layer, versions):
    """The packages of a layer, each with everything that the layer drops behind it."""
    dropped = sorted(KERNEL if name == "linux-image-*" else name for name in layer["drop"])
    yield from (
        package(name, versions.get(name, "1.0-1"), depends=", ".join(dropped)) for name in layer["packages"]
    )
    yield from (package(name) for name in dropped if name != KERNEL)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Offers the driver's packages at a version."""
    made = SignedArchive(tmp_path_factory.mktemp("a"))

    def offer(source=VERSION, userland=VERSION):
        versions = {name: INDEPENDENT.get(name, userland) for name in FRAGMENT["root"]["packages"]} | {
            SOURCE["packages"][0]: source
        }
        listed = {
            text.partition("\n")[0]: text
            for text in (
                *layer_packages(FRAGMENT["root"], versions),
                *layer_packages(FRAGMENT["compiler"], versions),
                package(SOURCE["packages"][0], source),
                package("libc6"),
                package("linux-image-cloud-amd64", depends=KERNEL),
                package(KERNEL),
            )
        }
        empty = ("contrib", "non-free", "non-free-firmware")
        made.write("debian", "trixie", [*listed.values()], empty=empty)
        made.write("debian", "trixie-updates", [], empty=("main", *empty))
        made.write("debian-security", "trixie-security", [], empty=("main", *empty))
        return made

    yield offer
    made.close()


def recipe_with(tmp_path, lines):
    """The fragment and a recipe that includes it, with these lines in place of others."""
    recipes = tmp_path / "recipes"
    shutil.rmtree(recipes, ignore_errors=True)
    shutil.copytree(COMMON / "nvidia-cc", recipes / "common" / "nvidia-cc")
    shutil.copy(COMMON / "nvidia-cc.yaml", recipes / "common")
    (recipes / "img").mkdir()
    (recipes / "img" / "recipe.yaml").write_text(RECIPE)
    for name, changes in lines.items():
        path = next(recipes.rglob(name))
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text)
    return load_recipe(recipes / "img" / "recipe.yaml")


def lock_of(archive, recipe):
    return resolve(recipe, archive.mirrors, keyring=archive.keyring, requirements=PIN)


@needs_apt
def test_another_branch_is_some_lines(archive, tmp_path):
    recipe = recipe_with(tmp_path, LINES)
    assert recipe.gpu.driver_version == BRANCH and recipe.patches["nvidia"] == ()
    lock = lock_of(archive(), recipe)
    assert lock.sets["modules/nvidia"] == (f"nvidia-open-kernel-source={VERSION}",)
    assert {f"{name}={VERSION}" for name in SOURCE["same_version"]} <= set(lock.sets["root"])
    assert lock.sets["kernel"] == (f"{KERNEL}=1.0-1",)
    names = {item.partition("=")[0] for members in lock.sets.values() for item in members}
    assert not names & {*FRAGMENT["root"]["drop"], "initramfs-tools", "udev"}


@needs_apt
def test_user_space_of_another_version_is_refused(archive, tmp_path):
    """Where the modules move alone: libcuda.so and nvidia.ko would refuse each other in the guest, after all of it."""
    recipe = recipe_with(tmp_path, LINES)
    message = rf"nvidia is of {VERSION}, and works with firmware-nvidia-gsp of the same version alone"
    with pytest.raises(LockError, match=message):
        lock_of(archive(userland="550.163.01-2"), recipe)


@needs_apt
def test_a_lock_with_mixed_versions_builds_nothing(archive, tmp_path):
    recipe = recipe_with(tmp_path, LINES)
    lock = lock_of(archive(), recipe)
    check_lock(recipe, lock)
    (cuda,) = [item for item in lock.archives if item.name == "libcuda1"]
    older = replace(cuda, version="550.163.01-2")
    mixed = replace(
        lock,
        archives=tuple(older if item == cuda else item for item in lock.archives),
        sets={
            name: tuple(item.replace(f"libcuda1={VERSION}", "libcuda1=550.163.01-2") for item in members)
            for name, members in lock.sets.items()
        },
    )
    with pytest.raises(LockError, match=r"libcuda1 of the same version alone; the root has 550\.163\.01-2"):
        check_lock(recipe, mixed)


@needs_apt
def test_debian_s_revision_may_differ(archive, tmp_path):
    lock = lock_of(archive(userland=f"{BRANCH}-7+b1"), recipe_with(tmp_path, LINES))
    assert f"libcuda1={BRANCH}-7+b1" in lock.sets["root"]


def test_the_expected_driver_moves_along(tmp_path):
    """The golden document must not name a driver that is not in the image."""
    with pytest.raises(
        RecipeError, match=rf"driver 550\.163\.01, and the module source nvidia is of {VERSION}"
    ):
        recipe_with(tmp_path, {"nvidia-cc.yaml": LINES["nvidia-cc.yaml"]})


@needs_apt
def test_a_version_that_is_nowhere_is_named(archive, tmp_path):
    recipe = recipe_with(tmp_path, {})
    with pytest.raises(
        LockError, match=r"no nvidia-open-kernel-source 550\.163\.01-2 in .* .there is 570\.195"
    ):
        lock_of(archive(), recipe)
