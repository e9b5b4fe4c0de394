import hashlib
import os
import time
from datetime import UTC, datetime

import pytest

from builder.artifacts import Verity
from builder.errors import ImageError
from builder.image import disk as disk_module
from builder.image.cpio import compress_initrd, write_cpio
from builder.image.disk import assemble_disk, convert_qcow2, identify, replace_partition
from builder.image.erofs import build_erofs
from builder.image.esp import build_esp
from builder.image.identity import disk_identity, root_identity
from builder.image.uki import build_uki
from builder.image.verity import format_verity
from measurements.formats import gpt

ROOT_HASH = "5f" * 32
IDENTITY = disk_identity(ROOT_HASH, bytes(32))
MIB = 1 << 20


@pytest.fixture
def parts(tmp_path):
    esp, data, tree = (tmp_path / name for name in ("esp", "data", "tree"))
    with esp.open("wb") as file:
        file.write(b"start")
        file.seek(20 * MIB)
        file.write(b"middle")
        file.truncate(34 * MIB)
    data.write_bytes(os.urandom(3 * MIB + 4096))
    tree.write_bytes(os.urandom(8192))
    return esp, Verity(data=data, hash_tree=tree, root_hash=ROOT_HASH, salt="", uuid="")


def contents(image):
    data = image.read_bytes()
    return [data[p.first_lba * 512 : (p.last_lba + 1) * 512] for p in gpt.parse(data).partitions]


@pytest.mark.parametrize("kernel_copies", [True, False])
def test_partitions_hold_the_parts(parts, tmp_path, monkeypatch, kernel_copies):
    if not kernel_copies:
        monkeypatch.setattr(disk_module, "_kernel_copy", lambda *_: 0)
    esp, verity = parts
    image = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "disk.raw")
    assert contents(image) == [part.read_bytes() for part in (esp, verity.data, verity.hash_tree)]
    data = image.read_bytes()
    assert len(data) == 41 * MIB
    assert data[-512:][:8] == b"EFI PART"


@pytest.mark.parametrize("kernel_copies", [True, False])
def test_another_partition_leaves_every_other_byte(parts, tmp_path, monkeypatch, kernel_copies):
    if not kernel_copies:
        monkeypatch.setattr(disk_module, "_kernel_copy", lambda *_: 0)
    esp, verity = parts
    image = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "disk.raw")
    before = image.read_bytes()
    entry = gpt.parse(before).partitions[0]
    start, end = entry.first_lba * 512, (entry.last_lba + 1) * 512
    content = tmp_path / "new"
    with content.open("wb") as file:  # holes where the old one has data, and the other way round
        file.seek(10 * MIB)
        file.write(b"elsewhere")
        file.truncate(end - start)
    other = replace_partition(image, content, offset=start, size=end - start, output=tmp_path / "other.raw")
    assert other.read_bytes() == before[:start] + content.read_bytes() + before[end:]
    assert image.read_bytes() == before


def test_a_partition_never_changes_its_size(parts, tmp_path):
    esp, verity = parts
    image = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "disk.raw")
    with pytest.raises(ImageError, match="the partition table is measured"):
        replace_partition(image, verity.hash_tree, offset=MIB, size=34 * MIB, output=tmp_path / "other.raw")
    assert not (tmp_path / "other.raw").exists()


def test_holes_stay_holes(parts, tmp_path):
    esp, verity = parts
    if esp.stat().st_blocks * 512 > 2 * MIB:
        pytest.skip("this file system has no holes")
    image = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "disk.raw")
    assert image.stat().st_blocks * 512 < 6 * MIB


def test_dense_parts_give_the_same_bytes(parts, tmp_path):
    esp, verity = parts
    sparse = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "sparse").read_bytes()
    esp.write_bytes(esp.read_bytes())
    assert assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "dense").read_bytes() == sparse


def test_failure_leaves_what_was_there(parts, tmp_path, monkeypatch):
    esp, verity = parts
    output = tmp_path / "disk.raw"
    output.write_bytes(b"the last good one")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_module, "_copy_range", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        assemble_disk(esp, verity, identity=IDENTITY, output=output)
    assert output.read_bytes() == b"the last good one"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.integration
def test_qcow2_has_the_same_content(parts, tmp_path, tools):
    esp, verity = parts
    raw = assemble_disk(esp, verity, identity=IDENTITY, output=tmp_path / "disk.raw")
    qcow2 = convert_qcow2(raw, output=tmp_path / "disk.qcow2", tools=tools)
    tools.run("qemu-img", "check", qcow2)
    tools.run("qemu-img", "convert", "-O", "raw", qcow2, tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()
    # A dense copy of the disk gives the same file: holes are the host's business.
    dense = tmp_path / "dense.raw"
    dense.write_bytes(raw.read_bytes())
    again = convert_qcow2(dense, output=tmp_path / "again.qcow2", tools=tools)
    assert again.read_bytes() == qcow2.read_bytes()


def build(tree, tools, workdir):
    workdir.mkdir(parents=True)
    identity = root_identity("sample", "1")
    initrd = compress_initrd(write_cpio(tree, source_date_epoch=tools.source_date_epoch))
    root = build_erofs(tree, uuid=identity.erofs_uuid, tools=tools, workdir=workdir)
    verity = format_verity(root, identity=identity, tools=tools, workdir=workdir)
    kernel = tools.path("usr/lib/systemd/boot/efi/addonx64.efi.stub").read_bytes()
    uki = build_uki(
        kernel,
        initrd,
        command_line=f"roothash={verity.root_hash}",
        os_release="ID=sample\n",
        uname="6.12",
        root_hash=verity.root_hash,
        tools=tools,
        workdir=workdir,
    )
    names = identify(verity, uki)
    esp = build_esp(uki, volume_id=names.fat_volume, tools=tools, workdir=workdir)
    raw = assemble_disk(esp, verity, identity=names, output=workdir / "disk.raw")
    convert_qcow2(raw, output=workdir / "disk.qcow2", tools=tools)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in workdir.iterdir()}


@pytest.mark.integration
def test_same_bytes_wherever_whenever_and_however(tree, tools, tmp_path, monkeypatch):
    first = build(tree, tools, tmp_path / "one")
    assert {"disk.raw", "disk.qcow2", "uki.efi", "esp.img", "root.erofs", "root.verity"} <= set(first)
    cpus = os.sched_getaffinity(0)
    started = datetime.now(UTC)
    umask = os.umask(0o077)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        time.sleep(2.1)  # FAT counts in steps of two seconds
        for name, value in {
            "TZ": "Pacific/Kiritimati", "LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8", "HOME": str(tmp_path),
            "SOURCE_DATE_EPOCH": "1", "TMPDIR": str(tmp_path), "MTOOLS_LOWER_CASE": "1", "COLUMNS": "40",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        time.tzset()
        monkeypatch.chdir("/")
        second = build(tree, tools, tmp_path / "a longer path, with spaces" / "two")
    finally:
        os.umask(umask)
        os.sched_setaffinity(0, cpus)
        monkeypatch.undo()
        time.tzset()
    assert datetime.now(UTC) > started
    assert second == first


@pytest.mark.integration
def test_one_byte_of_the_tree_moves_the_root_hash_and_every_guid(tree, tools, tmp_path):
    one = build(tree, tools, tmp_path / "one")
    node = tree["/usr/bin-old"]
    tree.replace(
        "/usr/bin-old", type(node)(kind=node.kind, mode=node.mode, origin=node.origin, content=b"olb\n")
    )
    two = build(tree, tools, tmp_path / "two")
    assert not set(one.values()) & set(two.values())
