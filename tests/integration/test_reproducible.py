"""The same recipe and lock give the same bytes: anywhere, at any time, by anyone, and nothing more moves than must."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from running import COMMAND, ROOT, link_or_copy

from builder.artifacts import Lock
from builder.compiled import COMPILED_KIND
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from measurements import golden

pytestmark = pytest.mark.integration

#: nobody, who owns nothing (Debian policy, 9.2.2).
NOBODY = 65534


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that everyone may look into; pytest's own are closed to other users."""
    path = Path(tempfile.mkdtemp(prefix="goldsmith-elsewhere-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def checkout(folder: Path, *, mode: int, image: str = "base") -> Path:
    """Copy what a build reads of a checkout, with other permissions and times; return the recipe's folder."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "requirements.txt", folder)
    shutil.copytree(ROOT / "recipes" / "common", folder / "recipes" / "common")
    shutil.copytree(ROOT / "recipes" / image, folder / "recipes" / image)
    for path in folder.rglob("*"):
        os.utime(path, (86_400, 86_400))
        if path.is_file():
            path.chmod(mode)
    return folder / "recipes" / image


def bare_store(store: Store, root: Path, lock: Lock) -> Path:
    """Make a store with the archives of a lock, and nothing that an earlier build derived from them."""
    (root / "sha256").mkdir(parents=True)
    for archive in lock.archives:
        # Nobody may link to, or be unable to read, what another user owns.
        shutil.copyfile(store.object_path(archive.sha256), root / "sha256" / archive.sha256)
    return root


def readable_python(folder: Path) -> list[Path | str]:
    """Copy interpreter, packages and this checkout's code to where any user may run them; return the command.

    They often lie in somebody's home, which is closed. Files are linked where possible.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ignored = ("__pycache__", "test", "tests", "idlelib", "config-*", "__editable__*", "ruff*", "mypy*")

    def copy(source: Path, target: Path, *more: str) -> None:
        ignore = shutil.ignore_patterns(*ignored, *more)
        shutil.copytree(source, target, copy_function=link_or_copy, ignore=ignore, symlinks=True)

    base, packages = folder / "base", folder / "venv" / "lib" / name / "site-packages"
    copy(Path(os.__file__).parent, base / "lib" / name, "site-packages", "dist-packages")
    copy(Path(sysconfig.get_path("platlib")), packages)
    for package in ("builder", "measurements"):
        copy(ROOT / package, packages / package)
    for place in (base / "bin", folder / "venv" / "bin"):
        place.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), base / "bin" / name)
    (folder / "venv" / "bin" / "python").symlink_to(base / "bin" / name)
    (folder / "venv" / "pyvenv.cfg").write_text(
        f"home = {base / 'bin'}\ninclude-system-site-packages = false\n"
    )
    return [folder / "venv" / "bin" / "python", "-c", "from builder.cli import main; main()"]


def may_run(command: Sequence[Path | str], *, namespaces: bool) -> str:
    """Return why nobody cannot run this, or not make a user namespace as compiling needs it; empty where both work."""
    # CLONE_NEWUSER, include/uapi/linux/sched.h
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0 and 'no user namespace')"
    python = [command[0], "-c", code] if namespaces else [*command, "--version"]
    probe = subprocess.run(
        python, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return probe.stderr[-200:] if probe.returncode else ""


def own(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def build(
    recipe: Path,
    out: Path,
    key: Path,
    env: dict[str, str],
    *,
    umask: int,
    cpus: set[int],
    user: int | None = None,
    command: Sequence[str | Path] = (COMMAND,),
    options: Sequence[str] = ("--format", "qcow2"),
    timeout: float = 300,
) -> Path:
    arguments = ["build", recipe, "--offline", "--out", out, "--key", key, *options]
    done = subprocess.run(
        [*command, *arguments],
        cwd=out.parent,
        # Nothing of the caller's: PATH alone, to find apt-config.
        env={"PATH": os.environ["PATH"], **env},
        umask=umask,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return out


def assert_same(first: Path, second: Path) -> None:
    """Compare every file; say which differs, and in which part first."""
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in second.iterdir())
    differing = [
        difference(path, second / path.name, manifests.load(first).parts)
        for path in sorted(first.iterdir())
        if path.read_bytes() != (second / path.name).read_bytes()
    ]
    assert not differing, "\n".join(differing)


def difference(path: Path, other: Path, parts: tuple[manifests.Part, ...]) -> str:
    one, two = path.read_bytes(), other.read_bytes()
    at = next(
        (at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    inside = [part.name for part in parts if part.file == path.name and 0 <= at - part.offset < part.size]
    return f"{path.name} differs first at byte {at} ({', '.join(inside) or 'in no part'}): {len(one)}, {len(two)} bytes"


def test_the_comparison_sees_one_byte(release, tmp_path):
    """A comparison that finds nothing must be able to find something."""
    copy = tmp_path / "copy"
    shutil.copytree(release, copy)
    place = next(
        part for part in manifests.load(release).parts if (part.file, part.name) == ("uki.efi", "uki .initrd")
    )
    with (copy / "uki.efi").open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff")
    with pytest.raises(
        AssertionError, match=rf"uki.efi differs first at byte {place.offset} \(uki .initrd\)"
    ):
        assert_same(release, copy)


def test_other_surroundings_give_the_same_bytes(release, store, lock, signing_key, elsewhere):
    """Another checkout, store, folder, umask, locale, time zone, home, TMPDIR, hash seed and processor count."""
    recipe = checkout(
        elsewhere / "a checkout with a, comma" / "and quite a long path" / ("d" * 60), mode=0o600
    )
    (elsewhere / "home").mkdir()
    (elsewhere / "tmp").mkdir()
    env = {
        "GOLDSMITH_STORE": str(bare_store(store, elsewhere / "store", lock)),
        "HOME": str(elsewhere / "home"),
        "TMPDIR": str(elsewhere / "tmp"),
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "de_DE.ISO-8859-1",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "4711",
        "SOURCE_DATE_EPOCH": "1",
        "MTOOLSRC": str(elsewhere / "none"),
        "COLUMNS": "40",
    }
    out = build(recipe, elsewhere / "out", signing_key, env, umask=0o077, cpus={min(os.sched_getaffinity(0))})
    assert_same(release, out)


def test_unprivileged_user_gives_the_same_bytes(release, store, lock, signing_key, elsewhere):
    if os.getuid() != 0:
        pytest.skip("only root can become another user; the release itself was built without privileges")
    command = readable_python(elsewhere / "python")
    if reason := may_run(command, namespaces=False):
        pytest.skip(f"this host's Python cannot be copied to where others may run it: {reason}")
    recipe = checkout(elsewhere / "work" / "checkout", mode=0o644)
    bare_store(store, elsewhere / "work" / "store", lock)
    (elsewhere / "work" / "tmp").mkdir()
    shutil.copy(signing_key, elsewhere / "work" / "key.pem")
    own(elsewhere / "work", NOBODY)
    env = {
        "GOLDSMITH_STORE": str(elsewhere / "work" / "store"),
        "HOME": "/nonexistent",
        "TMPDIR": str(elsewhere / "work" / "tmp"),
        "TZ": "America/St_Johns",
    }
    out = build(
        recipe, elsewhere / "work" / "out", elsewhere / "work" / "key.pem", env,
        umask=0o002, cpus=os.sched_getaffinity(0), user=NOBODY, command=command,
    )  # fmt: skip
    assert {path.stat().st_uid for path in out.iterdir()} == {NOBODY}
    assert_same(release, out)


def test_compiled_modules_and_their_image_are_the_same_bytes(gpu_release, store, signing_key, elsewhere):
    """recipes/gpu-cc, compiled once more: another folder, store, checkout, job count, umask, locale, time zone, home,
    TMPDIR and, where root runs the tests and the host gives nobody namespaces, another user."""
    work = elsewhere / "work"
    recipe = checkout(work / "checkout", mode=0o644, image="gpu-cc")
    bare_store(store, work / "store", read_lock(recipe / "lock.json", recipe="gpu-cc"))
    (work / "tmp").mkdir()
    far = work / "a folder, with a comma" / ("w" * 100)
    far.mkdir(parents=True)
    shutil.copy(signing_key, work / "key.pem")
    command: list[Path | str] = [COMMAND]
    user = None
    if os.getuid() == 0:
        copied = readable_python(elsewhere / "python")
        if not may_run(copied, namespaces=False) and not may_run(copied, namespaces=True):
            command, user = copied, NOBODY
            own(work, NOBODY)
    env = {
        "GOLDSMITH_STORE": str(work / "store"),
        "HOME": "/nonexistent",
        "TMPDIR": str(work / "tmp"),
        "LC_ALL": "ja_JP.eucJP",
        "TZ": "Asia/Kathmandu",
        "PYTHONHASHSEED": "17",
        "SOURCE_DATE_EPOCH": "1",
        "KBUILD_BUILD_USER": "somebody",
        "KBUILD_BUILD_TIMESTAMP": "1",
        "KCFLAGS": "-O1",
        "MAKEFLAGS": "V=1",
    }
    jobs = 2 * len(os.sched_getaffinity(0)) + 1
    out = build(
        recipe, far / "out", work / "key.pem", env, umask=0o077, cpus=os.sched_getaffinity(0), user=user,
        command=command, options=("--jobs", str(jobs)), timeout=900,
    )  # fmt: skip
    assert_same(gpu_release, out)
    # It was compiled, not found; and under the digest that the other build had for the same inputs.
    (compiled,) = (work / "store" / "derived" / COMPILED_KIND).iterdir()
    assert compiled.read_bytes() == (store.root / "derived" / COMPILED_KIND / compiled.name).read_bytes()


def test_nothing_in_a_release_depends_on_the_host(release, gpu_release):
    """No path, name or user of this machine stands in any output."""
    told = {str(ROOT), str(release.parent), str(gpu_release.parent), os.uname().nodename, os.uname().release}
    for path in (*release.iterdir(), *gpu_release.iterdir()):
        content = path.read_bytes()
        # A host may be called like something that an image contains.
        found = {word for word in told if len(word) > 6 and word != "localhost" and word.encode() in content}
        assert not found, f"{path.name}: {found}"
        assert path.stat().st_mode & 0o777 == 0o644


def test_one_changed_file_moves_what_it_must(goldsmith, release, store, signing_key, tmp_path):
    """A file of the root: the root, its hash tree and hash, and what carries the hash; nothing of the rest."""
    recipe = checkout(tmp_path / "checkout", mode=0o644)
    (recipe / "golden.json").unlink(missing_ok=True)
    changed = recipe.parent / "common" / "evidence" / "keys.py"
    changed.write_text(changed.read_text() + "# one line more\n")
    out = tmp_path / "out"
    done = goldsmith("build", recipe, "--offline", "--out", out, "--key", signing_key, timeout=300)
    assert done.code == 0, done.stderr
    before, after = manifests.load(release), manifests.load(out)
    moved = {
        (old.file, old.name)
        for old, new in zip(before.parts, after.parts, strict=True)
        if old.sha256 != new.sha256
    }
    assert moved == {
        ("uki.efi", "uki .cmdline"),
        ("disk.raw", "uki .cmdline"),
        ("disk.raw", "EFI system partition"),
        ("disk.raw", "partition table (GPT)"),
        ("disk.raw", "backup partition table (GPT)"),
        ("disk.raw", "root file system"),
        ("disk.raw", "verity hash tree"),
    }
    differences = golden.compare(
        *(golden.parse((folder / "golden.json").read_bytes()) for folder in (release, out))
    )
    registers = {item.where.rpartition("PCR ")[2]: item.cause for item in differences if "PCR" in item.where}
    assert registers.keys() == {"4", "5", "9", "11"}
    assert registers["9"] == registers["11"] == "uki .cmdline"
    assert before.lock == after.lock and before.recipe != after.recipe


def test_comment_in_a_recipe_moves_nothing(goldsmith, release, signing_key, tmp_path):
    recipe = checkout(tmp_path / "checkout", mode=0o644)
    path = recipe / "recipe.yaml"
    path.write_text("# a comment\n" + path.read_text())
    done = goldsmith(
        "build", recipe, "--offline", "--out", tmp_path / "out", "--key", signing_key, "--format", "qcow2",
        timeout=300,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert_same(release, tmp_path / "out")


def test_documents_say_what_the_files_are(release):
    """The signed document and the manifest agree with each other and with the bytes."""
    document = json.loads((release / "golden.json").read_bytes())
    manifest = json.loads((release / "manifest.json").read_bytes())
    listed = {item["name"]: (item["size"], item["sha256"]) for item in manifest["outputs"]}
    assert {
        item["name"]: (item["size"], item["sha256"]) for item in document["outputs"]
    }.items() <= listed.items()
    for name, (size, sha256) in listed.items():
        assert (release / name).stat().st_size == size
        said = subprocess.run(
            ["sha256sum", release / name], capture_output=True, text=True, check=True
        ).stdout
        assert said.split()[0] == sha256
