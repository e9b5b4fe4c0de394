"""Inputs that moved on, and values that moved: what a build says, and what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket

import pytest
from running import ROOT, link_or_copy

from measurements import golden

pytestmark = pytest.mark.integration


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a build reads, without committed values; returns the recipe's folder."""
    return copy_of("base", tmp_path / "checkout")


def copy_of(image, folder):
    (folder / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "requirements.txt", folder)
    for name in ("common", image):
        shutil.copytree(ROOT / "recipes" / name, folder / "recipes" / name)
    (folder / "recipes" / image / "golden.json").unlink(missing_ok=True)
    return folder / "recipes" / image


def age(lock_path, *names) -> list[str]:
    """Make the lock name a revision of these packages that no archive has any more; return "name=version"."""
    lock = json.loads(lock_path.read_bytes())
    gone = {}
    for archive in lock["archives"]:
        if archive["name"] in names:
            old, new = archive["version"], f"{archive['version']}~gone"
            gone[f"{archive['name']}={old}"] = f"{archive['name']}={new}"
            archive["version"], archive["path"] = new, archive["path"].replace(old, new)
            archive["sha256"] = hashlib.sha256(archive["name"].encode()).hexdigest()
    assert len(gone) == len(names)
    lock["archives"].sort(key=lambda archive: (archive["name"], archive["version"]))
    lock["sets"] = {
        name: sorted(gone.get(item, item) for item in members) for name, members in lock["sets"].items()
    }
    lock_path.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n")
    return list(gone.values())


def test_archive_that_left_every_source_stops_a_build(goldsmith, store, checkout, tmp_path):
    age(checkout / "lock.json", "mtools")
    done = goldsmith("build", checkout, "--out", tmp_path / "out", timeout=300)
    assert done.code == 3
    assert "mtools" in done.stderr and "~gone" in done.stderr
    assert "goldsmith lock" in done.stderr
    assert not (tmp_path / "out").exists()


def test_quickstart_builds_from_a_scratch_lock_and_says_so(goldsmith, gpu_release, tmp_path):
    """The default image, of which a tool, a part of the compiler and the driver's source left: all is resolved anew."""
    recipe = copy_of("gpu-cc", tmp_path / "checkout")
    gone = ["mtools", "mawk", "nvidia-open-kernel-source"]
    names = age(recipe / "lock.json", *gone)
    before = (recipe / "lock.json").read_bytes()
    done = goldsmith("build", recipe, "--out", tmp_path / "out", "--quickstart", "--json", timeout=900)
    assert done.code == 0, done.stderr
    for name in names:
        assert f"{name} has left every source" in done.stderr
    assert "scratch lock" in done.stderr
    assert json.loads(done.stdout)["scratch"] is True
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["inputs"]["scratch"] is True
    used = json.loads((tmp_path / "out" / "lock.json").read_bytes())
    assert not [archive["name"] for archive in used["archives"] if archive["version"].endswith("~gone")]
    assert (tmp_path / "out" / "nvidia.ko").stat().st_size > 10 << 20
    assert (recipe / "lock.json").read_bytes() == before, "the committed lock is not touched"
    assert not (recipe / "golden.json").exists()


def test_quickstart_goes_without_an_emulator_that_is_gone(goldsmith, release, checkout, tmp_path):
    """It decides RTMR0 of trust domains and no byte of the image: nothing else is resolved anew, and no value moves."""
    path = checkout / "lock.json"
    lock = json.loads(path.read_bytes())
    (member,) = lock["sets"]["emulator/qemu-11.1"]
    for archive in lock["archives"]:
        if f"{archive['name']}={archive['version']}" == member:
            archive["sha256"] = hashlib.sha256(b"gone").hexdigest()
            archive["path"] = archive["path"].replace("11.1.3", "11.1.0")
    path.write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n")
    done = goldsmith("build", checkout, "--out", tmp_path / "out", "--quickstart", "--json", timeout=300)
    assert done.code == 0, done.stderr
    assert "emulator/qemu-11.1: this run goes without it" in done.stderr
    assert json.loads(done.stdout)["scratch"] is True
    built, whole = (
        golden.parse((folder / "golden.json").read_bytes()) for folder in (tmp_path / "out", release)
    )
    assert built.predictions == whole.predictions and built.sev_snp == whole.sev_snp
    for without, usual in zip(built.tdx, whole.tdx, strict=True):
        assert without.registers[1:] == usual.registers[1:] and without.mrtd == usual.mrtd
        assert usual.registers[0].alternatives and not without.registers[0].alternatives
        assert "ACPI tables were not supplied" in without.registers[0].reason


def test_quickstart_of_a_whole_lock_is_no_scratch_build(goldsmith, store, checkout, tmp_path):
    done = goldsmith("build", checkout, "--out", tmp_path / "out", "--quickstart", "--json", timeout=300)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["scratch"] is False


def test_value_that_disagrees_with_the_committed_one_stops_a_build(goldsmith, release, checkout, tmp_path):
    """Another command line: the build names the registers that moved and the input that moved them."""
    shutil.copy(release / "golden.json", checkout)
    kernel = checkout.parent / "common" / "kernel.yaml"
    kernel.write_text(kernel.read_text().replace("timeout_sec=30\n", "timeout_sec=31\n"))
    done = goldsmith("build", checkout, "--offline", "--out", tmp_path / "out", timeout=300)
    assert done.code == 1
    assert "disagrees with its committed golden values" in done.stderr
    assert "PCR 9" in done.stderr and "PCR 11" in done.stderr
    assert "because of uki .cmdline" in done.stderr
    assert "--accept" in done.stderr
    assert not (tmp_path / "out").exists()
    assert (checkout / "golden.json").read_bytes() == (release / "golden.json").read_bytes()


def test_accepted_values_are_what_the_next_build_is_held_against(goldsmith, store, checkout, tmp_path):
    done = goldsmith("build", checkout, "--offline", "--out", tmp_path / "out", "--accept", timeout=300)
    assert done.code == 0, done.stderr
    committed = golden.parse((checkout / "golden.json").read_bytes())
    assert golden.compare(committed, golden.parse((tmp_path / "out" / "golden.json").read_bytes())) == ()
    # qcow2 is the same disk in another format: no other values.
    done = goldsmith(
        "build", checkout, "--offline", "--out", tmp_path / "out", "--format", "qcow2", timeout=300
    )
    assert done.code == 0, done.stderr


def test_build_does_not_replace_a_folder_that_is_no_release(goldsmith, store, checkout, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("five years of work")
    done = goldsmith("build", checkout, "--offline", "--out", tmp_path / "out", timeout=300)
    assert done.code == 2
    assert (tmp_path / "out" / "thesis.txt").read_text() == "five years of work"


def test_source_that_does_not_answer_is_no_proof_that_an_archive_is_gone(
    goldsmith, store, lock, checkout, tmp_path
):
    """No scratch build for a mirror that refuses connections: the archive may well be there."""
    absent = next(archive for archive in lock.archives if archive.name == "mtools")
    (tmp_path / "store" / "sha256").mkdir(parents=True)
    for archive in lock.archives:
        if archive != absent:
            link_or_copy(store.object_path(archive.sha256), tmp_path / "store" / "sha256" / archive.sha256)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening
        done = goldsmith(
            "build", checkout, "--out", tmp_path / "out", "--quickstart",
            "--mirror", f"http://127.0.0.1:{closed.getsockname()[1]}/debian",
            env={"GOLDSMITH_STORE": str(tmp_path / "store"), "GOLDSMITH_VAULT": "", "GOLDSMITH_SNAPSHOT": ""},
            timeout=300,
        )  # fmt: skip
    assert done.code == 3
    assert "mtools" in done.stderr and "127.0.0.1" in done.stderr
    assert "has left every source" not in done.stderr and "scratch" not in done.stderr
    assert not (tmp_path / "out").exists()
