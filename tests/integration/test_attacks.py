"""What an attacker does to a release, a disk, a firmware file or evidence, and what names it.

Two attackers change a disk: one flips a byte, and the release's own digests name the part; the other rewrites
manifest.json too, and then only the machine can tell: through its evidence, or by not coming up.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from running import BootRun, copy_release

from builder.artifacts import Firmware
from builder.diagnosis import diagnose
from builder.launches import launches, predict_launch
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from builder.tools import Tools
from measurements import golden
from measurements.attestation_key import load_attestation_key
from measurements.envelope import parse_statement, sign_document, verify_envelope
from measurements.formats import gpt
from measurements.keys import KeyAlgorithm, generate, load_private_key, load_public_key
from measurements.policy import ExpectedNonce, PinnedKey, Policy
from measurements.prediction import BootPath, Prediction
from measurements.verify import Status, Verdict, verify

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


def part(release: Path, name: str, file: str = "disk.raw") -> manifests.Part:
    found = [item for item in manifests.load(release).parts if (item.file, item.name) == (file, name)]
    assert len(found) == 1, f"{name} in {file}"
    return found[0]


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


def rename_partition(disk: Path) -> None:
    """Change the name of the first partition, and repair both checksums (UEFI 2.10, 5.3.2)."""
    with disk.open("r+b") as file:
        file.seek(512)
        header = bytearray(file.read(92))
        entries_lba, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(entries_lba * 512)
        entries = bytearray(file.read(count * size))
        entries[56] ^= 2
        struct.pack_into("<I", header, 88, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        file.seek(entries_lba * 512)
        file.write(entries)
        file.seek(512)
        file.write(header)


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


class Desk:
    """What an operator has: the toolbox, the firmware builds, the release; no machine."""

    def __init__(self, release: Path, tools: Tools, builds: tuple[Firmware, ...], store: Store) -> None:
        self.release, self.tools, self.store = release, tools, store
        platforms = manifests.load(release).platforms
        self.disk_launches = {
            item.firmware.name: item for item in launches(platforms, builds) if item.boot is BootPath.DISK
        }

    def predict(
        self, *, uki: bytes | None = None, disk: bytes | None = None, build: str = "ovmf-2025.02"
    ) -> Prediction:
        """Predict a disk boot of another UKI, partition table, or firmware."""
        return predict_launch(
            self.disk_launches[build],
            uki=uki or (self.release / "uki.efi").read_bytes(),
            disk=gpt.parse(disk or self.disk_prefix()),
            tools=self.tools,
            store=self.store,
        )

    def diagnose(self, folder: Path, document: golden.GoldenDocument) -> tuple[str, ...]:
        launch = self.disk_launches["ovmf-2025.02"]
        shape = self.predict().shape.name
        return diagnose(folder, document, shape, launch, tools=self.tools, store=self.store)

    def disk_prefix(self) -> bytes:
        with (self.release / "disk.raw").open("rb") as file:
            return file.read(1 << 20)


@pytest.fixture(scope="module")
def desk(release, lock, store) -> Desk:
    builds = firmware(manifests.load(release).firmware, lock, store)
    return Desk(release, unpack_toolbox(lock, store), builds, store)


@pytest.fixture(scope="module")
def document(release) -> golden.GoldenDocument:
    key = load_public_key((release / "release.pub").read_bytes())
    return parse_statement(verify_envelope((release / "golden.dsse.json").read_bytes(), [key]))


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


# Evidence against the document of another image. Which of both an attacker made is the same to a verifier, so
# one genuine boot meets the documents of the images that an attacker would have booted.


def judge(
    genuine: BootRun, document: golden.GoldenDocument, key: Path, *, evidence: bytes | None = None, **demands
) -> Verdict:
    signer = load_private_key(key.read_bytes())
    values = {
        "signers": (signer.public(),),
        "threshold": 1,
        "nonce": ExpectedNonce(value=bytes.fromhex(genuine.nonce)),
        "attestation_key": PinnedKey(key=load_attestation_key(genuine.attestation_key.read_text())),
        "now": None,
        "minimum_svn": 0,
        **demands,
    }
    return verify(
        sign_document(document, [signer]), evidence or genuine.evidence.read_bytes(), Policy(**values)
    )


def failed(verdict: Verdict) -> dict[str, str]:
    assert not verdict.passed
    return {check.name: check.detail for check in verdict.checks if check.status is Status.FAILED}


def test_evidence_passes_against_its_own_prediction(genuine, document, desk, signing_key):
    """The attacks below start from what holds."""
    own = replace(document, predictions=(desk.predict(),), image_layer=None)
    assert judge(genuine, own, signing_key).passed
    assert own.predictions[0] in document.predictions


@pytest.mark.parametrize("section", [".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".sbat"])
def test_another_uki_section(genuine, release, document, desk, signing_key, section):
    uki = bytearray((release / "uki.efi").read_bytes())
    uki[part(release, f"uki {section}", "uki.efi").offset + 9] ^= 1
    verdict = judge(
        genuine, replace(document, predictions=(desk.predict(uki=bytes(uki)),), image_layer=None), signing_key
    )
    assert f"PCR 11: uki {section} differs" in failed(verdict)["events"]


def test_another_root_with_its_own_root_hash(genuine, release, document, desk, signing_key):
    uki = (release / "uki.efi").read_bytes()
    at = uki.index(b"roothash=") + len(b"roothash=")
    other = uki[:at] + hashlib.sha256(b"another root").hexdigest().encode() + uki[at + 64 :]
    verdict = judge(
        genuine, replace(document, predictions=(desk.predict(uki=other),), image_layer=None), signing_key
    )
    assert "PCR 11: uki .cmdline differs (the command line carries the root hash" in failed(verdict)["events"]


def test_another_partition_table(genuine, document, desk, signing_key, tmp_path):
    (tmp_path / "prefix").write_bytes(desk.disk_prefix())
    rename_partition(tmp_path / "prefix")
    other = desk.predict(disk=(tmp_path / "prefix").read_bytes())
    said = failed(judge(genuine, replace(document, predictions=(other,), image_layer=None), signing_key))
    assert "PCR 5: disk partition table differs" in said["events"]


def test_another_firmware_build(genuine, document, desk, signing_key):
    other = desk.predict(build="ovmf-2026.08")
    said = failed(
        judge(
            genuine,
            replace(document, predictions=(other,), image_layer=None),
            signing_key,
            shape=other.shape.name,
        )
    )
    assert "PCR 0" in said["registers"] and "firmware" in said["registers"]


def test_document_of_another_image(genuine, document, signing_key):
    other = replace(document, image=replace(document.image, name="other"))
    assert "'other'" in failed(judge(genuine, other, signing_key, image="base"))["validity"]


def test_version_that_is_no_longer_trusted(genuine, document, signing_key):
    said = failed(judge(genuine, document, signing_key, minimum_svn=document.image.svn + 1))
    assert "SVN 1 is below the floor 2" in said["validity"]


def test_replayed_evidence(genuine, document, signing_key):
    """The nonce of now, and the answer of then; then the same with the outer nonce edited to fit."""
    fresh = hashlib.sha256(b"a fresh nonce").digest()
    said = failed(judge(genuine, document, signing_key, nonce=ExpectedNonce(value=fresh)))
    assert set(said) >= {"nonce", "qualifying data"}
    value = json.loads(genuine.evidence.read_bytes())
    value["nonce"] = fresh.hex()
    said = failed(
        judge(
            genuine, document, signing_key,
            nonce=ExpectedNonce(value=fresh), evidence=json.dumps(value).encode(),
        )
    )  # fmt: skip
    assert "qualifying data" in said and "nonce" not in said


def test_register_value_that_was_not_quoted(genuine, document, signing_key):
    value = json.loads(genuine.evidence.read_bytes())
    for quote in value["quotes"]:
        quote["pcrs"]["12"] = "11" * (len(quote["pcrs"]["12"]) // 2)
    said = failed(judge(genuine, document, signing_key, evidence=json.dumps(value).encode()))
    assert "PCR digest" in said


def test_event_log_that_was_edited(genuine, document, signing_key):
    value = json.loads(genuine.evidence.read_bytes())
    log = bytearray(base64.b64decode(value["event_log"]))
    log[-40] ^= 1
    value["event_log"] = base64.b64encode(log).decode()
    assert not judge(genuine, document, signing_key, evidence=json.dumps(value).encode()).passed


def test_document_signed_by_somebody_else(goldsmith, genuine, release, tmp_path):
    (tmp_path / "other.pub").write_bytes(generate(KeyAlgorithm.ED25519).public().pem())
    done = goldsmith(
        "verify", "--golden", release / "golden.dsse.json", "--key", tmp_path / "other.pub",
        "--evidence", genuine.evidence, "--nonce", genuine.nonce, "--ak", genuine.attestation_key, "--json",
        timeout=60,
    )  # fmt: skip
    verdict = json.loads(done.stdout)
    assert (done.code, verdict["verdict"]) == (1, "fail")
    assert verdict["checks"][0]["status"] == "failed"


def test_boot_refuses_a_release_signed_by_somebody_else(goldsmith, release, tmp_path):
    (tmp_path / "trusted.pub").write_bytes(generate(KeyAlgorithm.ECDSA_P256).public().pem())
    done = goldsmith("boot", release, "--key", tmp_path / "trusted.pub", "--json", timeout=60)
    assert done.code == 1
    assert "golden.dsse.json" in done.stderr and "sign" in done.stderr
    assert "boot ovmf" not in done.stderr, "nothing untrusted is started"
