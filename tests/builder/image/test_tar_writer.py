import io
import tarfile

import pytest

from builder.errors import ImageError
from builder.image.tar import tar_pieces
from builder.tree import Kind, Node, Origin, Tree

EPOCH = 1_760_000_000
ORIGIN = Origin(kind="package", name="sample", version="1")


def directory():
    return Node(kind=Kind.DIRECTORY, mode=0o755, origin=ORIGIN)


def file(content, **kwargs):
    return Node(kind=Kind.FILE, mode=0o644, origin=ORIGIN, content=content, **kwargs)


def read(tree):
    return tarfile.open(fileobj=io.BytesIO(b"".join(tar_pieces(tree, mtime=EPOCH))), mode="r:")


def test_every_node_comes_back(tree):
    archive = read(tree)
    members = {member.name: member for member in archive.getmembers()}
    types = {
        "file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE,
        "character-device": tarfile.CHRTYPE,
    }  # fmt: skip
    assert sorted(members) == sorted(path[1:] or "." for path, _ in tree.items())
    for path, node in tree.items():
        member = members[path[1:] or "."]
        assert (member.type, member.mode, member.uid, member.gid) == (
            types[node.kind], node.mode, node.uid, node.gid,
        )  # fmt: skip
        assert (member.mtime, member.uname, member.gname) == (EPOCH, "", "")
        assert member.linkname == node.target
        assert (member.devmajor, member.devminor) == node.device
        if node.kind == "file":
            assert archive.extractfile(member).read() == bytes(node.content)


def test_contents_are_passed_on_as_they_are():
    content = memoryview(bytes(10_000))
    tree = Tree()
    tree.add("/a", file(content))
    assert any(piece is content for piece in tar_pieces(tree, mtime=0))


@pytest.mark.parametrize("length", [*range(96, 104), *range(150, 160), *range(253, 260), 985, 995, 1000])
def test_long_names(length):
    tree = Tree()
    tree.add("/d", directory())
    for path in ("/" + "n" * length, "/d/" + "n" * length, "/s" + "ü" * (length // 2)):
        tree.add(path, file(b"x"))
    assert sorted(read(tree).getnames()) == sorted(path[1:] or "." for path in ["/", *dict(tree.items())])


def test_number_that_does_not_fit():
    tree = Tree()
    tree.add("/a", file(b"", uid=0o10000000))
    with pytest.raises(ImageError, match="'a': 2097152"):
        list(tar_pieces(tree, mtime=0))
