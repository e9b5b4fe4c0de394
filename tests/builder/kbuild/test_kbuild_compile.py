"""Compiling modules: with the locked compiler, for the locked kernel, from a source of some lines."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import ArchiveError, ComposeError, ToolError
from builder.kbuild.check import read_symvers
from builder.kbuild.compile import check_modules, compile_modules, unpack_source
from builder.kbuild.sandbox import Sandbox
from builder.rootfs.kernel import kernel_image, vermagic

ROOT = Path(__file__).parents[3]
SOURCE = b"""
#include <linux/module.h>
static int __init sample_init(void) { WARN_ON(!THIS_MODULE); pr_info("%s\\n", __FILE__); return 0; }
module_init(sample_init);
int sample_export(void) { return 1; }
EXPORT_SYMBOL_GPL(sample_export);
MODULE_LICENSE("GPL");
"""
USER = b"""
#include <linux/module.h>
int sample_export(void);
static int __init user_init(void) { return sample_export(); }
module_init(user_init);
MODULE_LICENSE("GPL");
"""
FILES = {
    "sample/sample.c": SOURCE,
    "sample/user.c": USER,
    "sample/Kbuild": b"obj-m := sample.o user.o\n",
}
MAKE = ("-C", "/usr/src/linux-headers-{release}", "M=/build/sample", "modules",
        "KCFLAGS=-ffile-prefix-map=/build/sample/=sample/")  # fmt: skip
MODULES = {"sample": "sample.ko", "user": "user.ko"}


@pytest.fixture
def build(compiler, kernel_entries, tar, tmp_path):
    release = kernel_image(kernel_entries).release

    def run(name="work", *, files=FILES, patches=(), make=MAKE, modules=MODULES, jobs=1, prepare=()):
        work = tmp_path / name
        work.mkdir()
        return compile_modules(
            tar(files), folder="sample", patches=patches, prepare=prepare, make=make, modules=modules,
            release=release, tools=compiler, work=work, jobs=jobs,
        )  # fmt: skip

    return run


@pytest.fixture
def kernel_symbols(compiler, kernel_entries):
    release = kernel_image(kernel_entries).release
    path = compiler.path(f"usr/src/linux-headers-{release}/Module.symvers")
    return read_symvers(path.read_text(), "Module.symvers")


def test_modules_are_for_this_kernel_and_for_each_other(build, kernel_entries, kernel_symbols):
    written = build()
    sample, user = check_modules(written, vermagic=vermagic(kernel_entries), kernel_symbols=kernel_symbols)
    assert (sample.name, user.name) == ("sample", "user")
    assert "_printk" in sample.imports and "sample_export" in user.imports
    with pytest.raises(ComposeError, match="imports sample_export, which neither"):
        check_modules(
            {**written, "Module.symvers": b""},
            vermagic=vermagic(kernel_entries),
            kernel_symbols=kernel_symbols,
        )


def test_surroundings_change_no_byte(build, monkeypatch):
    first = build("here")
    before = os.umask(0o077)
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    monkeypatch.setenv("KBUILD_BUILD_USER", "somebody")
    monkeypatch.setenv("KCFLAGS", "-O3")
    try:
        second = build("another-and-longer", jobs=4)
    finally:
        os.umask(before)
    assert first == second


@pytest.mark.parametrize(
    "command",
    [
        "echo > /usr/mark",
        "echo > /etc/mark",
        "exec 3<>/dev/tcp/127.0.0.1/80 || exit 1",
        "test $(id -u) = 0",
        "test -e /sys/kernel",
        "test -e /root",
        "test $(uname -n) != build",
    ],
)
def test_the_sandbox_is_closed(compiler, tmp_path, command):
    with pytest.raises(ToolError):
        Sandbox(tools=compiler, work=tmp_path).run(["sh", "-c", command])


def test_commands_see_a_closed_environment(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    said = Sandbox(tools=compiler, work=tmp_path).run(["env"]).stdout.decode()
    assert {line.partition("=")[0] for line in said.split()} <= {
        "PATH", "HOME", "LC_ALL", "TZ", "SOURCE_DATE_EPOCH", "PWD",
    }  # fmt: skip


def test_a_host_without_namespaces_is_told_what_can_be_done(compiler, tmp_path):
    """In a user namespace of its own a process may forbid further ones (namespaces(7), max_user_namespaces)."""
    code = f"""
from pathlib import Path
from builder.errors import ToolError
from builder.kbuild.sandbox import Sandbox
from builder.tools import Tools
Path("/proc/sys/user/max_user_namespaces").write_text("0")
try:
    Sandbox(tools=Tools(root=Path({str(compiler.root)!r})), work=Path({str(tmp_path)!r})).run(["true"])
except ToolError as error:
    print(error, error.hint, sep="\\n")
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "gives no user namespaces" in done.stdout, done.stderr
    assert "max_user_namespaces" in done.stdout and "make image RECIPE=base" in done.stdout


def test_a_patch_means_this_very_source(build):
    patch = b"--- a/user.c\n+++ b/user.c\n@@ -1,2 +1,2 @@\n \n-#include <linux/other.h>\n+#include <linux/module.h>\n"
    with pytest.raises(ToolError, match=r"fix\.patch does not apply to /usr/src/sample\.tar"):
        build(patches=[("fix.patch", patch)])


def test_another_kernels_module_is_refused(build, kernel_symbols):
    with pytest.raises(ComposeError, match=r"the image's kernel is '6\.1'"):
        check_modules(build(), vermagic="6.1", kernel_symbols=kernel_symbols)


def test_a_changed_interface_is_refused(build, kernel_entries, kernel_symbols):
    changed = {**kernel_symbols, "_printk": kernel_symbols["_printk"] ^ 1}
    with pytest.raises(ComposeError, match="imports _printk with CRC"):
        check_modules(build(), vermagic=vermagic(kernel_entries), kernel_symbols=changed)


def test_a_module_of_another_name_is_refused(build, kernel_entries, kernel_symbols):
    written = build(modules={"other": "sample.ko"})
    with pytest.raises(ComposeError, match="calls itself 'sample'"):
        check_modules(written, vermagic=vermagic(kernel_entries), kernel_symbols=kernel_symbols)


def test_what_make_did_not_write(build):
    with pytest.raises(ComposeError, match=r"did not write gone\.ko"):
        build(modules={"gone": "gone.ko"})


def test_a_link_out_of_the_sandbox_is_not_followed(build):
    with pytest.raises(ComposeError, match="out of the sandbox"):
        build(prepare=[("ln", "-s", "/etc/hostname", "secret.ko")], modules={"secret": "secret.ko"})


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)]
)
def test_sources_are_unpacked(tar, tmp_path, suffix, compress):
    entry = tar({"a/file": b"x", "a/link": "-> file"})
    entry = replace(entry, path=entry.path + suffix, content=memoryview(compress(bytes(entry.content))))
    unpack_source(entry, tmp_path)
    assert (tmp_path / "a/link").read_bytes() == b"x"


def test_a_file_below_a_link_stays_inside(tar, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    with pytest.raises(ArchiveError, match="below a link"):
        unpack_source(tar({"a": f"-> {outside}", "a/b": "-> c"}), target)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["x.tar.xz", "x.tar.gz", "x.tar"])
def test_a_damaged_source(tar, tmp_path, name):
    entry = replace(tar({"a": b"x"}), path=f"/{name}", content=memoryview(b"\xfd7zXZ\0\0\4 not" * 60))
    with pytest.raises(ArchiveError):
        unpack_source(entry, tmp_path)
