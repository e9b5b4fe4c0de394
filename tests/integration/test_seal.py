"""Sealing: what the signature adds to a release, that nobody needs the key to get the same bytes, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from running import RECIPE, Done, Goldsmith, copy_release

from measurements import golden
from measurements.events import DEFAULT_BANKS
from measurements.formats import gpt, pe

pytestmark = pytest.mark.integration

#: What a third party cannot make again: signatures of the release key, and that key.
_SIGNED_ANEW = {"golden.dsse.json", "release.pub"}
_SECTOR = 512


def seal(goldsmith: Goldsmith, release: Path, *arguments: str | Path) -> Done:
    return goldsmith("seal", release, *arguments, timeout=120)


def document(release: Path) -> golden.GoldenDocument:
    return golden.parse((release / "golden.json").read_bytes())


def test_the_unsigned_values_stay_and_the_signed_ones_come_beside_them(release: Path, sealed: Path):
    before, after = document(release), document(sealed)
    shapes = {prediction.shape.name: prediction for prediction in after.predictions}
    for prediction in before.predictions:
        assert shapes.pop(prediction.shape.name) == prediction
    committed = golden.parse((RECIPE / "golden.json").read_bytes())
    assert committed.predictions == before.predictions, "a build needs no key"
    assert sorted(shapes) == [
        f"qemu-vtpm/ovmf-{release}-secboot/{boot}/2-vcpus/2048-mib/secure-boot"
        for release in ("2025.02", "2026.08")
        for boot in ("direct", "disk")
    ]
    for prediction in shapes.values():
        assert prediction.shape.secure_boot
        unpinned = [r.index for r in prediction.registers if not r.values(DEFAULT_BANKS[0])]
        assert unpinned == [10], "IMA's, as without Secure Boot"
        authority = prediction.register(7).alternatives[0].events[-1]
        assert authority.cause == "uki signature"
    # One set of keys, one value, whatever the firmware and the boot path.
    assert len({p.register(7).values(DEFAULT_BANKS[0]) for p in shapes.values()}) == 1


def test_only_the_esp_of_the_disk_changes(release: Path, sealed: Path):
    before, after = ((folder / "disk.raw").read_bytes() for folder in (release, sealed))
    table = gpt.parse(before)
    esp = next(each for each in table.partitions if each.name == "esp")
    start, end = esp.first_lba * _SECTOR, (esp.last_lba + 1) * _SECTOR
    assert gpt.parse(after) == table
    assert len(before) == len(after)
    assert before[:start] == after[:start] and before[end:] == after[end:]
    image = (sealed / "uki.efi").read_bytes()
    assert image in after[start:end]
    assert after[start + 0x43 : start + 0x47] == before[start + 0x43 : start + 0x47], "FAT volume id"
    unsigned = (release / "uki.efi").read_bytes()
    offset, size = pe.parse(image).certificate_table
    assert (offset, size) == (len(unsigned), len(image) - len(unsigned))


def test_every_file_is_what_the_document_says(sealed: Path, goldsmith: Goldsmith):
    manifest = json.loads((sealed / "manifest.json").read_bytes())
    listed = {output["name"]: output["sha256"] for output in manifest["outputs"]}
    assert set(listed) == {path.name for path in sealed.iterdir()} - _SIGNED_ANEW - {"manifest.json"}
    signed = {output.name: output.sha256 for output in document(sealed).outputs}
    assert signed == {name: digest for name, digest in listed.items() if name != "golden.json"}
    assert "uki signature" in {part["name"] for part in manifest["parts"] if part["file"] == "disk.raw"}
    for name in ("sbom.spdx.json", "sbom.cdx.json"):
        text = (sealed / name).read_text()
        assert listed["uki.efi"] in text and listed["disk.raw"] in text
    # goldsmith why holds the bill of materials against the golden document beside it
    done = goldsmith("why", "/usr/bin/mount", "--release", sealed, timeout=60)
    assert done.code == 0, done.stderr


def test_a_third_party_without_the_key_gets_the_same_bytes(
    goldsmith: Goldsmith, release: Path, sealed: Path, tmp_path: Path
):
    out = tmp_path / "again"
    done = seal(
        goldsmith, release, "--signature", sealed / "uki.p7s", "--enrolment", sealed, "--out", out
    )  # fmt: skip
    assert done.code == 0, done.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in sealed.iterdir()}
    for name in sorted(names - _SIGNED_ANEW):
        assert (out / name).read_bytes() == (sealed / name).read_bytes(), name


def test_sealing_needs_the_db_key_alone(
    goldsmith: Goldsmith, release: Path, sealed: Path, secure_boot_keys: Path, tmp_path: Path
):
    keys = tmp_path / "keys"
    shutil.copytree(secure_boot_keys, keys)
    (keys / "PK.key").unlink()
    (keys / "KEK.key").unlink()
    done = seal(goldsmith, release, "--keys", keys, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["throwaway_key"] and len(told["sealed"]) == 4 and told["open"] == []
    assert (tmp_path / "out/uki.efi").read_bytes() == (sealed / "uki.efi").read_bytes()


def test_a_signature_of_another_image_is_refused(
    goldsmith: Goldsmith, release: Path, sealed: Path, tmp_path: Path
):
    other = bytearray((release / "uki.efi").read_bytes())
    section = pe.parse(bytes(other)).section(".osrel")
    other[section.raw_offset] ^= 1
    (tmp_path / "other.efi").write_bytes(other)
    done = goldsmith("keys", "make", tmp_path / "keys", timeout=60)
    assert done.code == 0, done.stderr
    done = goldsmith("keys", "sign", tmp_path / "keys", tmp_path / "other.efi", timeout=60)
    assert done.code == 0, done.stderr
    refuses(
        seal(goldsmith, release, "--signature", tmp_path / "other.p7s", "--enrolment", sealed,
             "--out", tmp_path / "out"),
        3, "the signature is one of another image", tmp_path / "out",
    )  # fmt: skip


def test_a_signature_by_another_key_is_refused(
    goldsmith: Goldsmith, release: Path, sealed: Path, tmp_path: Path
):
    done = goldsmith("keys", "make", tmp_path / "keys", timeout=60)
    assert done.code == 0, done.stderr
    done = goldsmith(
        "keys", "sign", tmp_path / "keys", release / "uki.efi", "--out", tmp_path / "uki.efi", timeout=60
    )
    assert done.code == 0, done.stderr
    refuses(
        seal(goldsmith, release, "--signature", tmp_path / "uki.p7s", "--enrolment", sealed,
             "--out", tmp_path / "out"),
        3, "none of its signatures chains to a certificate in db", tmp_path / "out",
    )  # fmt: skip


def test_a_release_that_is_not_as_built_is_refused(
    goldsmith: Goldsmith, release: Path, secure_boot_keys: Path, tmp_path: Path
):
    copy = copy_release(release, tmp_path / "copy")
    with (copy / "disk.raw").open("r+b") as disk:
        disk.seek((copy / "disk.raw").stat().st_size - (2 << 20))
        disk.write(b"another byte")
    refuses(
        seal(goldsmith, copy, "--keys", secure_boot_keys, "--out", tmp_path / "out"),
        1, "is not what its golden document says", tmp_path / "out",
    )  # fmt: skip


def test_sealing_twice_and_booting_without_keys_are_refused(
    goldsmith: Goldsmith, release: Path, sealed: Path, secure_boot_keys: Path, tmp_path: Path
):
    refuses(
        seal(goldsmith, sealed, "--keys", secure_boot_keys, "--out", tmp_path / "out"),
        2, "is sealed already", tmp_path / "out",
    )  # fmt: skip
    done = seal(goldsmith, release, "--keys", secure_boot_keys, "--out", release)
    assert (done.code, "which others reproduce" in done.stderr) == (2, True), done.stderr
    assert not (release / "uki.p7s").exists()
    done = goldsmith("boot", release, "--secure-boot", timeout=60)
    assert (done.code, "is not sealed" in done.stderr) == (2, True), done.stderr


def refuses(done: Done, code: int, message: str, out: Path) -> None:
    assert (done.code, message in done.stderr) == (code, True), (done.code, done.stderr)
    assert not out.exists()
