"""Resolution by the real apt against a signed archive made here; no network."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from signed_archive import SignedArchive, needs_apt, package

from builder.errors import LockError
from builder.lock import check_lock, load_lock, resolve, resolve_scratch
from builder.lockfile import changes, dump_lock, write_lock
from builder.mirror import Mirrors
from builder.recipe import load_recipe

PIN = "pefile==2024.8.26 --hash=sha256:" + "a" * 64 + "\nzstandard==0.25.0 --hash=sha256:" + "b" * 64 + "\n"
EPOCH = 1795227000  # date -d "Sat, 21 Nov 2026 02:10:00 UTC" +%s


TRIXIE = [
    package("app", depends="libapp, perl", recommends="unwanted"),
    package("libapp", "1:2.0+b1", depends="libc6"),
    package("libc6"),
    package("perl"),
    package("unwanted"),
    package("tool", depends="libc6"),
    package("ovmf", "2025.02-8", architecture="all"),
    package("linux-image-cloud-amd64", "6.12.9-1", depends="linux-image-6.12.9-cloud-amd64 (= 6.12.9-1)"),
    package("linux-image-6.12.9-cloud-amd64", "6.12.9-1", depends="libc6, tool"),
]
SECURITY = [package("libc6", "1.0-1+deb13u1", pool="updates/main")]
FORKY = [package("ovmf-generic", "2026.08+ds-2", architecture="all")]

RECIPE = """\
name: img
version: "1"
svn: 1
summary: x
distribution: {suite: trixie, pockets: [release, security]}
kernel: {package: linux-image-cloud-amd64}
root: {packages: [app], drop: {perl: not needed here}}
initrd: {packages: [libc6]}
toolbox: {packages: [tool]}
firmware:
  - {name: old, suite: trixie, packages: [ovmf], code: /a, variables: /b}
  - {name: new, suite: forky, packages: [ovmf-generic], version: 2026.08+ds-2, code: /a, variables: /b}
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    made = SignedArchive(tmp_path_factory.mktemp("a"))
    fill(made)
    yield made
    made.close()


@pytest.fixture
def restore(archive):
    """Put the archive back as it was after a test changes it."""
    yield
    fill(archive)


def fill(archive):
    archive.write("debian", "trixie", TRIXIE)
    archive.write("debian-security", "trixie-security", SECURITY)
    archive.write("debian", "forky", FORKY)


@pytest.fixture
def recipe(tmp_path):
    return recipe_of(tmp_path)


def recipe_of(tmp_path, text=RECIPE):
    path = tmp_path / "recipes/img/recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return load_recipe(path)


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self):
        from builder.progress import SILENT

        self.notes = []
        self.phase = SILENT.phase

    def note(self, text):
        self.notes.append(text)


def lock_of(archive, recipe, **more):
    return resolve(recipe, archive.mirrors, keyring=archive.keyring, requirements=PIN, **more)


@needs_apt
def test_resolves_every_set(archive, recipe):
    lock = lock_of(archive, recipe)
    assert lock.sets == {
        "firmware/new": ("ovmf-generic=2026.08+ds-2",),
        "firmware/old": ("ovmf=2025.02-8",),
        "initrd": ("libc6=1.0-1+deb13u1",),
        "kernel": ("linux-image-6.12.9-cloud-amd64=6.12.9-1",),
        "root": ("app=1.0-1", "libapp=1:2.0+b1", "libc6=1.0-1+deb13u1"),
        "toolbox": ("libc6=1.0-1+deb13u1", "tool=1.0-1"),
    }
    libc = lock.members("initrd")[0]
    assert (libc.pocket, libc.path) == (
        "trixie-security",
        "pool/updates/main/l/libc6/libc6_1.0-1+deb13u1_amd64.deb",
    )
    assert libc.sha256 == hashlib.sha256(b"libc6 1.0-1+deb13u1").hexdigest()
    assert len(lock.archives) == 7
    assert lock.source_date_epoch == EPOCH
    signed = archive.root / "debian/dists/forky/InRelease"
    assert {index.pocket: index.sha256 for index in lock.indexes}["forky"] == hashlib.sha256(
        signed.read_bytes()
    ).hexdigest()


@needs_apt
def test_the_same_index_gives_the_same_bytes_and_no_address(archive, recipe):
    first = dump_lock(lock_of(archive, recipe))
    assert first == dump_lock(lock_of(archive, recipe))
    assert str(archive.root).encode() not in first
    assert b"file:" not in first


@needs_apt
def test_settings_of_the_host_do_not_count(archive, recipe, monkeypatch, tmp_path):
    hostile = tmp_path / "apt.conf"
    hostile.write_text('APT::Install-Recommends "true"; APT::Architecture "arm64";')
    expected = dump_lock(lock_of(archive, recipe))
    monkeypatch.setenv("APT_CONFIG", str(hostile))
    assert dump_lock(lock_of(archive, recipe)) == expected


@needs_apt
def test_an_index_signed_by_nobody_we_trust_is_refused(archive, recipe, tmp_path):
    (tmp_path / "b").mkdir()
    other = SignedArchive(tmp_path / "b")
    with pytest.raises(LockError, match="not trusted"):
        resolve(recipe, archive.mirrors, keyring=other.keyring, requirements=PIN)
    other.close()


@needs_apt
def test_an_index_changed_after_signing_is_refused(archive, recipe, restore):
    index = archive.root / "debian/dists/trixie/main/binary-amd64/Packages"
    index.write_bytes(index.read_bytes().replace(b"Package: perl", b"Package: evil"))
    with pytest.raises(LockError, match="not trusted"):
        lock_of(archive, recipe)


@needs_apt
def test_an_unsigned_index_is_refused(archive, recipe, restore):
    (archive.root / "debian/dists/trixie/InRelease").unlink()
    with pytest.raises(LockError, match="not trusted"):
        lock_of(archive, recipe)


def test_absent_keyring_says_which_package_brings_it(recipe, tmp_path):
    with pytest.raises(LockError) as caught:
        resolve(
            recipe, Mirrors(archive="file:/a", security="file:/b"), keyring=tmp_path / "no", requirements=PIN
        )
    assert caught.value.hint == "install the package debian-archive-keyring"


@needs_apt
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{perl: not needed here}",
            "{dpkg: not needed here}",
            "root.drop names dpkg, which nothing pulls in",
        ),
        ("[app]", "[nothing]", "nothing"),
        ("package: linux-image-cloud-amd64", "package: tool", "to depend on one linux-image package"),
        ("package: linux-image-cloud-amd64", "package: linux-image-7-x", "have no linux-image-7-x"),
        ("2026.08+ds-2", "2025.01-1", "no ovmf-generic 2025.01-1 in forky .there is 2026.08.ds-2"),
        ("packages: [ovmf]", "packages: [edk2]", "no edk2 at all in trixie"),
    ],
)
def test_what_cannot_be_resolved_is_named(archive, tmp_path, old, new, message):
    assert old in RECIPE
    with pytest.raises(LockError, match=message):
        lock_of(archive, recipe_of(tmp_path, RECIPE.replace(old, new)))


@needs_apt
def test_a_name_with_a_version_is_dropped_by_pattern(archive, tmp_path):
    """A metapackage's dependency is called by the kernel's release, and the next kernel's is called otherwise."""
    text = RECIPE.replace("[tool]}", "[linux-image-cloud-amd64], drop: {'linux-image-6.*': not needed here}}")
    lock = lock_of(archive, recipe_of(tmp_path, text))
    assert {item.partition("=")[0] for item in lock.sets["toolbox"]} == {
        "libc6", "linux-image-cloud-amd64", "tool",
    }  # fmt: skip
    assert lock.sets["kernel"] == ("linux-image-6.12.9-cloud-amd64=6.12.9-1",)
    with pytest.raises(LockError, match=r"toolbox\.drop names linux-image-7\.\*, which nothing pulls in"):
        lock_of(archive, recipe_of(tmp_path, text.replace("linux-image-6.", "linux-image-7.")))


@needs_apt
def test_scratch_does_without_a_drop_that_nothing_pulls_in(archive, tmp_path, restore):
    (tmp_path / "requirements.txt").write_text(PIN)
    recipe = recipe_of(tmp_path)
    before = lock_of(archive, recipe)
    archive.write("debian", "trixie", [*TRIXIE[1:], package("app", "1.1-1", depends="libapp")])
    with pytest.raises(LockError, match="drop names perl"):
        lock_of(archive, recipe)
    notes = Notes()
    scratch = resolve_scratch(
        recipe, archive.mirrors, previous=before, gone=["app=1.0-1"], keyring=archive.keyring, reporter=notes
    )
    assert scratch.sets["root"] == ("app=1.1-1", "libapp=1:2.0+b1", "libc6=1.0-1+deb13u1")
    assert any("drop names perl" in note for note in notes.notes)


@needs_apt
def test_firmware_that_left_the_index_is_kept_from_the_lock_so_far(archive, recipe, restore):
    before = lock_of(archive, recipe)
    archive.write("debian", "forky", [package("ovmf-generic", "2026.11-1", architecture="all")])
    with pytest.raises(LockError, match=r"there is 2026\.11-1"):
        lock_of(archive, recipe)
    notes = Notes()
    after = lock_of(archive, recipe, previous=before, reporter=notes)
    assert after.members("firmware/new") == before.members("firmware/new")
    assert "no longer has ovmf-generic 2026.08+ds-2" in notes.notes[0]


@needs_apt
def test_scratch_takes_the_newest_firmware_only_where_it_is_gone(archive, recipe, restore, tmp_path):
    (tmp_path / "requirements.txt").write_text(PIN)
    before = lock_of(archive, recipe)
    archive.write("debian", "forky", [package("ovmf-generic", "2026.11-1", architecture="all")])
    notes = Notes()
    common = {"previous": before, "keyring": archive.keyring, "reporter": notes}
    kept = resolve_scratch(recipe, archive.mirrors, gone=["perl=1.0-1"], **common)
    assert kept.scratch and kept.sets["firmware/new"] == ("ovmf-generic=2026.08+ds-2",)
    newest = resolve_scratch(recipe, archive.mirrors, gone=["ovmf-generic=2026.08+ds-2"], **common)
    assert newest.scratch and newest.sets["firmware/new"] == ("ovmf-generic=2026.11-1",)
    assert "is gone; this run uses 2026.11-1" in notes.notes[-1]


EMULATORS = """\
emulators:
  - {name: other, suite: forky, package: qemu-system-x86, version: "1:11.1.3+ds-1"}
"""


@pytest.fixture
def with_emulator(archive, tmp_path, restore):
    """A recipe with an emulator, and its lock."""
    (tmp_path / "requirements.txt").write_text(PIN)
    archive.write("debian", "forky", [*FORKY, package("qemu-system-x86", "1:11.1.3+ds-1", depends="libnew")])
    recipe = recipe_of(tmp_path, RECIPE + EMULATORS)
    return recipe, lock_of(archive, recipe)


@needs_apt
def test_an_emulator_is_locked_without_its_dependencies(archive, recipe, with_emulator):
    wanted, lock = with_emulator
    assert lock.sets["emulator/other"] == ("qemu-system-x86=1:11.1.3+ds-1",)
    assert wanted.resolution_digest != recipe.resolution_digest and wanted.digest != recipe.digest
    archive.write("debian", "forky", FORKY)
    notes = Notes()
    again = lock_of(archive, wanted, previous=lock, reporter=notes)
    assert again.members("emulator/other") == lock.members("emulator/other")
    assert "no longer has qemu-system-x86" in notes.notes[0]
    with pytest.raises(LockError, match="no qemu-system-x86 1:11"):
        lock_of(archive, wanted)


@needs_apt
def test_a_scratch_lock_goes_without_an_emulator_that_is_gone(archive, with_emulator):
    """It takes no other release in its place, and nothing else moves where nothing else is gone."""
    wanted, lock = with_emulator
    archive.write("debian", "forky", [*FORKY, package("qemu-system-x86", "1:11.2.0+ds-1")])
    archive.write(
        "debian", "trixie", [item.replace("Version: 1.0-1\n", "Version: 1.1-1\n") for item in TRIXIE]
    )
    notes = Notes()
    common = {"previous": lock, "keyring": archive.keyring, "reporter": notes}
    gone = "qemu-system-x86=1:11.1.3+ds-1"
    found = resolve_scratch(wanted, archive.mirrors, gone=[gone], **common)
    assert found.scratch and notes.notes == ["emulator/other: this run goes without it"]
    assert found.sets == {name: members for name, members in lock.sets.items() if name != "emulator/other"}
    assert gone not in {f"{item.name}={item.version}" for item in found.archives}
    moved = resolve_scratch(wanted, archive.mirrors, gone=[gone, "app=1.0-1"], **common)
    assert "emulator/other" not in moved.sets and "app=1.1-1" in moved.sets["root"]
    assert "goes without it" in notes.notes[-1]
    kept = resolve_scratch(wanted, archive.mirrors, gone=["app=1.0-1"], **common)
    assert kept.sets["emulator/other"] == (gone,)


@needs_apt
def test_upgrades_are_told(archive, recipe, restore):
    before = lock_of(archive, recipe)
    assert "root: added app 1.0-1" in changes(None, before)
    upgraded = [
        item.replace("Version: 1.0-1\n", "Version: 1.1-1\n") if "Package: app" in item else item
        for item in TRIXIE
    ]
    archive.write("debian", "trixie", upgraded)
    after = lock_of(archive, recipe)
    assert changes(before, after) == ["root: app 1.0-1 -> 1.1-1"]
    assert changes(after, after) == []


@needs_apt
def test_stale_and_foreign_locks(archive, recipe, tmp_path):
    with pytest.raises(LockError, match="no lock yet") as caught:
        load_lock(recipe)
    assert caught.value.hint == "goldsmith lock img"
    lock = lock_of(archive, recipe)
    write_lock(lock, recipe.lock_path)
    assert load_lock(recipe) == lock
    changed = recipe_of(tmp_path, RECIPE.replace("[app]", "[app, tool]"))
    with pytest.raises(LockError, match="is stale") as caught:
        load_lock(changed)
    assert caught.value.hint == "goldsmith lock img"
    with pytest.raises(LockError, match="the lock is for 'other'"):
        check_lock(recipe, replace(lock, recipe="other"))
