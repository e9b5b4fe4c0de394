"""The stand-in for an NVIDIA device stays where it belongs: in the tests."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from standin import NAME, SOURCE

from builder.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def test_no_recipe_and_no_code_of_the_product_names_it():
    for folder in ("recipes", "builder", "measurements", "bench"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert NAME.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("recipes/*/recipe.yaml")))
def test_no_image_lists_it(name):
    recipe = load_recipe(ROOT / "recipes" / name)
    compiled = {module for source in recipe.module_sources for module in source.modules}
    assert NAME not in {*recipe.root.modules, *recipe.initrd.modules, *compiled}
    lock = json.loads((ROOT / "recipes" / name / "lock.json").read_bytes())
    assert not any("standin" in archive["name"] for archive in lock["archives"])


def test_no_release_contains_it(gpu_release):
    """Its inventory lists every file of root and initrd, each with its digest (docs/sbom.md)."""
    assert b"/updates/nvidia.ko" in (gpu_release / "sbom.spdx.json").read_bytes()
    for path in gpu_release.iterdir():
        assert NAME.encode() not in path.read_bytes(), path.name


def test_the_wheel_does_not_ship_it():
    """Only the two packages are installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["builder*", "measurements*"]


def test_it_is_licensed_as_the_kernel_asks():
    text = (SOURCE / f"{NAME}.c").read_text()
    assert text.startswith("// SPDX-License-Identifier: GPL-2.0-only") and 'MODULE_LICENSE("GPL")' in text
