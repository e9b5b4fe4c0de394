from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import LockError
from builder.lockfile import changes, dump_lock, parse_lock, read_lock
from builder.pins import check_python, read_pins

GOOD = {
    "format": "goldsmith-lock/1",
    "recipe": "base",
    "resolution": "1" * 64,
    "source_date_epoch": 1795227000,
    "indexes": [{"pocket": "trixie", "date": 1, "sha256": "2" * 64}],
    "archives": [
        {
            "name": "libc6",
            "version": "1:2.41-12+deb13u1~x",
            "architecture": "amd64",
            "path": "pool/main/g/glibc/libc6_2.41-12_amd64.deb",
            "pocket": "trixie",
            "size": 10,
            "sha256": "3" * 64,
        }
    ],
    "sets": {"root": ["libc6=1:2.41-12+deb13u1~x"], "firmware/ovmf-2025.02": ["libc6=1:2.41-12+deb13u1~x"]},
    "python": {"pefile": {"version": "1.0", "sha256": ["4" * 64]}},
}


def raw(document) -> bytes:
    return json.dumps(document).encode()


def test_round_trip():
    lock = parse_lock(raw(GOOD))
    again = parse_lock(dump_lock(lock))
    assert dump_lock(again) == dump_lock(lock)
    assert again.archives == lock.archives and again.sets == lock.sets and not again.scratch
    assert again.python["pefile"].sha256 == ("4" * 64,)


def at(document, path, value):
    changed = copy.deepcopy(document)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "goldsmith-lock/2", "format: expected 'goldsmith-lock/1'"),
        (("recipe",), None, "the key 'recipe' is absent"),
        (("recipe",), "../x", "recipe: expected text like"),
        (("surprise",), 1, "unknown key 'surprise'"),
        (("resolution",), "A" * 64, "resolution: expected 64 lower-case hex"),
        (("source_date_epoch",), True, "source_date_epoch: expected a whole number"),
        (("source_date_epoch",), -1, "source_date_epoch"),
        (("archives",), {}, "archives: expected a list"),
        (("archives", 0), 3, r"archives\[0\]: expected an object"),
        (("archives", 0, "extra"), 1, r"archives\[0\]: unknown key 'extra'"),
        (("archives", 0, "sha256"), "3" * 63, r"archives\[0\].sha256"),
        (("archives", 0, "size"), 1.0, r"archives\[0\].size"),
        (("archives", 0, "size"), 1 << 40, r"archives\[0\].size"),
        (("archives", 0, "architecture"), "arm64", r"archives\[0\].architecture"),
        (("archives", 0, "path"), "pool/../../etc/shadow.deb", r"archives\[0\].path"),
        (("archives", 0, "path"), "/pool/x.deb", r"archives\[0\].path"),
        (("archives", 0, "path"), "http://evil/x.deb", r"archives\[0\].path"),
        (("archives", 0, "path"), "pool/x.deb\n", r"archives\[0\].path"),
        (("archives", 0, "path"), "pool//x.deb", r"archives\[0\].path"),
        (("archives", 0, "name"), "libc6\n", r"archives\[0\].name"),
        (("archives", 0, "pocket"), "../x", r"archives\[0\].pocket"),
        (("archives",), GOOD["archives"] * 2, "one package and version is there twice"),
        (("archives",), [], "expected package=version of an archive in this lock"),
        (("sets",), {}, "belongs to no set"),
        (("sets", "roots"), [], "sets: expected root, initrd"),
        (("sets", "firmware/../x"), [], "sets: expected root, initrd"),
        (("sets", "root"), ["libc6=9"], "sets.root: expected package=version"),
        (("sets", "root"), GOOD["sets"]["root"] * 2, "sets.root: one package is there twice"),
        (("python", "pefile"), "1.0", "python.pefile: expected an object"),
        (("python", "pefile", "sha256"), ["x"], "python.pefile.sha256"),
        (("scratch",), "yes", "scratch: expected true or false"),
    ],
)
def test_a_corrupt_lock_names_the_field(path, value, message):
    with pytest.raises(LockError, match=message):
        parse_lock(raw(at(GOOD, path, value)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object"),
        (b"\xff\xfe", "corrupt"),
        (b'{"format": "goldsmith-lock/1", "format": "goldsmith-lock/1"}', "'format' is there twice"),
        (b'{"a": NaN}', "plain JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b" " * ((16 << 20) + 1), "at most"),
        (b'{"a": ' + b"9" * 5000 + b"}", "corrupt"),
    ],
)
def test_bytes_that_are_no_lock(data, message):
    with pytest.raises(LockError, match=message):
        parse_lock(data)


def test_every_truncation_is_refused():
    data = raw(GOOD)
    for end in range(len(data)):
        with pytest.raises(LockError):
            parse_lock(data[:end])


def test_error_of_a_file_names_it_and_the_command(tmp_path):
    path = tmp_path / "lock.json"
    path.write_bytes(b"{")
    with pytest.raises(LockError, match=r"lock\.json") as caught:
        read_lock(path, recipe="base")
    assert caught.value.hint == "goldsmith lock base"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), JUNK)
def test_any_value_in_any_place_is_taken_or_refused(key, junk):
    with contextlib.suppress(LockError):
        parse_lock(raw(GOOD | {key: junk}))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    with pytest.raises(LockError):
        parse_lock(data)


def test_changed_content_of_one_version_is_told():
    other = parse_lock(raw(at(GOOD, ("archives", 0, "sha256"), "5" * 64)))
    assert changes(parse_lock(raw(GOOD)), other) == [
        "libc6 1:2.41-12+deb13u1~x: same version, other content: 333333333333… -> 555555555555…"
    ]


REQUIREMENTS = f"""\
# comment
pefile==2024.8.26 \\
    --hash=sha256:{"b" * 64} \\
    --hash=sha256:{"a" * 64}
    # via goldsmith
Zstandard==0.25.0 --hash=sha256:{"c" * 64}
"""


def test_pins_are_read_with_all_hashes():
    pins = read_pins(REQUIREMENTS)
    assert pins["pefile"].version == "2024.8.26"
    assert pins["pefile"].sha256 == ("a" * 64, "b" * 64)
    assert pins["zstandard"].sha256 == ("c" * 64,)


@pytest.mark.parametrize("text", ["", "pefile==1\nzstandard==1\n", REQUIREMENTS.split("Zstd")[0][:60]])
def test_pins_without_hashes_are_refused(text):
    with pytest.raises(LockError, match=r"requirements\.txt"):
        read_pins(text)


def test_installed_versions_must_be_the_locked_ones():
    lock = parse_lock(raw(GOOD))
    check_python(lock, {"pefile": "1.0"})
    with pytest.raises(LockError, match=r"the lock says 1\.0, installed is 1\.1"):
        check_python(lock, {"pefile": "1.1"})
    with pytest.raises(LockError, match="installed is none"):
        check_python(lock, {})
