"""The audit's readers against what other tools wrote and read, and against damaged bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import stat
import struct
from functools import cache
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.audit.readers.cpio import read_cpio, read_initrd
from builder.audit.readers.erofs import read_erofs
from builder.audit.readers.fat import read_fat32
from builder.audit.readers.tree import File, FileTree
from builder.audit.readers.verity import read_hash_tree
from measurements.errors import FormatError

VECTORS = Path(__file__).parents[2] / "vectors" / "erofs"
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def vector(name: str) -> bytes:
    return lzma.decompress((VECTORS / f"{name}.erofs.xz").read_bytes())


def entry(name: str, mode: int, content: bytes = b"", *, nlink: int = 1, uid: int = 0) -> bytes:
    """One newc entry (Linux, driver-api/early-userspace/buffer-format.rst)."""
    raw = name.encode() + b"\0"
    fields = (1, mode, uid, 0, nlink, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


END = entry("TRAILER!!!", 0)
ARCHIVE = (
    entry(".", 0o40755)
    + entry("usr", 0o40755)
    + entry("usr/x", 0o104755, b"x" * 5, uid=7)
    + entry("l", 0o120777, b"usr/x")
    + END
)


@pytest.mark.parametrize("name", ["compact", "plain"])
def test_erofs_is_what_fsck_extracts(name):
    """vectors/README.md: what fsck.erofs 1.8.6, as root, made of the image; owners and modes included."""
    found = read_erofs(memoryview(vector(name)))
    expected = json.loads((VECTORS / "expected.json").read_text())
    assert len(found.tree) == 415
    assert found.times == {1_700_000_000}
    assert str(found.uuid) == "00112233-4455-6677-8899-aabbccddeeff"
    for path, wanted in expected.items():
        file = found.tree.get(path)
        assert file is not None, path
        assert (file.uid, file.gid) == (wanted["uid"], wanted["gid"]), path
        if file.is_link:
            assert file.target == wanted["content"]
            continue
        assert file.mode == int(wanted["mode"], 8), path
        if file.is_file:
            assert hashlib.sha256(file.content).hexdigest() == wanted["content"], path


@pytest.mark.parametrize("name", ["compact", "plain"])
def test_capabilities_come_from_the_inode(name):
    """capability.h: VFS_CAP_REVISION_2, CAP_NET_RAW permitted, as the archive that mkfs.erofs read had it."""
    tree = read_erofs(memoryview(vector(name))).tree
    with_xattrs = {path: dict(file.xattrs) for path, file in tree.items() if file.xattrs}
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    expected = {"security.capability": capability}
    assert with_xattrs == {"/bin/ping": expected, "/bin/ping6": expected}


@pytest.mark.parametrize("size", [0, 1024, 4096, 50_000])
def test_a_cut_erofs_is_refused(size):
    with pytest.raises(FormatError):
        read_erofs(memoryview(vector("compact")[:size]))


def test_unknown_features_of_erofs_are_refused():
    image = bytearray(vector("plain"))
    image[1024 + 8 : 1024 + 12] = bytes(4)  # no checksum, so that the feature is what is found
    struct.pack_into("<I", image, 1024 + 80, 0x4)
    with pytest.raises(FormatError, match="features 0x4"):
        read_erofs(memoryview(image))


@fuzz
@given(st.data(), st.sampled_from(["compact", "plain"]))
def test_damaged_erofs_never_escapes(data, name):
    image = bytearray(vector(name))
    inodes = struct.unpack_from("<I", image, 1024 + 40)[0] * 4096
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.one_of(st.integers(1024, 1151), st.integers(inodes, len(image) - 1)))
        image[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        image[1024 + 8 : 1024 + 12] = bytes(4)
    with contextlib.suppress(FormatError):
        read_erofs(memoryview(image))


@pytest.fixture(scope="module")
def esp() -> bytearray:
    """vectors/README.md: a FAT32 that mkfs.vfat and mtools wrote."""
    return bytearray(lzma.decompress((VECTORS.parent / "fat" / "small.img.xz").read_bytes()))


def test_fat_has_every_file(esp):
    found = {file.path: file.content for file in read_fat32(memoryview(esp))}
    assert found == {
        "/EFI/BOOT/BOOTX64.EFI": b"first\n" * 1000,
        "/EFI/BOOT/BOOTX64.EFI.EXTRA.D/A RATHER LONG NAME.ADDON.EFI": b"second\n",
        "/EMPTY.TXT": b"",
    }


@fuzz
@given(st.data())
def test_damaged_fat_never_escapes(esp, data):
    reserved, sectors = struct.unpack_from("<H", esp, 14)[0], struct.unpack_from("<I", esp, 36)[0]
    tables, files = reserved * 512, (reserved + 2 * sectors) * 512
    places = st.one_of(
        st.integers(0, 90), st.integers(tables, tables + 200), st.integers(files, files + 4096)
    )
    before = {}
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(places)
        before.setdefault(place, esp[place])
        esp[place] = data.draw(st.integers(0, 255))
        if tables <= place < files:  # both copies, so that it is not found at once
            before.setdefault(place + sectors * 512, esp[place + sectors * 512])
            esp[place + sectors * 512] = esp[place]
    try:
        with contextlib.suppress(FormatError):
            read_fat32(memoryview(esp))
    finally:
        for place, byte in before.items():
            esp[place] = byte


@fuzz
@given(st.binary(max_size=9000))
def test_random_bytes_are_no_image(data):
    for read in (read_erofs, read_fat32):
        with pytest.raises(FormatError):
            read(memoryview(data))
    with pytest.raises(FormatError):
        read_hash_tree(memoryview(bytes(8192)), memoryview(data))
    for read in (read_initrd, read_cpio):
        with pytest.raises(FormatError):
            read(data)


def test_newc():
    tree = read_cpio(ARCHIVE)
    assert {path: (file.mode, file.uid, file.content) for path, file in tree.items()} == {
        "/": (0o40755, 0, b""),
        "/l": (0o120777, 0, b"usr/x"),
        "/usr": (0o40755, 0, b""),
        "/usr/x": (0o104755, 7, b"x" * 5),
    }
    assert tree.text("/l") == "xxxxx"
    assert len(read_initrd(zstandard.compress(ARCHIVE) + bytes(512))) == 4


@pytest.mark.parametrize(
    "archive",
    [
        ARCHIVE + ARCHIVE,  # the kernel unpacks the second over the first
        ARCHIVE[: -len(END)],
        entry(".", 0o40755) + entry("../x", 0o100644) + END,
        entry(".", 0o40755) + entry("x", 0o100644) + entry("x", 0o100644) + END,
        entry(".", 0o40755) + entry("a/b", 0o100644) + END,
        entry(".", 0o40755) + entry("a", 0o120777, b"/etc") + entry("a/b", 0o100644) + END,
        entry(".", 0o40755) + entry("x", 0o100644, nlink=2) + END,
        entry(".", 0o40755) + entry("", 0o100644) + END,
    ],
)
def test_archives_that_hide_something_are_refused(archive):
    with pytest.raises(FormatError):
        read_cpio(archive)


def test_bytes_around_the_initrd_are_refused():
    frame = zstandard.compress(ARCHIVE)
    for section in (frame + frame, b"\0" * 4 + frame, frame[:-3], ARCHIVE):
        with pytest.raises(FormatError):
            read_initrd(section)


@fuzz
@given(st.data())
def test_damaged_archives_never_escape(data):
    archive = bytearray(ARCHIVE)
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        read_cpio(bytes(archive))


def test_hash_tree_of_two_levels():
    """cryptsetup-2.6.1 `veritysetup format --salt=…` over 200 zero blocks and one of bytes 01 gave this root hash."""
    salt = bytes.fromhex("00112233")
    data = bytes(200 * 4096) + b"\1" * 4096
    superblock = b"verity\0\0" + struct.pack("<II", 1, 1) + bytes(16) + b"sha256".ljust(32, b"\0")
    superblock += struct.pack("<IIQH6x", 4096, 4096, 201, len(salt)) + salt
    level = b"".join(hashlib.sha256(salt + data[at : at + 4096]).digest() for at in range(0, len(data), 4096))
    level += bytes(-len(level) % 4096)
    top = b"".join(hashlib.sha256(salt + level[at : at + 4096]).digest() for at in range(0, len(level), 4096))
    top += bytes(-len(top) % 4096)
    partition = superblock.ljust(4096, b"\0") + top + level
    found = read_hash_tree(memoryview(data), memoryview(partition + bytes(4096)))
    assert found.root_hash == ROOT_HASH
    assert (found.stored, found.rest_is_zero, found.data_size) == (True, True, len(data))
    damaged = bytearray(partition)
    damaged[-1] ^= 1
    assert not read_hash_tree(memoryview(data), memoryview(damaged)).stored
    assert not read_hash_tree(memoryview(data), memoryview(partition + b"x")).rest_is_zero


ROOT_HASH = "c6e299d24820c18f6024939a548ff53f4330f96936fab6df2b94d2b1a51efd21"


def test_trees_follow_links_as_the_kernel_does():
    folder, file = File(mode=stat.S_IFDIR | 0o755), File(mode=stat.S_IFREG | 0o644, content=b"x")

    def link(target: str) -> File:
        return File(mode=stat.S_IFLNK | 0o777, content=target.encode())

    tree = FileTree(
        {"/": folder, "/usr": folder, "/usr/x": file, "/lib": link("usr"), "/up": link("../../lib/x"),
         "/loop": link("loop"), "/gone": link("/nowhere")}
    )  # fmt: skip
    assert tree.resolve("/lib/../lib/./x") == "/usr/x"
    assert tree.text("/up") == "x"
    assert tree.resolve("/loop") is None and tree.resolve("/gone") is None
    assert tree.children("/usr") == ("/usr/x",)
    assert tree.get("/lib/x") is None
