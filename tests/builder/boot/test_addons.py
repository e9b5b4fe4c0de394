"""Add-ons, and disks that carry them: what the stub will find, read back by other tools than those that wrote it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.artifacts import Verity
from builder.boot import addons
from builder.boot.addons import build_addon, extended_disk
from builder.boot.debug import COMMAND_LINE
from builder.disks import read_partition_table
from builder.errors import BootError, ToolError, UsageError
from builder.image.disk import assemble_disk
from builder.image.esp import build_esp
from builder.image.identity import disk_identity
from builder.lockfile import read_lock
from builder.store import Store
from builder.toolbox import unpack_toolbox
from builder.tools import Tools
from measurements.formats import pe

LOCK = Path(__file__).parents[3] / "recipes/base/lock.json"


@pytest.fixture(scope="module")
def tools() -> Tools:
    lock, store = read_lock(LOCK, recipe="base"), Store.default()
    if any(store.get(item.sha256, item.size) is None for item in lock.members("toolbox")):
        pytest.skip("the store holds no toolbox")
    return unpack_toolbox(lock, store)


def sections(addon: Path) -> dict[str, bytes]:
    data = addon.read_bytes()
    return {
        each.name: data[each.raw_offset : each.raw_offset + each.virtual_size]
        for each in pe.parse(data).sections
    }


def test_an_addon_carries_what_it_was_given_and_no_kernel(tools, tmp_path):
    found = sections(
        build_addon(tools, tmp_path, name="x", command_line=COMMAND_LINE, initrd=b"070701 archive")
    )
    assert found[".initrd"] == b"070701 archive"
    assert found[".cmdline"].rstrip(b"\0").decode() == COMMAND_LINE
    assert ".linux" not in found and b"addon" in found[".sbat"]


def test_an_addon_that_carries_nothing(tools, tmp_path):
    with pytest.raises(UsageError, match="neither"):
        build_addon(tools, tmp_path, name="x")


def test_an_addon_is_signed_by_whoever_signs(tools, tmp_path):
    addon = build_addon(tools, tmp_path, name="x", initrd=b"x", sign=lambda image: image + b"signed")
    assert addon.read_bytes().endswith(b"signed")


@pytest.fixture
def disk(tools, tmp_path) -> Path:
    """A disk with an ESP as a release has it, around a program of 30 MiB."""
    uki, data, tree = (tmp_path / name for name in ("uki.efi", "data", "tree"))
    uki.write_bytes(bytes(30 << 20))
    for part in (data, tree):
        part.write_bytes(bytes(4096))
    esp = build_esp(uki, volume_id=1, tools=tools, workdir=tmp_path)
    verity = Verity(data=data, hash_tree=tree, root_hash="5f" * 32, salt="", uuid="")
    return assemble_disk(
        esp, verity, identity=disk_identity("5f" * 32, bytes(32)), output=tmp_path / "disk.raw"
    )


def test_a_copy_carries_the_companions_beside_the_uki(tools, disk, tmp_path):
    before = disk.read_bytes()
    companions = [tmp_path / "one.addon.efi", tmp_path / "two.raw"]
    for companion in companions:
        companion.write_bytes(companion.name.encode())
    copy = extended_disk(tools, disk, tmp_path / "copy.raw", companions)
    assert disk.read_bytes() == before
    table = read_partition_table(copy)
    image = f"{copy}@@{table.partitions[0].first_lba * table.sector_size}"
    for companion in companions:  # systemd-stub(7): FOO.efi.extra.d beside FOO.efi
        done = tools.run("mtype", "-i", image, f"::/EFI/BOOT/BOOTX64.EFI.extra.d/{companion.name}")
        assert done.stdout == companion.read_bytes()


def test_what_does_not_fit_is_an_error(tools, disk, tmp_path):
    large = tmp_path / "large.raw"
    large.write_bytes(bytes(40 << 20))
    with pytest.raises(ToolError):
        extended_disk(tools, disk, tmp_path / "copy.raw", [large])


def test_a_disk_without_esp(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(
        addons, "read_partition_table", lambda _: SimpleNamespace(partitions=(), sector_size=512)
    )
    with pytest.raises(BootError, match="no EFI system partition"):
        extended_disk(tools, tmp_path / "disk.raw", tmp_path / "copy.raw", [tmp_path / "x.addon.efi"])
