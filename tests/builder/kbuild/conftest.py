"""The compiler of `recipes/gpu-cc`, and a small source for it."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.lockfile import read_lock
from builder.recipe import load_recipe
from builder.store import Store
from builder.tar import Entry
from builder.toolbox import open_members, unpack_compiler
from builder.tree import Kind

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "gpu-cc"
sys.path.insert(0, str(Path(__file__).parents[1] / "rootfs"))


@pytest.fixture(scope="session")
def compiler():
    lock = read_lock(RECIPE / "lock.json", recipe="gpu-cc")
    try:
        return unpack_compiler(lock, load_recipe(RECIPE).compiler.links, Store.default())
    except FetchError as error:
        pytest.skip(f"the store holds no compiler: {error}")


@pytest.fixture(scope="session")
def kernel_entries():
    """What the kernel's package ships, with the kernel's release."""
    lock = read_lock(RECIPE / "lock.json", recipe="gpu-cc")
    try:
        (package,) = open_members(lock.members("kernel"), Store.default(), recipe="gpu-cc")
    except FetchError as error:
        pytest.skip(f"the store holds no kernel: {error}")
    return tuple(package.entries())


@pytest.fixture
def tar():
    """Make a tar entry of files; values are bytes, "-> target", or None for a folder."""

    def make(files, name="/usr/src/sample.tar"):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            for path, value in files.items():
                info = tarfile.TarInfo(path)
                if value is None:
                    info.type = tarfile.DIRTYPE
                elif isinstance(value, str):
                    info.type, info.linkname = tarfile.SYMTYPE, value.removeprefix("-> ")
                else:
                    info.size = len(value)
                archive.addfile(info, io.BytesIO(value) if isinstance(value, bytes) else None)
        data = raw.getvalue()
        return Entry(path=name, kind=Kind.FILE, mode=0o644, uid=0, gid=0, content=memoryview(data))

    return make
