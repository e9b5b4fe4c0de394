"""The trees of a built image, read back from the bytes that boot, and a testinfra host to look at them.

The root file system is extracted from disk.raw by erofs-utils, the initrd unpacked from the UKI's section by the
reader below (newc, Linux Documentation/driver-api/early-userspace/buffer-format.rst), which shares no code with
the writer. testinfra's commands run on this host, on paths below the extraction folders.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import zstandard

from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import unpack_toolbox
from builder.tools import Tools

ROOT = Path(__file__).parents[2]
_HEADER = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A release and its unpacked trees."""

    release: Path
    root: Path
    initrd: Path
    erofs: Path
    initrd_owners: frozenset[tuple[int, int]]
    tools: Tools

    def tree(self, name: str) -> Path:
        return {"root": self.root, "initrd": self.initrd}[name]

    def erofs_entry(self, path: str) -> str:
        """What dump.erofs says about a path: owner, permissions, extended attributes."""
        return self.tools.run("dump.erofs", f"--path={path}", self.erofs).stdout.decode()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """recipes/base, built for these tests."""
    return _build("base", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def scratch_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """tests/recipes/scratch: the base image with common/scratch and a unit that uses it."""
    return _build("tests/recipes/scratch", tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def gpu_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """recipes/gpu-cc."""
    return _build("gpu-cc", tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="session")
def host() -> testinfra.host.Host:
    return testinfra.get_host("local://")


def _build(recipe: str, folder: Path) -> Image:
    command = Path(sys.executable).with_name("goldsmith")
    release = folder / "release"
    done = subprocess.run(
        [command, "build", recipe, "--out", release],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"`goldsmith build {recipe}` ended with {done.returncode}:\n{done.stderr}", pytrace=False)
    tools = unpack_toolbox(read_lock(release / "lock.json", recipe=Path(recipe).name), Store.default())
    manifest = manifests.load(release)
    erofs = folder / "root.erofs"
    erofs.write_bytes(_part(release, manifest, "disk.raw", "root file system"))
    tools.run("fsck.erofs", f"--extract={folder / 'root'}", "--preserve-perms", "--no-preserve-owner", erofs)
    initrd = _part(release, manifest, "uki.efi", "uki .initrd")
    owners = _unpack(zstandard.ZstdDecompressor().decompressobj().decompress(initrd), folder / "initrd")
    return Image(
        release=release, root=folder / "root", initrd=folder / "initrd", erofs=erofs, initrd_owners=owners,
        tools=tools,
    )  # fmt: skip


def _part(release: Path, manifest: manifests.Manifest, file: str, name: str) -> bytes:
    (place,) = [part for part in manifest.parts if (part.file, part.name) == (file, name)]
    with (release / file).open("rb") as handle:
        handle.seek(place.offset)
        return handle.read(place.size)


def _unpack(archive: bytes, target: Path) -> frozenset[tuple[int, int]]:
    """Write a newc archive's files below ``target`` and return every owner in it."""
    owners, offset, folders = set(), 0, []
    while True:
        header = archive[offset : offset + _HEADER]
        assert header[:6] == b"070701", f"no newc header at {offset}"
        field = [int(header[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        mode, uid, gid, size, name_size = field[1], field[2], field[3], field[6], field[11]
        name = archive[offset + _HEADER : offset + _HEADER + name_size - 1].decode()
        start = -(-(offset + _HEADER + name_size) // 4) * 4
        content = archive[start : start + size]
        offset = -(-(start + size) // 4) * 4
        if name == "TRAILER!!!":
            break
        owners.add((uid, gid))
        path = target / name
        match mode >> 12:
            case 0o04:
                path.mkdir()
                folders.append((path, mode & 0o7777))
            case 0o10:
                path.write_bytes(content)
                path.chmod(mode & 0o7777)
            case 0o12:
                path.symlink_to(os.fsdecode(content))
            case kind:
                pytest.fail(f"the initrd holds {name}, which is no file, folder or link ({kind:o})")
    for path, mode in folders:  # last, or a closed folder would not take its files
        path.chmod(mode)
    return frozenset(owners)
