"""A small tree, and the toolbox for the tests that write through its tools."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import FetchError
from builder.lockfile import read_lock
from builder.store import Store
from builder.toolbox import unpack_toolbox
from builder.tools import Tools
from builder.tree import Kind, Node, Origin, Tree

BASE = Path(__file__).parents[3] / "recipes" / "base"
EPOCH = 1_760_000_000
ORIGIN = Origin(kind="package", name="sample", version="1")
LONG_DIRECTORY = "/usr/" + "d" * 200
LONG_TARGET = "/" + "t" * 150


def directory(mode=0o755, **kwargs):
    return Node(kind=Kind.DIRECTORY, mode=mode, origin=ORIGIN, **kwargs)


def file(content, mode=0o644, **kwargs):
    return Node(kind=Kind.FILE, mode=mode, origin=ORIGIN, content=content, **kwargs)


def symlink(target):
    return Node(kind=Kind.SYMLINK, mode=0o777, origin=ORIGIN, target=target)


@pytest.fixture
def tree() -> Tree:
    tree = Tree()
    tree.add("/", directory())
    tree.add("/dev", directory())
    tree.add(
        "/dev/console",
        Node(kind=Kind.CHARACTER_DEVICE, mode=0o600, gid=5, origin=ORIGIN, device=(5, 1)),
    )
    tree.add("/tmp", directory(0o1777))
    tree.add("/usr", directory())
    tree.add("/usr/bin", directory())
    # "-" sorts before "/": this file comes between a directory and what is in it.
    tree.add("/usr/bin-old", file(b"old\n"))
    tree.add("/usr/bin/su", file(memoryview(b"\x7fELF" * 5000), 0o4755, uid=3, gid=4))
    tree.add("/usr/empty", file(b""))
    tree.add("/usr/größe", file(b"utf-8"))
    tree.add("/usr/link", symlink("bin/su"))
    tree.add("/usr/far", symlink(LONG_TARGET))
    tree.add(LONG_DIRECTORY, directory(0o750))
    tree.add(LONG_DIRECTORY + "/" + "f" * 180, file(b"deep" * 2000))
    tree.add("/usr/zero", file(bytes(300_000)))
    return tree


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The toolbox named in GOLDSMITH_TEST_TOOLBOX, else the base recipe's when the store holds it."""
    if root := os.environ.get("GOLDSMITH_TEST_TOOLBOX"):
        return Tools(root=Path(root).resolve(strict=True), source_date_epoch=EPOCH)
    lock = BASE / "lock.json"
    if not lock.exists():
        pytest.skip("no toolbox: the base recipe has no lock, and GOLDSMITH_TEST_TOOLBOX names none")
    try:
        return replace(
            unpack_toolbox(read_lock(lock, recipe="base"), Store.default()), source_date_epoch=EPOCH
        )
    except FetchError as error:
        pytest.skip(f"no toolbox: {error}")
