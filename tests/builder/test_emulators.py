"""QEMU releases beside the toolbox's: found by what the lock says, unpacked when they are asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from deb_samples import deb_of
from test_lockfile import GOOD, raw

from builder.artifacts import Archive
from builder.emulators import emulators
from builder.errors import ArchiveError, FetchError, LockError
from builder.lockfile import parse_lock
from builder.store import Store
from builder.tools import Tools

PROGRAM = "./usr/bin/qemu-system-x86_64"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def toolbox(tmp_path):
    (tmp_path / "toolbox/usr/bin").mkdir(parents=True)
    (tmp_path / "toolbox/usr/bin/qemu-system-x86_64").write_bytes(b"the toolbox's")
    return Tools(root=tmp_path / "toolbox", digest="1" * 64)


def archive(version, data=b""):
    return Archive(
        name="qemu-system-x86",
        version=version,
        architecture="amd64",
        path=f"pool/q_{version}.deb",
        pocket="trixie",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def lock_with(*archives):
    names = [f"{item.name}={item.version}" for item in archives]
    sets = {"toolbox": (names[0],)} | {f"emulator/{at}": (name,) for at, name in enumerate(names[1:])}
    return replace(parse_lock(raw(GOOD)), archives=archives, sets=sets)


def test_releases_follow_from_versions(store, toolbox):
    lock = lock_with(
        archive("1:10.0.13+ds-0+deb13u1"), archive("1:11.1.3+ds-1~bpo13+1"), archive("1:11.2.0~rc1+ds-1")
    )
    found = emulators(lock, toolbox, store)
    assert list(found) == [(10, 0), (11, 1), (11, 2)]
    assert found[10, 0].tools() is toolbox and found[10, 0].digest == toolbox.digest
    assert len({emulator.digest for emulator in found.values()}) == 3
    assert len({emulator.digest for emulator in found.values()}) == 3
    other = emulators(lock, replace(toolbox, digest="2" * 64), store)
    assert other[11, 1].digest != found[11, 1].digest


def test_two_of_one_release_and_versions_that_say_none_are_refused(store, toolbox):
    with pytest.raises(LockError, match=r"two QEMUs of release 10\.0"):
        emulators(lock_with(archive("1:10.0.13+ds-0"), archive("1:10.0.2+ds-0")), toolbox, store)
    with pytest.raises(LockError, match="expected a version that starts with a release, got 2024"):
        emulators(lock_with(archive("1:10.0.13+ds-0"), archive("2024")), toolbox, store)


def test_its_program_stands_before_the_toolboxes_and_runs_on_its_libraries(store, toolbox):
    data = deb_of([(PROGRAM, b"the other"), ("./usr/bin/kvm", b"not needed")], name="qemu-system-x86")
    lock = lock_with(archive("1:10.0.13+ds-0"), archive("1:11.1.3+ds-1", data))
    emulator = emulators(lock, toolbox, store)[11, 1]
    with pytest.raises(FetchError, match=r"1:11\.1\.3\+ds-1 is not in the store"):
        emulator.tools()
    store.put_stream([data], sha256=lock.archives[1].sha256, size=len(data))
    tools = emulator.tools()
    assert [
        str(path.relative_to(tools.programs)) for path in tools.programs.rglob("*") if path.is_file()
    ] == [PROGRAM[2:]]
    command = tools.command("qemu-system-x86_64")
    own = command.index(str(tools.programs / PROGRAM[2:]))
    assert command[0].startswith(str(toolbox.root)) and str(toolbox.root) in command[own - 1]
    # QEMU would take the host's ROMs where it is not told of others.
    assert command[own + 1 : own + 3] == ["-L", str(toolbox.root / "usr/share/qemu")]
    assert tools.digest == emulator.digest and emulator.tools() == tools


def refused(store, toolbox, *members):
    data = deb_of(members, name="qemu-system-x86")
    lock = lock_with(archive("1:10.0.13+ds-0"), archive("1:11.1.3+ds-1", data))
    store.put_stream([data], sha256=lock.archives[1].sha256, size=len(data))
    with pytest.raises(ArchiveError) as caught:
        emulators(lock, toolbox, store)[11, 1].tools()
    return str(caught.value)


def test_an_archive_without_the_program_is_refused(store, toolbox):
    found = refused(store, toolbox, ("./usr/bin/kvm", b"1"))
    assert "qemu-system-x86 1:11.1.3+ds-1 ships no /usr/bin/qemu-system-x86_64" in found


@pytest.mark.skipif(shutil.which("ls") is None, reason="needs an ELF program")
def test_a_library_that_the_toolbox_lacks_is_named(store, toolbox):
    program = Path(os.path.realpath(shutil.which("ls")))
    found = refused(store, toolbox, (PROGRAM, program.read_bytes()))
    assert "lacks libc.so.6" in found and "usr/bin/qemu-system-x86_64" in found
