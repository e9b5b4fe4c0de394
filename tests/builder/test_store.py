from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading

import pytest

from builder.atomic import atomic_file, locked, write_atomic
from builder.errors import FetchError, UsageError
from builder.store import Store

DATA = b"an archive" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def files(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_put_and_get(store):
    path = store.put_stream([DATA[:100], DATA[100:]], sha256=SHA, size=len(DATA))
    assert path == store.root / "sha256" / SHA
    assert store.get(SHA, len(DATA)) == path
    assert files(store) == [f"sha256/{SHA}"]


@pytest.mark.parametrize("bad", [DATA[:-1], DATA + b"x", b"y" + DATA[1:], b""])
def test_wrong_bytes_never_enter(store, bad):
    with pytest.raises(FetchError):
        store.put_stream([bad], sha256=SHA, size=len(DATA))
    assert store.get(SHA, len(DATA)) is None
    assert files(store) == []


@pytest.mark.parametrize("damage", [DATA[:-5], b"z" + DATA[1:], b""])
def test_object_damaged_later_is_removed_and_never_returned(store, damage):
    path = store.put_stream([DATA], sha256=SHA, size=len(DATA))
    assert store.get(SHA, len(DATA)) == path
    path.write_bytes(damage)
    assert store.get(SHA, len(DATA)) is None
    assert not path.exists()


def test_right_object_with_another_size_asked_stays(store):
    path = store.put_stream([DATA], sha256=SHA, size=len(DATA))
    assert store.get(SHA, 3) is None
    assert path.exists()


def test_adopt_checks_and_removes(store):
    with store.partial(SHA) as partial:
        partial.write_bytes(b"wrong")
        with pytest.raises(FetchError):
            store.adopt(partial, sha256=SHA, size=len(DATA))
        assert not partial.exists()
        partial.write_bytes(DATA)
        store.adopt(partial, sha256=SHA, size=len(DATA))
    assert files(store) == [f"sha256/{SHA}"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "", "a" * 63])
def test_names_that_are_no_digest_are_refused(store, name):
    with pytest.raises(ValueError):
        store.get(name, 1)
    with pytest.raises(ValueError):
        store.derived("kind", name, lambda path: path.write_bytes(b""))


def test_derived_is_made_once_and_a_failure_leaves_nothing(store):
    calls = []

    def fail(path):
        path.mkdir()
        (path / "half").write_bytes(b"")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.derived("kind", SHA, fail)
    assert files(store) == []

    def make(path):
        calls.append(path)
        path.mkdir()
        (path / "whole").write_bytes(b"1")

    threads = [threading.Thread(target=store.derived, args=("kind", SHA, make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert files(store) == [f"derived/kind/{SHA}/whole"]


@pytest.mark.parametrize("damage", [b"", b"short", b"derivet" + hashlib.sha256(b"derived").digest()])
def test_damaged_derived_bytes_are_made_again(store, damage):
    calls = []

    def make(write):
        calls.append(1)
        write(b"deri")
        write(b"ved")

    assert bytes(store.derived_bytes("kind", SHA, make)) == b"derived"
    assert bytes(store.derived_bytes("kind", SHA, make)) == b"derived"
    assert len(calls) == 1
    (store.root / "derived/kind" / SHA).write_bytes(damage)
    assert bytes(store.derived_bytes("kind", SHA, make)) == b"derived"
    assert len(calls) == 2


def test_empty_derived_bytes(store):
    assert bytes(store.derived_bytes("kind", SHA, lambda write: None)) == b""


WORKER = """
import hashlib, sys
from pathlib import Path
from builder.store import Store
store = Store(Path(sys.argv[1]))
for index in range(40):
    data = (b"%d" % index) * 5000
    digest = hashlib.sha256(data).hexdigest()
    with store.partial(digest) as partial:
        if store.get(digest, len(data)) is None:
            partial.write_bytes(data)
            store.adopt(partial, sha256=digest, size=len(data))
    def make(path):
        with open(sys.argv[2], "a") as log:
            log.write(digest + "\\n")
        path.write_bytes(data)
    assert store.derived("copy", digest, make).read_bytes() == data
"""


def test_two_processes_fill_one_store(store, tmp_path):
    log = tmp_path / "log"
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(store.root), str(log)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    made = log.read_text().split()
    assert len(made) == len(set(made)) == 40
    for digest in made:
        assert hashlib.sha256((store.root / "sha256" / digest).read_bytes()).hexdigest() == digest
    assert not [name for name in files(store) if name.startswith(("partial", "temporary", "locks"))]


def test_lock_excludes_others_until_it_is_left(tmp_path):
    order = []
    entered = threading.Event()

    def other():
        entered.set()
        with locked(tmp_path / "lock"):
            order.append("other")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_atomic_write_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as handle:
        handle.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_sets_the_mode_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GOLDSMITH_STORE": "/s", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/s"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/goldsmith"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/goldsmith"),
        ({"HOME": "/h"}, "/h/.cache/goldsmith"),
    ],
)
def test_default_place(environment, expected):
    assert str(Store.default(environment).root) == expected


def test_no_home_is_an_error_with_a_hint():
    with pytest.raises(UsageError) as caught:
        Store.default({})
    assert "GOLDSMITH_STORE" in (caught.value.hint or "")
