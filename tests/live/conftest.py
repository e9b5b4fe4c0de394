"""One boot of the unchanged image with the test extension, shared by every test of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend import STRANGER, live_host
from machine import LiveMachine, live_machine
from testinfra.host import Host

from builder.launches import Launch, launches
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from builder.tools import Tools
from measurements.prediction import BootPath

ROOT = Path(__file__).parents[2]
#: A release folder to test in place of a build of recipes/base (switched_off.py sets it).
RELEASE_VARIABLE = "GOLDSMITH_TEST_RELEASE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what boots a machine; the channel's own tests need none."""
    for item in items:
        if Path(__file__).parent in item.path.parents and {"live", "foreign", "standin", "gpu_release"} & {
            *getattr(item, "fixturenames", ())
        }:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of recipes/base, or the folder that the environment names."""
    if given := os.environ.get(RELEASE_VARIABLE):
        return Path(given)
    return build("base", tmp_path_factory.mktemp("live") / "base")


@pytest.fixture(scope="session")
def gpu_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of recipes/gpu-cc."""
    return build("gpu-cc", tmp_path_factory.mktemp("live") / "gpu-cc")


@pytest.fixture(scope="session")
def tools(release: Path) -> Tools:
    return tools_of(release, "base")


@pytest.fixture(scope="session")
def launch(release: Path) -> Launch:
    """The release's first disk boot."""
    return disk_launch(release, "base")


def build(recipe: str, out: Path) -> Path:
    """Build a release of a recipe; return its folder."""
    done = subprocess.run(
        [Path(sys.executable).with_name("goldsmith"), "build", recipe, "--out", out],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"`goldsmith build {recipe}` ended with {done.returncode}:\n{done.stderr}", pytrace=False)
    return out


def tools_of(release: Path, recipe: str) -> Tools:
    """Return the toolbox that a release was built with."""
    return unpack_toolbox(read_lock(release / "lock.json", recipe=recipe), Store.default())


def disk_launch(release: Path, recipe: str) -> Launch:
    """Return a release's first disk boot."""
    manifest, lock = manifests.load(release), read_lock(release / "lock.json", recipe=recipe)
    builds = firmware(manifest.firmware, lock, Store.default())
    return next(item for item in launches(manifest.platforms, builds) if item.boot is BootPath.DISK)


@pytest.fixture(scope="session")
def live(release: Path, tools: Tools, launch: Launch) -> Iterator[LiveMachine]:
    """The running machine."""
    with (
        tempfile.TemporaryDirectory(prefix="gs-live-", dir="/tmp") as name,
        live_machine(tools, launch, release / "disk.raw", Path(name)) as machine,
    ):
        yield machine


@pytest.fixture(scope="session")
def host(live: LiveMachine) -> Host:
    """The machine as its root sees it: with every capability, outside every sandbox."""
    return live_host(live.channel)


@pytest.fixture(scope="session")
def stranger(live: LiveMachine) -> Host:
    """The machine as a user without privileges, groups or account sees it."""
    return live_host(live.channel, user=STRANGER)
