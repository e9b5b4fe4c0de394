"""Modules of `measurements` in an image: what a recipe names, what these import, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import measurements
from builder.errors import RecipeError
from builder.recipe import modules
from builder.recipe.modules import module_files

ROOT = Path(measurements.__path__[0]).parent


def test_a_module_comes_with_its_packages_and_what_it_imports():
    files = module_files("/usr/lib/x", ["measurements.moments"])
    assert [file.path for file in files] == [
        "/usr/lib/x/measurements/__init__.py",
        "/usr/lib/x/measurements/errors.py",
        "/usr/lib/x/measurements/moments.py",
    ]
    for file in files:
        assert file.origin == file.path.removeprefix("/usr/lib/x/")
        assert file.content == (ROOT / file.origin).read_bytes() and file.mode == 0o644


@pytest.mark.parametrize(
    "module", ["measurements.gpu.appraise", "measurements.verify", "measurements.golden"]
)
def test_they_are_what_python_imports(module, tmp_path):
    """Python itself, with these files and no others of ours, imports the module; and imports each of the files."""
    files = module_files("/", [module])
    for file in files:
        path = tmp_path / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}\n"
        "print(*sorted(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'measurements'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    found = [Path(path).relative_to(tmp_path).as_posix() for path in done.stdout.split()]
    assert set(found) <= {file.origin for file in files}
    # Read from the source, so it may name what only some path of the code imports; here it is the same.
    assert len(found) == len(files)


def test_a_module_that_is_not_there():
    with pytest.raises(RecipeError, match=r"there is no module measurements\.nothing"):
        module_files("/x", ["measurements.nothing"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import measurements.errors", {"measurements.errors"}),
        ("def f():\n    from measurements import events", {"measurements", "measurements.events"}),
        ("from measurements.events import Digest, Event", {"measurements.events"}),
        ("import json, measurements_of_others", set()),
    ],
)
def test_every_form_of_import(tmp_path, text, wanted):
    (tmp_path / "it.py").write_text(text)
    assert set(modules._imported(tmp_path / "it.py")) == wanted


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "it.py").write_text("from . import errors")
    with pytest.raises(RecipeError, match=r"it\.py:1: a relative import"):
        list(modules._imported(tmp_path / "it.py"))
