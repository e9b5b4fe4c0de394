from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from dataclasses import replace

import pytest
from deb_samples import deb_of
from test_lockfile import GOOD, raw

from builder.artifacts import Archive
from builder.debian import open_archive
from builder.errors import ArchiveError, FetchError, ToolError
from builder.lockfile import parse_lock
from builder.store import Store
from builder.toolbox import check_libraries, unpack, unpack_toolbox


def link(target):
    return {"type": tarfile.SYMTYPE, "linkname": target}


def packages(tmp_path, *contents):
    opened = []
    for index, members in enumerate(contents):
        path = tmp_path / f"{index}.deb"
        path.write_bytes(deb_of(members, name=f"package{index}"))
        opened.append(open_archive(path, cache=None))
    return opened


def test_unpacks_into_usr_without_documentation(tmp_path):
    unpack(
        packages(
            tmp_path,
            [
                ("./", None),
                ("./bin/tool", {"mode": 0o4755, "size": 0}),
                ("./lib/x86_64-linux-gnu/libx.so.1.0", b"lib"),
                ("./lib64/ld.so", link("/lib/x86_64-linux-gnu/libx.so.1.0")),
                ("./usr/lib/x86_64-linux-gnu/libx.so.1", link("libx.so.1.0")),
                ("./usr/share/doc/x/copyright", b"text"),
                ("./usr/share/x/data", b"data"),
                ("./etc/x.conf", b""),
                ("./usr/share/empty/", None),
                ("./lib", link("usr/lib")),
            ],
        ),
        tmp_path / "out",
    )
    out = tmp_path / "out"
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir())
    assert found == [
        "etc/x.conf",
        "usr/bin/tool",
        "usr/lib/x86_64-linux-gnu/libx.so.1",
        "usr/lib/x86_64-linux-gnu/libx.so.1.0",
        "usr/lib64/ld.so",
        "usr/share/x/data",
    ]
    assert (out / "usr/lib64/ld.so").readlink().as_posix() == "../lib/x86_64-linux-gnu/libx.so.1.0"
    assert (out / "usr/lib64/ld.so").read_bytes() == b"lib"
    assert (out / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (out / "usr/share/x/data").stat().st_mode & 0o7777 == 0o644
    assert (out / "usr/share/empty").is_dir()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([("./a", link("../../etc"))], [], "leaves the root"),
        ([("./usr/a", link("/../../etc"))], [], "leaves the root"),
        ([("./d", link("/etc"))], [("./d/passwd", b"")], "lies below /d"),
        ([("./d", link("usr"))], [("./d/l", link("../../x"))], "leaves the root"),
        ([("./x/d", link("/y"))], [("./x/d/l", link("../../z"))], "lies below /x/d"),
        ([("./a", b"1")], [("./a", b"2")], "ships /a differently"),
        ([("./a", b"1")], [("./a", link("b"))], "ships /a differently"),
        ([("./a", link("b"))], [("./a", b"1")], "ships /a differently"),
        ([("./a", link("b"))], [("./a", link("c"))], "ships /a differently"),
        ([("./bin/a", b"1")], [("./usr/bin/a", b"2")], "ships /usr/bin/a differently"),
        ([("./null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], [], "is a device"),
    ],
)
def test_what_cannot_be_unpacked_safely_is_refused(tmp_path, first, second, message):
    (tmp_path / "etc").mkdir()
    with pytest.raises(ArchiveError, match=message):
        unpack(packages(tmp_path, first, second), tmp_path / "out" / "root")
    assert not list((tmp_path / "etc").iterdir())


def test_identical_files_of_two_packages_are_one(tmp_path):
    unpack(packages(tmp_path, [("./a", b"1")], [("./a", b"1")]), tmp_path / "out")
    assert (tmp_path / "out/a").read_bytes() == b"1"


def lock_with(*debs):
    archives = tuple(
        Archive(
            name=f"package{index}",
            version="1.0-1",
            architecture="amd64",
            path=f"pool/p{index}.deb",
            pocket="trixie",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for index, data in enumerate(debs)
    )
    names = tuple(f"{item.name}={item.version}" for item in archives)
    return replace(parse_lock(raw(GOOD)), archives=archives, sets={"toolbox": names})


def test_toolbox_is_unpacked_once_and_keyed_by_its_archives(tmp_path):
    store = Store(tmp_path / "store")
    debs = [deb_of([(f"./usr/bin/tool{index}", b"#!/bin/x\n")], name=f"package{index}") for index in range(6)]
    lock = lock_with(*debs)
    with pytest.raises(FetchError, match=r"package0 1\.0-1 is not in the store") as caught:
        unpack_toolbox(lock, store)
    assert caught.value.hint == "goldsmith fetch base"
    for data, archive in zip(debs, lock.archives, strict=True):
        store.put_stream([data], sha256=archive.sha256, size=archive.size)
    tools = unpack_toolbox(lock, store)
    assert tools.versions["package5"] == "1.0-1"
    assert tools.path("usr/bin/tool5").read_bytes() == b"#!/bin/x\n"
    stamp = tools.path("usr/bin").stat().st_mtime_ns
    assert unpack_toolbox(lock, store) == tools
    assert tools.path("usr/bin").stat().st_mtime_ns == stamp
    fewer = lock_with(*debs[:5])
    assert unpack_toolbox(fewer, store).root != tools.root
    with pytest.raises(ToolError, match="no program 'tool5'"):
        unpack_toolbox(fewer, store).command("tool5")


@pytest.mark.skipif(shutil.which("ls") is None, reason="needs an ELF program")
def test_a_library_that_would_come_from_the_host_is_named(tmp_path):
    program = tmp_path / "usr/bin/ls"
    program.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath(shutil.which("ls")), program)
    with pytest.raises(ArchiveError, match=r"libc\.so\.6 \(needed by usr/bin/ls\)"):
        check_libraries(tmp_path)
