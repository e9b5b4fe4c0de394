"""What decides under which digest compiled modules are kept: every input, and nothing of the surroundings."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from builder import compiled
from builder.artifacts import Archive, Lock
from builder.compiled import COMPILED_KIND, compiled_modules
from builder.kbuild.compile import cache_key
from builder.lockfile import read_lock
from builder.recipe import load_recipe
from builder.store import Store
from builder.tools import Tools

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "gpu-cc"
RELEASE = "6.12.0-test"


@pytest.fixture
def recipe():
    return load_recipe(RECIPE)


@pytest.fixture
def lock():
    return read_lock(RECIPE / "lock.json", recipe="gpu-cc")


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Ask for the modules of a recipe with a compiler that compiles nothing; return each name they are kept under."""
    compiled_as = []
    monkeypatch.setattr(compiled, "_source", lambda *_: None)
    monkeypatch.setattr(compiled, "check_modules", lambda *_, **__: ())

    def compile_nothing(_source, *, jobs, **_):
        compiled_as.append(jobs)
        return {"Module.symvers": b""}

    monkeypatch.setattr(compiled, "compile_modules", compile_nothing)

    def ask(recipe, lock, *, name="store", release=RELEASE, compiler="gcc", **options):
        root = tmp_path / name / "unpacked"
        headers = root / "usr/src" / f"linux-headers-{release}"
        headers.mkdir(parents=True, exist_ok=True)
        (headers / "Module.symvers").write_text("")
        digest = hashlib.sha256(compiler.encode()).hexdigest()
        tools = Tools(root=root, digest=digest, source_date_epoch=lock.source_date_epoch)
        monkeypatch.setattr(compiled, "unpack_compiler", lambda *_: tools)
        store = Store(tmp_path / name)
        before = set(kept(store))
        compiled_modules(recipe, lock, release=release, vermagic="", store=store, **options)
        return kept(store) - before

    def kept(store):
        folder = store.root / "derived" / COMPILED_KIND
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    ask.compiled = compiled_as
    return ask


def changed_source(recipe, **fields):
    source = recipe.module_sources[0]
    return replace(recipe, module_sources=(source.model_copy(update=fields),))


def other_archive(lock: Lock, name: str) -> Lock:
    """The same lock with other bytes under an archive's name."""

    def moved(archive: Archive) -> Archive:
        return replace(archive, sha256="ab" * 32) if archive.name == name else archive

    return replace(lock, archives=tuple(map(moved, lock.archives)))


def test_nothing_around_a_build_decides_the_digest(keys, recipe, lock, monkeypatch, tmp_path):
    first = keys(recipe, lock, jobs=1)
    monkeypatch.chdir(tmp_path)
    for variable in (
        "TZ",
        "LC_ALL",
        "HOME",
        "USER",
        "SOURCE_DATE_EPOCH",
        "KCFLAGS",
        "CC",
        "MAKEFLAGS",
        "TMPDIR",
    ):
        monkeypatch.setenv(variable, str(tmp_path))
    before = os.umask(0o077)
    try:
        assert keys(recipe, lock, name="another-store", jobs=7) == first
    finally:
        os.umask(before)
    assert len(first) == 1
    assert keys.compiled == [1, 7], "each store compiled for itself"


def test_what_is_there_is_not_compiled_again(keys, recipe, lock):
    assert keys(recipe, lock)
    assert not keys(recipe, lock)
    assert len(keys.compiled) == 1


def test_one_processor_one_compiler(keys, recipe, lock):
    keys(recipe, lock)
    assert keys.compiled == [len(os.sched_getaffinity(0))]


def test_packages_of_the_image_do_not_decide_it(keys, recipe, lock):
    """A lock made anew for a library of the root compiles nothing anew; nor does a command line or a version."""
    keys(recipe, lock)
    moved = replace(other_archive(lock, "libcuda1"), source_date_epoch=lock.source_date_epoch + 86_400)
    assert moved.archives != lock.archives
    assert not keys(replace(recipe, version="9.9", svn=9, command_line=("quiet",)), moved)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "550.163.01-3"},
        {"folder": "modules"},
        {"prepare": ()},
        {"make": ("modules", "KCFLAGS=-O3")},
        {"modules": {"nvidia": "nvidia.ko"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_the_source_s_description_decides_it(keys, recipe, lock, fields):
    assert keys(recipe, lock) != keys(changed_source(recipe, **fields), lock) != set()


def test_each_other_input_decides_it(keys, recipe, lock):
    patch = recipe.patches["nvidia"][0]
    longer = replace(recipe, patches={"nvidia": (replace(patch, content=patch.content + b"\n"),)})
    asked = [
        keys(recipe, lock),
        keys(longer, lock),
        keys(replace(recipe, patches={"nvidia": ()}), lock),
        keys(recipe, other_archive(lock, "nvidia-open-kernel-source")),
        keys(recipe, lock, release="6.12.1-test"),
        keys(recipe, lock, compiler="another gcc"),
    ]
    assert all(len(found) == 1 for found in asked)
    assert len(set().union(*asked)) == len(asked)


def test_the_order_of_patches_decides_it():
    def key(*patches):
        return cache_key({}, release=RELEASE, inputs=patches, tools=Tools(root=None, digest="ab"))

    assert key("one", "two") != key("two", "one")


def test_where_a_compiler_lies_does_not_decide_it():
    one = Tools(root=Path("/one"), digest="ab", versions={"gcc-14": "14.2.0-19"})
    two = Tools(root=Path("/two/and/longer"), digest="ab")
    assert len({cache_key({"a": 1}, release=RELEASE, inputs=(), tools=tools) for tools in (one, two)}) == 1
