from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import zstandard
from rootfs_samples import module, package

from builder.errors import ComposeError
from builder.rootfs.kernel import KernelPackage, check_index, install_modules, kernel_image
from builder.tools import Completed, Tools
from builder.tree import Tree

FOLDER = "/usr/lib/modules/6.12-cloud"
FILES = {
    "/boot/vmlinuz-6.12-cloud": b"MZkernel",
    "/boot/config-6.12-cloud": b"#\nCONFIG_MODULE_DECOMPRESS=y\n",
    f"{FOLDER}/modules.builtin": b"kernel/fs/ext4.ko\n",
    f"{FOLDER}/modules.builtin.modinfo": b"crc32c_generic.license=GPL\0crc32c_generic.alias=crc32c\0",
    f"{FOLDER}/modules.order": b"kernel/drivers/md/dm-verity.ko\n",
    f"{FOLDER}/kernel/drivers/md/dm-verity.ko.xz": lzma.compress(
        module(
            depends="dm-mod,dm-bufio",
            softdep="pre: sha256 crc32c post: fec",
            weakdep="weak",
            firmware=["fw/a.bin"],
        )
    ),
    f"{FOLDER}/kernel/drivers/md/dm-mod.ko.zst": zstandard.compress(module(depends="ext4")),
    f"{FOLDER}/kernel/drivers/md/dm-bufio.ko": module(depends="dm-mod"),
    f"{FOLDER}/kernel/crypto/sha256.ko": module(),
    f"{FOLDER}/kernel/lib/weak.ko": module(),
    f"{FOLDER}/kernel/net/broken.ko": module(depends="nowhere"),
    f"{FOLDER}/kernel/net/noise.ko.xz": b"no xz",
    f"{FOLDER}/kernel/net/cut.ko.xz": lzma.compress(module())[:-20],
    f"{FOLDER}/kernel/net/data.ko": b"no ELF",
}


class Depmod(Tools):
    """Stands in for depmod: an index of the files it finds, as modules.dep(5) lays it out."""

    def run(self, program, *arguments, **_):
        assert (program, arguments[0], arguments[2]) == ("depmod", "-b", "6.12-cloud")
        folder = Path(arguments[1]) / FOLDER[1:]
        assert (folder / "modules.order").exists() and (folder / "modules.builtin.modinfo").exists()
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ko*"))
        (folder / "modules.dep").write_text("".join(f"{name}:\n" for name in found))
        (folder / "modules.alias").write_bytes(b"# aliases\n")
        return Completed(stdout=b"", stderr=b"")


def kernel(**changes):
    archive, entries = package("linux-image", {**FILES, **changes})
    return KernelPackage(archive=archive, entries=entries)


def installed(tmp_path, *names, **changes):
    tree = Tree()
    made = install_modules(tree, kernel(**changes), names, tools=Depmod(root=None), workdir=tmp_path)
    return tree, made


def test_the_kernel_and_its_release():
    found = kernel_image(kernel().entries)
    assert (found.release, found.image) == ("6.12-cloud", b"MZkernel")
    with pytest.raises(ComposeError, match="ships 0 files"):
        kernel_image([])
    with pytest.raises(ComposeError, match="ships 2 files"):
        kernel_image(kernel(**{"/boot/vmlinuz-6.13": b""}).entries)


def test_only_the_closure_of_the_allowlist_is_installed(tmp_path):
    tree, made = installed(tmp_path, "dm_verity", "ext4")
    assert made.names == ("dm_bufio", "dm_mod", "dm_verity", "sha256")
    assert made.firmware == ("fw/a.bin",)
    assert set(made.notes) == {
        "module ext4 is built into the kernel",
        "module dm_verity would load fec if it were there",
        "module dm_verity names weak as a weak dependency, which is left out",
    }
    assert {path.removeprefix(f"{FOLDER}/") for path, _ in tree.items() if path.startswith(f"{FOLDER}/")} == {
        "kernel", "kernel/crypto", "kernel/crypto/sha256.ko", "kernel/drivers", "kernel/drivers/md",
        "kernel/drivers/md/dm-bufio.ko", "kernel/drivers/md/dm-mod.ko.zst", "kernel/drivers/md/dm-verity.ko.xz",
        "modules.alias", "modules.builtin", "modules.dep", "modules.order",
    }  # fmt: skip
    assert tree[f"{FOLDER}/modules.dep"].origin.kind == "generated"
    assert tree[f"{FOLDER}/modules.order"].origin.name == "linux-image"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_installed_for_an_empty_list(tmp_path):
    assert len(installed(tmp_path)[0]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dm-verty", "lists the module dm_verty"),
        ("broken", "module broken depends on nowhere"),
        ("noise", r"noise\.ko\.xz: damaged or truncated"),
        ("cut", r"cut\.ko\.xz: damaged or truncated"),
        ("data", r"data\.ko: not a kernel module"),
    ],
)
def test_modules_that_cannot_be_had(tmp_path, name, message):
    with pytest.raises(ComposeError, match=message):
        installed(tmp_path, name)


def test_a_near_name_is_suggested(tmp_path):
    with pytest.raises(ComposeError) as caught:
        installed(tmp_path, "dm-verty")
    assert "dm_verity" in caught.value.hint


def test_compressed_modules_need_someone_who_decompresses(tmp_path):
    config = {"/boot/config-6.12-cloud": b"#\n# CONFIG_MODULE_DECOMPRESS is not set\n"}
    with pytest.raises(ComposeError, match=r"dm-verity\.ko\.xz is compressed.*liblzma\.so\.5"):
        installed(tmp_path, "dm-verity", **config)
    assert installed(tmp_path, "sha256", **config)[1].names == ("sha256",)


def test_an_index_that_does_not_close():
    present = {"kernel/a.ko", "kernel/b.ko"}
    check_index(b"kernel/a.ko: kernel/b.ko\nkernel/b.ko:\n", present)
    with pytest.raises(ComposeError, match=r"kernel/a\.ko needs kernel/c\.ko"):
        check_index(b"kernel/a.ko: kernel/c.ko\nkernel/b.ko:\n", present)
    with pytest.raises(ComposeError, match=r"no line for kernel/b\.ko"):
        check_index(b"kernel/a.ko:\n", present)
