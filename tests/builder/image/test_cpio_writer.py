import pytest
import zstandard

from builder.errors import ImageError
from builder.image.cpio import compress_initrd, write_cpio
from builder.tree import Kind, Node, Origin, Tree

EPOCH = 1_760_000_000
ORIGIN = Origin(kind="package", name="sample", version="1")


def directory():
    return Node(kind=Kind.DIRECTORY, mode=0o755, origin=ORIGIN)


def file(content, **kwargs):
    return Node(kind=Kind.FILE, mode=0o644, origin=ORIGIN, content=content, **kwargs)


FIELDS = (
    "ino", "mode", "uid", "gid", "nlink", "mtime", "filesize", "devmajor", "devminor", "rdevmajor",
    "rdevminor", "namesize", "check",
)  # fmt: skip


def read_newc(data):
    """Read as driver-api/early-userspace/buffer-format says: 6 bytes of magic, 13 fields of 8 hex digits."""
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        text = data[position + 6 : position + 110]
        header = {name: int(text[8 * i : 8 * i + 8], 16) for i, name in enumerate(FIELDS)}
        name_end = position + 110 + header["namesize"]
        assert data[name_end - 1] == 0
        name = data[position + 110 : name_end - 1].decode()
        start = -(-name_end // 4) * 4
        assert not any(data[name_end:start])
        end = start + header["filesize"]
        if name == "TRAILER!!!":
            assert (end, start) == (len(data), len(data))
            return
        yield name, header, data[start:end]
        position = -(-end // 4) * 4


def test_every_node_comes_back(tree):
    found = {
        name: (header, body) for name, header, body in read_newc(write_cpio(tree, source_date_epoch=EPOCH))
    }
    assert sorted(found) == sorted(path[1:] or "." for path, _ in tree.items())
    types = {"file": 0o100000, "directory": 0o40000, "symlink": 0o120000, "character-device": 0o20000}
    for path, node in tree.items():
        header, body = found[path[1:] or "."]
        assert header["mode"] == types[node.kind] | node.mode
        assert (header["uid"], header["gid"]) == (node.uid, node.gid)
        assert (header["rdevmajor"], header["rdevminor"]) == node.device
        assert (header["mtime"], header["nlink"]) == (EPOCH, 1)
        assert (header["devmajor"], header["devminor"], header["check"]) == (0, 0, 0)
        assert body == (node.target.encode() or bytes(node.content))


def test_parents_precede_children_and_inodes_count(tree):
    seen = {""}
    for number, (name, header, _) in enumerate(read_newc(write_cpio(tree, source_date_epoch=0)), start=1):
        assert header["ino"] == number
        assert name == "." or name.rpartition("/")[0] in seen
        seen.add(name)


def test_empty_tree_is_a_root_and_a_trailer():
    entries = list(read_newc(write_cpio(Tree(), source_date_epoch=0)))
    assert [(name, header["mode"]) for name, header, _ in entries] == [(".", 0o40755)]


@pytest.mark.parametrize("level", [1, 9, 19])
def test_initrd_is_one_frame_with_size_checksum_and_a_window_every_decoder_takes(level):
    tree = Tree()
    content = bytes(12 << 20)
    tree.add("/big", file(content))
    plain = write_cpio(tree, source_date_epoch=0)
    packed = compress_initrd(write_cpio(tree, source_date_epoch=0), level=level)
    frame = zstandard.get_frame_parameters(packed)
    assert (frame.content_size, frame.has_checksum, frame.dict_id) == (len(plain), True, 0)
    assert frame.window_size <= 8 << 20
    decoder = zstandard.ZstdDecompressor().decompressobj()
    assert decoder.decompress(packed) == plain
    assert decoder.unused_data == b""


def test_bad_level(tree):
    for level in (0, 20, -1):
        with pytest.raises(ImageError, match="1 to 19"):
            compress_initrd(write_cpio(tree, source_date_epoch=0), level=level)


@pytest.mark.parametrize("number", [{"uid": -1}, {"gid": 1 << 32}])
def test_number_that_does_not_fit(number):
    tree = Tree()
    tree.add("/a", file(b"", **number))
    with pytest.raises(ImageError, match="'a' from sample 1"):
        write_cpio(tree, source_date_epoch=0)


@pytest.mark.parametrize("path", ["/a/../b", "/a//b", "/a/", "/nul\0"])
def test_bad_path(path):
    tree = Tree()
    tree.add("/a", directory())
    tree.add(path, file(b""))
    with pytest.raises(ImageError, match="normalised"):
        write_cpio(tree, source_date_epoch=0)


def test_missing_parent_and_parent_that_is_a_file():
    orphan, below_file = Tree(), Tree()
    orphan.add("/a/b", file(b""))
    below_file.add("/a", file(b""))
    below_file.add("/a/b", file(b""))
    with pytest.raises(ImageError, match="got nothing"):
        write_cpio(orphan, source_date_epoch=0)
    with pytest.raises(ImageError, match="got a file from sample"):
        write_cpio(below_file, source_date_epoch=0)
