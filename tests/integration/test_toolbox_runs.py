"""The real archive: lock, fetch, unpack, and run every program of the committed toolbox fragment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import resolve
from builder.recipe import load_recipe
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

RECIPE = """\
name: probe
version: "1"
svn: 1
summary: the toolbox and the firmware alone
include: [common/toolbox, common/firmware]
distribution: {suite: trixie}
kernel: {package: linux-image-cloud-amd64}
"""

PROGRAMS = {
    "depmod": "--version",
    "fsck.erofs": "--version",
    "mcopy": "--version",
    "mkfs.erofs": "--version",
    "mkfs.vfat": "--help",
    "qemu-img": "--version",
    "qemu-system-x86_64": "--version",
    "swtpm": "--version",
    "ukify": "--version",
    "veritysetup": "--version",
}


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="resolving needs apt")
def test_every_program_runs_from_the_locked_toolbox(tmp_path):
    shutil.copytree(ROOT / "recipes/common", tmp_path / "recipes/common")
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    path = tmp_path / "recipes/probe/recipe.yaml"
    path.parent.mkdir()
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    options = InputOptions()
    lock = resolve(recipe, options.mirrors())
    assert set(lock.sets) >= {"toolbox", "kernel", "firmware/ovmf-2025.02", "firmware/ovmf-2026.08"}
    needed = [item for name in lock.sets if name != "kernel" for item in lock.members(name)]
    store = Store.default()
    with open_sources(options, lock) as sources:
        fetch(needed, store, sources, recipe=recipe.name)
    tools = unpack_toolbox(lock, store)
    for program, argument in PROGRAMS.items():
        done = tools.run(program, argument)
        assert done.stdout or done.stderr, program
        if program != "ukify":
            assert str(tools.root) in tools.command(program)[0]
    assert tools.root is not None and not any(
        os.path.islink(item) and not os.path.exists(item) for item in tools.root.rglob("*.so*")
    )
    for build in firmware(recipe.firmware, lock, store):
        # Both volumes of a 4 MiB OVMF build together fill its flash (edk2, OvmfPkg/OvmfPkgDefines.fdf.inc).
        assert build.code.stat().st_size + build.variables.stat().st_size == 4 << 20
