"""What an attacker does to the disk of a release, and what names it.

Two attackers change a disk: one flips a byte, and the release's own digests name the part; the other rewrites
manifest.json too, and then only the machine can tell: through its evidence, or by not coming up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from attacking import part, rename_partition
from running import BootRun, copy_release

from builder.release import manifest as manifests

pytestmark = pytest.mark.integration

PARTS = [
    "root file system",
    "verity hash tree",
    "uki .initrd",
    "uki .linux",
    "uki .cmdline",
    "EFI system partition",
    "partition table (GPT)",
    "backup partition table (GPT)",
]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def offset_of(release: Path, name: str, text: bytes) -> int:
    """Return where ``text`` lies on the disk, inside a part."""
    place = part(release, name)
    with (release / "disk.raw").open("rb") as file:
        file.seek(place.offset)
        return place.offset + file.read(place.size).index(text)


# The first attacker: a byte, and nothing else.


@pytest.mark.parametrize("name", PARTS)
def test_flipped_byte_on_the_disk_is_named_before_the_boot(release, tmp_path, name):
    copy = copy_release(release, tmp_path / "base", without=["disk.qcow2"])
    (copy / "disk.qcow2").symlink_to(release / "disk.qcow2")
    place = part(release, name)
    # The end of a partition table's stretch is its last, unused entry; everything else is full to the middle.
    flip(copy / "disk.raw", place.offset + (place.size - 1 if "GPT" in name else place.size // 2))
    changed = manifests.changed_parts(manifests.load(copy), copy)
    assert f"disk.raw: {name}" in changed
    # A section lies inside the EFI system partition, which has changed with it; nothing else has.
    assert set(changed) - {"disk.raw: EFI system partition"} <= {f"disk.raw: {name}"} or name == PARTS[5]


@pytest.mark.parametrize("name", ["uki .initrd", "uki .cmdline", "uki .linux"])
def test_flipped_byte_in_the_uki_file_is_named_before_the_boot(release, tmp_path, name):
    copy = copy_release(release, tmp_path / "base", without=["disk.qcow2", "disk.raw"])
    for output in ("disk.qcow2", "disk.raw"):
        (copy / output).symlink_to(release / output)
    place = part(release, name, "uki.efi")
    flip(copy / "uki.efi", place.offset + 7)
    assert manifests.changed_parts(manifests.load(copy), copy) == (f"uki.efi: {name}",)


def test_removed_output_is_named(release, tmp_path):
    copy = copy_release(release, tmp_path / "base", without=["disk.qcow2", "disk.raw"])
    (copy / "disk.raw").symlink_to(release / "disk.raw")
    assert manifests.changed_parts(manifests.load(copy), copy) == ("disk.qcow2: missing",)


# The second attacker: also writes the manifest.


def forge(release: Path, target: Path, edit: Callable[[Path], None]) -> Path:
    """Copy the release, change its disk, and let its manifest agree with the change."""
    copy = copy_release(release, target, without=["disk.qcow2"])
    edit(copy / "disk.raw")
    disk = (copy / "disk.raw").read_bytes()
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["outputs"] = [item for item in manifest["outputs"] if item["name"] != "disk.qcow2"]
    for item in manifest["outputs"]:
        if item["name"] == "disk.raw":
            item["sha256"] = hashlib.sha256(disk).hexdigest()
    for item in manifest["parts"]:
        if item["file"] == "disk.raw":
            stretch = disk[item["offset"] : item["offset"] + item["size"]]
            item["sha256"] = hashlib.sha256(stretch).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def assert_refused(run: BootRun, *words: str) -> None:
    assert (run.code, run.report["verdict"]) == (1, "fail")
    # The signature covers the digest of the disk, whatever the manifest says.
    assert "manifest.json: not what the signed golden document says about disk.raw" in run.reasons
    for word in words:
        assert word in run.reasons
    assert run.leftovers == ()


def test_flipped_byte_in_the_root_stops_the_machine(goldsmith, release, tmp_path):
    """dm-verity refuses the block, the kernel panics, and the machine ends instead of hanging."""
    place = part(release, "root file system")
    copy = forge(release, tmp_path / "base", lambda disk: flip(disk, place.offset + 1024 + 4))
    run = goldsmith.boot(copy, folder=tmp_path)
    assert_refused(run, "root file system", "dm-verity refuses", "the machine switched itself off")
    assert run.report["seconds"] is None and run.report["registers"] == {}
    assert not run.evidence.exists()


def test_flipped_byte_in_the_initrd_stops_the_machine(goldsmith, release, tmp_path):
    place = part(release, "uki .initrd")
    copy = forge(release, tmp_path / "base", lambda disk: flip(disk, place.offset + place.size // 2))
    run = goldsmith.boot(copy, folder=tmp_path)
    assert_refused(run, "uki .initrd is not what the signed document says (PCR 9, 11)")
    assert "root file system" not in run.reasons


def test_flipped_byte_in_the_command_line_stops_the_machine(goldsmith, release, tmp_path):
    """`systemd.firstboot=no` becomes `=nn`: the image knows its own words, and powers off."""
    text = b"systemd.firstboot=no"
    at = offset_of(release, "uki .cmdline", text) + len(text) - 1
    copy = forge(release, tmp_path / "base", lambda disk: flip(disk, at))
    run = goldsmith.boot(copy, folder=tmp_path)
    assert_refused(
        run, "uki .cmdline is not what the signed document says (PCR 9, 11)", "switched itself off"
    )
    assert not run.evidence.exists()


def test_flipped_byte_in_a_section_that_nothing_reads_is_in_the_evidence(goldsmith, release, tmp_path):
    """A letter of the UKI's .osrel: the machine comes up, and PCR 9 (the stub's copy of it) and 11 tell."""
    text = b"NAME="
    at = offset_of(release, "uki .osrel", text) + len(text) + 1
    copy = forge(release, tmp_path / "base", lambda disk: flip(disk, at))
    run = goldsmith.boot(copy, folder=tmp_path)
    assert_refused(run, "PCR 4, 9, 11 differ", "PCR 11: uki .osrel differs")
    for bank in ("sha256", "sha384"):
        assert not run.register(bank, 11)["equal"]
        assert "uki .osrel" in run.register(bank, 11)["reason"]
        assert run.register(bank, 5)["equal"]


def test_changed_partition_table_is_in_the_evidence(goldsmith, release, tmp_path):
    copy = forge(release, tmp_path / "base", rename_partition)
    run = goldsmith.boot(copy, folder=tmp_path)
    assert_refused(run, "registers: PCR 5 differ", "disk partition table differs", "partition 1: name is gsp")
    assert run.register("sha256", 11)["equal"]


# What is said when there is no evidence: the disk itself, held against the signed document.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("partition table (GPT)", "partition table (GPT)"),
        ("uki .linux", "uki .linux is not what the signed document says"),
        ("uki .initrd", "uki .initrd is not what the signed document says (PCR 9, 11)"),
        ("uki .cmdline", "uki .cmdline is not what the signed document says (PCR 9, 11)"),
        ("root file system", "root file system or verity hash tree: dm-verity refuses them"),
        ("verity hash tree", "root file system or verity hash tree: dm-verity refuses them"),
    ],
)
def test_diagnosis_names_the_part(release, document, desk, tmp_path, name, said):
    place = part(release, name)
    # The middle of a partition table's stretch is an unused entry, which its checksum covers all the same.
    copy = forge(release, tmp_path / "base", lambda disk: flip(disk, place.offset + place.size // 2))
    findings = desk.diagnose(copy, document)
    assert findings and any(finding.startswith(said) for finding in findings)


def test_diagnosis_of_a_genuine_release_finds_nothing(release, document, desk):
    assert desk.diagnose(release, document) == ()
