"""Through the toolbox: what fsck.erofs reads back, and the root hash computed a second way."""

import hashlib
import os
import struct

import pytest

from builder.errors import ImageError, ToolError
from builder.image.erofs import build_erofs
from builder.image.identity import root_identity
from builder.image.verity import format_verity

pytestmark = pytest.mark.integration

IDENTITY = root_identity("sample", "1")


def dm_verity(data, salt):
    """Return (tree, root hash): Linux, admin-guide/device-mapper/verity, "Hash Tree", format 1."""

    def hashes(blocks):
        level = b"".join(
            hashlib.sha256(salt + blocks[at : at + 4096]).digest() for at in range(0, len(blocks), 4096)
        )
        return level + bytes(-len(level) % 4096)

    levels = [hashes(data)]
    while len(levels[-1]) > 4096:
        levels.append(hashes(levels[-1]))
    return b"".join(reversed(levels)), hashlib.sha256(salt + levels[-1]).hexdigest()


@pytest.fixture
def image(tree, tools, tmp_path):
    return build_erofs(tree, uuid=IDENTITY.erofs_uuid, tools=tools, workdir=tmp_path)


def test_fsck_reads_every_node_back(tree, tools, tmp_path, image):
    out = tmp_path / "out"
    privileged = os.geteuid() == 0  # device nodes and owners can be made only then
    if not privileged:
        tree.remove("/dev/console")
        image = build_erofs(tree, uuid=IDENTITY.erofs_uuid, tools=tools, workdir=tmp_path)
    owner = "--preserve-owner" if privileged else "--no-preserve-owner"
    tools.run("fsck.erofs", f"--extract={out}", "--preserve-perms", owner, image)
    found = {"/" + os.path.relpath(os.path.join(base, name), out)
             for base, folders, files in os.walk(out) for name in folders + files} | {"/"}  # fmt: skip
    assert found == {path for path, _ in tree.items()}
    for path, node in tree.items():
        real = out / path[1:]
        status = real.lstat()
        if node.kind == "symlink":
            assert os.readlink(real) == node.target
            continue
        assert status.st_mode & 0o7777 == node.mode, path
        if privileged:
            assert (status.st_uid, status.st_gid) == (node.uid, node.gid), path
        if node.kind == "file":
            assert real.read_bytes() == bytes(node.content)
            assert status.st_mtime == tools.source_date_epoch
        elif node.kind == "character-device":
            assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == node.device


def test_superblock(tools, image):
    # Linux, fs/erofs/erofs_fs.h, struct erofs_super_block: at 1024, block size bits at 12, UUID at 48.
    block = image.read_bytes()[1024:1152]
    assert struct.unpack_from("<I", block)[0] == 0xE0F5E1E2
    assert block[12] == 12
    assert struct.unpack_from("<Q", block, 24)[0] == tools.source_date_epoch
    assert block[48:64] == IDENTITY.erofs_uuid.bytes


def test_root_hash_and_tree(tools, tmp_path, image):
    verity = format_verity(image, identity=IDENTITY, tools=tools, workdir=tmp_path)
    tree, root_hash = dm_verity(image.read_bytes(), IDENTITY.verity_salt)
    assert verity.root_hash == root_hash
    written = verity.hash_tree.read_bytes()
    assert written[4096:] == tree
    # cryptsetup wiki, DMVerity, "Verity superblock format".
    assert written[:8] == b"verity\0\0"
    assert struct.unpack_from("<II", written, 8) == (1, 1)
    assert written[16:32] == IDENTITY.verity_uuid.bytes
    assert written[32:64] == b"sha256".ljust(32, b"\0")
    assert struct.unpack_from("<IIQH", written, 64) == (4096, 4096, image.stat().st_size // 4096, 32)
    assert written[88:120] == IDENTITY.verity_salt
    tools.run("veritysetup", "verify", verity.data, verity.hash_tree, verity.root_hash)


def test_more_than_one_level(tools, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(os.urandom(4096 * 200))
    verity = format_verity(data, identity=IDENTITY, tools=tools, workdir=tmp_path)
    tree, root_hash = dm_verity(data.read_bytes(), IDENTITY.verity_salt)
    assert (verity.root_hash, verity.hash_tree.read_bytes()[4096:]) == (root_hash, tree)


def test_a_flipped_bit_is_found(tools, tmp_path, image):
    verity = format_verity(image, identity=IDENTITY, tools=tools, workdir=tmp_path)
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    with pytest.raises(ToolError):
        tools.run("veritysetup", "verify", verity.data, verity.hash_tree, verity.root_hash)


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_partial_blocks_are_refused(tools, tmp_path, size):
    data = tmp_path / "data"
    data.write_bytes(bytes(size))
    with pytest.raises(ImageError, match="whole blocks"):
        format_verity(data, identity=IDENTITY, tools=tools, workdir=tmp_path)
