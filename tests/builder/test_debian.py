from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile

import pytest
from deb_samples import COMPRESS, ar_of, deb_of, tar_of
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.debian import open_archive, parse_stanza, read_deb
from builder.errors import ArchiveError
from builder.store import Store
from builder.tar import read_tar
from builder.tree import Kind

LONG = "usr/share/" + "d" * 90 + "/" + "f" * 120
MEMBERS = [
    ("./", None),
    ("./usr/", None),
    ("./usr/bin/tool", b"program" * 100),
    ("./usr/bin/su", {"mode": 0o4755, "size": 0, "uid": 7, "gid": 8}),
    ("./usr/bin/alias", {"type": tarfile.SYMTYPE, "linkname": "tool"}),
    ("./usr/bin/hard", {"type": tarfile.LNKTYPE, "linkname": "./usr/bin/tool"}),
    (f"./{LONG}", b"long"),
    ("./usr/share/é", b""),
    ("./dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
]


def write(tmp_path, data, name="sample.deb"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", sorted(COMPRESS))
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("cached", [False, True])
def test_reads_what_tarfile_wrote(tmp_path, suffix, form, cached):
    path = write(tmp_path, deb_of(MEMBERS, suffix=suffix, form=form))
    archive = open_archive(path, cache=Store(tmp_path / "store") if cached else None)
    assert archive.control["Package"] == "sample"
    assert archive.control["Description"] == "a test\ntwo lines"
    assert archive.scripts == ("postinst",)
    entries = {entry.path: entry for entry in archive.entries()}
    assert list(entries)[:2] == ["/", "/usr"]
    assert bytes(entries["/usr/bin/tool"].content) == b"program" * 100
    assert (entries["/usr/bin/su"].mode, entries["/usr/bin/su"].uid, entries["/usr/bin/su"].gid) == (
        0o4755,
        7,
        8,
    )
    assert entries["/usr/bin/alias"].kind is Kind.SYMLINK
    assert entries["/usr/bin/alias"].target == "tool"
    assert entries["/usr/bin/hard"].kind is Kind.FILE
    assert bytes(entries["/usr/bin/hard"].content) == b"program" * 100
    assert bytes(entries[f"/{LONG}"].content) == b"long"
    assert "/usr/share/é" in entries
    assert entries["/dev/null"].device == (1, 3)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, an independent writer")
@pytest.mark.parametrize("compression", ["xz", "zstd", "gzip", "none"])
def test_reads_what_dpkg_deb_wrote(tmp_path, compression):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: made\nVersion: 2:1.0\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    (root / LONG).parent.mkdir(parents=True)
    (root / LONG).write_bytes(b"x" * 70_000)
    (root / "link").symlink_to("/" + LONG)
    path = tmp_path / "made.deb"
    done = subprocess.run(
        ["dpkg-deb", f"-Z{compression}", "--root-owner-group", "-b", root, path], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"this dpkg-deb cannot write {compression}")
    entries = {entry.path: entry for entry in read_deb(path, cache=None)}
    assert bytes(entries[f"/{LONG}"].content) == b"x" * 70_000
    assert entries["/link"].target == "/" + LONG
    assert {entry.uid for entry in entries.values()} == {0}


def test_second_read_takes_the_data_from_the_cache(tmp_path):
    data = deb_of(MEMBERS)
    store = Store(tmp_path / "store")
    path = store.put_stream([data], sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    first = open_archive(path, cache=store).data
    cached = list((store.root / "derived").rglob("data-tar-*/*"))
    assert [item.name for item in cached] == [path.name]
    stamp = cached[0].stat().st_mtime_ns
    assert open_archive(path, cache=store).data == first
    assert cached[0].stat().st_mtime_ns == stamp


@pytest.mark.parametrize("suffix", sorted(COMPRESS))
def test_every_truncation_is_an_archive_error(tmp_path, suffix):
    data = deb_of(MEMBERS[:4], suffix=suffix)
    whole = len(data) - (10_240 if suffix == "" else 1)  # less the tar's end marker, or ar's padding
    for end in {*range(0, whole, 37), whole - 1}:
        with pytest.raises(ArchiveError):
            list(read_deb(write(tmp_path, data[:end]), cache=None))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../etc/passwd", b"")], "leaves the root"),
        ([("./a/../../b", b"")], "leaves the root"),
        ([("./pipe", {"type": tarfile.FIFOTYPE})], "FIFO"),
        ([("./disk", {"type": tarfile.BLKTYPE})], "block device"),
        ([("./h", {"type": tarfile.LNKTYPE, "linkname": "./nothing"})], "hard link"),
    ],
)
def test_unsafe_members_are_refused(tmp_path, members, message):
    with pytest.raises(ArchiveError, match=message):
        list(read_deb(write(tmp_path, deb_of(members)), cache=None))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04" + bytes(100), "not a Debian archive"),
        (ar_of([("debian-binary", b"3.0\n")]), "format 2"),
        (ar_of([("debian-binary", b"2.0\n")]), "no control.tar"),
        (ar_of([("debian-binary", b"2.0\n"), ("control.tar.lz4", b"x"), ("data.tar", b"")]), "expected xz"),
        (
            ar_of([("debian-binary", b"2.0\n"), ("control.tar", tar_of([])), ("data.tar", b"")]),
            "no control file",
        ),
        (ar_of([("debian-binary", b"2.0\n"), ("data.tar", b""), ("data.tar", b"")]), "two members"),
    ],
)
def test_malformed_archives_are_named(tmp_path, data, message):
    with pytest.raises(ArchiveError, match=message):
        open_archive(write(tmp_path, data), cache=None)


def test_flipped_header_byte_is_found():
    raw = bytearray(tar_of([("./a", b"1")]))
    raw[100] ^= 1
    with pytest.raises(ArchiveError, match="checksum"):
        list(read_tar(memoryview(bytes(raw)), name="t"))


def test_a_stanza_with_a_field_twice_is_refused():
    with pytest.raises(ArchiveError):
        parse_stanza(b"Package: a\nPackage: b\n", "x")


def test_damaged_archive_leaves_nothing_in_the_cache(tmp_path):
    data = bytearray(deb_of([("./a", os.urandom(50_000))]))
    data[len(data) // 2] ^= 0xFF
    store = Store(tmp_path / "store")
    with pytest.raises(ArchiveError):
        open_archive(write(tmp_path, bytes(data)), cache=store)
    assert not [path for path in store.root.rglob("*") if path.is_file()]


SAMPLE = deb_of(MEMBERS, suffix="")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutations_read_or_fail_as_archive_errors(tmp_path_factory, edits):
    data = bytearray(SAMPLE)
    for offset, value in edits:
        data[offset] = value
    path = tmp_path_factory.getbasetemp() / "mutated.deb"
    path.write_bytes(data)
    try:
        for entry in read_deb(path, cache=None):
            assert entry.path.startswith("/") and ".." not in entry.path.split("/")
    except ArchiveError:
        pass


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000))
def test_random_bytes_fail_as_archive_errors(data):
    with contextlib.suppress(ArchiveError):
        list(read_tar(memoryview(data), name="random"))


def test_pax_size_beyond_the_archive_is_truncation():
    info = tarfile.TarInfo("a")
    info.pax_headers = {"size": "999999999999"}
    raw = info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(ArchiveError, match="truncated"):
        list(read_tar(memoryview(raw + bytes(1024)), name="t"))


def test_tarfile_and_this_reader_agree():
    raw = tar_of(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        expected = [("/" + item.name.lstrip("./"), item.mode, item.uid) for item in tar.getmembers()]
    assert [(entry.path, entry.mode, entry.uid) for entry in read_tar(memoryview(raw), name="t")] == expected
