"""`goldsmith audit` on real bytes: the release, images rebuilt or changed in place, recipes that break the profile."""

from __future__ import annotations

import io
import json
import lzma
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import jsonschema
import pytest

from builder.audit import audit_release, open_image
from builder.audit.image import BootImage
from builder.audit.report import read_declared
from builder.audit.sarif import dump_sarif
from builder.errors import AuditError
from builder.image.disk import assemble_disk, identify
from builder.image.esp import BOOT_PATH, build_esp
from builder.image.identity import root_identity
from builder.image.verity import format_verity
from builder.lockfile import read_lock
from builder.store import Store

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MTOOLS = {"MTOOLSRC": "/dev/null", "MTOOLS_SKIP_CHECK": "1"}


def goldsmith(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("goldsmith"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture
def copy(image, tmp_path) -> Path:
    folder = tmp_path / "release"
    shutil.copytree(image.release, folder)
    return folder


@pytest.fixture
def failing(image):
    """Audit two files as the base image's, and return the rules that fail."""
    declared = read_declared((image.release / "audit.json").read_bytes())
    lock = read_lock(image.release / "lock.json", recipe="base")

    def run(disk: Path, uki: Path) -> dict[str, list[str]]:
        report = audit_release(disk=disk, uki=uki, declared=declared, lock=lock, store=Store.default())
        return {result.rule.id: [finding.place for finding in result.findings] for result in report.failed}

    return run


def partition(release: Path, name: str) -> tuple[int, int]:
    """Offset and size of a partition, by the manifest."""
    parts = json.loads((release / "manifest.json").read_bytes())["parts"]
    (part,) = [part for part in parts if (part["file"], part["name"]) == ("disk.raw", name)]
    return part["offset"], part["size"]


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_the_release_passes_and_its_report_is_bound(image):
    done = goldsmith("audit", image.release, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == "pass" and said["changed"] == [] and said["summary"]["fail"] == 0
    recorded = json.loads((image.release / "audit.json").read_bytes())
    assert recorded["rules"] == said["rules"] and len(recorded["rules"]) > 60
    outputs = {item["name"] for item in json.loads((image.release / "golden.json").read_bytes())["outputs"]}
    assert "audit.json" in outputs
    again = goldsmith("audit", image.release, "--recipe", "base")
    assert again.returncode == 0 and "verdict: pass" in again.stdout
    assert "warning" not in again.stderr


def test_sarif_is_valid_by_its_schema(image, copy):
    schema = json.loads(
        lzma.decompress((ROOT / "tests/vectors/sarif/sarif-schema-2.1.0.json.xz").read_bytes())
    )
    overwrite(copy / "disk.raw", partition(copy, "verity hash tree")[0] + 4096, b"changed")
    for folder, code in ((image.release, 0), (copy, 1)):
        log = copy / "audit.sarif"
        done = goldsmith("audit", folder, "--sarif", log)
        assert done.returncode == code, done.stderr
        document = json.loads(log.read_bytes())
        jsonschema.Draft4Validator(schema).validate(document)
        (run,) = document["runs"]
        kinds = {result["ruleId"]: result["kind"] for result in run["results"]}
        assert kinds.keys() == {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        assert ("fail" in kinds.values()) == bool(code)


def test_a_changed_block_is_outside_of_verity_and_of_the_document(copy):
    overwrite(copy / "disk.raw", partition(copy, "verity hash tree")[0] + 4096, b"changed")
    done = goldsmith("audit", copy)
    assert done.returncode == 1
    assert "GS-IMAGE-001 fail" in done.stdout and "why: disk.raw: SHA-256" in done.stdout


def test_a_file_that_does_not_unpack_any_more_is_an_error(copy):
    overwrite(copy / "disk.raw", partition(copy, "root file system")[0] + 8 * 4096, b"changed")
    done = goldsmith("audit", copy)
    assert done.returncode == 3 and "damaged" in done.stderr and "Traceback" not in done.stderr


def test_a_disk_that_is_none_is_an_error(copy):
    overwrite(copy / "disk.raw", 512, bytes(512))
    done = goldsmith("audit", copy)
    assert done.returncode == 3 and "cannot be audited" in done.stderr
    with pytest.raises(AuditError):
        open_image(copy / "golden.json", copy / "uki.efi")


def test_a_command_line_changed_in_place(copy, failing):
    for name in ("disk.raw", "uki.efi"):
        raw = (copy / name).read_bytes()
        words = b"lockdown=confidentiality"
        assert raw.count(words) >= 1
        (copy / name).write_bytes(raw.replace(words, b"lockdown=integrity".ljust(len(words))))
    found = failing(copy / "disk.raw", copy / "uki.efi")
    assert {"GS-KERNEL-001", "GS-HOST-005", "GS-HOST-012"} <= found.keys()
    assert "GS-IMAGE-004" not in found


def test_an_addon_on_the_esp_and_bytes_between_partitions(image, copy, failing):
    offset, size = partition(copy, "EFI system partition")
    esp = copy / "esp.img"
    with (copy / "disk.raw").open("rb") as disk:
        disk.seek(offset)
        esp.write_bytes(disk.read(size))
    (copy / "x.efi").write_bytes(b"MZ add-on")
    image.tools.run("mmd", "-i", esp, "::/loader", env=MTOOLS)
    image.tools.run("mcopy", "-i", esp, copy / "x.efi", "::/loader/x.addon.efi", env=MTOOLS)
    overwrite(copy / "disk.raw", offset, esp.read_bytes())
    overwrite(copy / "disk.raw", 600 * 512, b"hidden")
    found = failing(copy / "disk.raw", copy / "uki.efi")
    assert found == {
        "GS-IMAGE-003": ["disk.raw:byte 17408"], "GS-IMAGE-004": ["disk.raw:esp/LOADER/X.ADDON.EFI"],
    }  # fmt: skip


def test_a_signed_uki_on_the_esp_is_the_same_image(image, copy, tmp_path):
    """The last step of a sealed release: only the ESP's copy carries the signature."""
    done = goldsmith("keys", "make", tmp_path / "keys", "--bits", "2048")
    assert done.returncode == 0, done.stderr
    done = goldsmith("keys", "sign", tmp_path / "keys", copy / "uki.efi")
    assert done.returncode == 0, done.stderr
    signed, esp = copy / "uki.signed.efi", copy / "esp.img"
    offset, size = partition(copy, "EFI system partition")
    with (copy / "disk.raw").open("rb") as disk:
        disk.seek(offset)
        esp.write_bytes(disk.read(size))
    image.tools.run("mcopy", "-o", "-i", esp, signed, f"::/{BOOT_PATH}", env=MTOOLS)
    overwrite(copy / "disk.raw", offset, esp.read_bytes())
    assert open_image(copy / "disk.raw", copy / "uki.efi").boot_image is BootImage.SIGNED
    raw = bytearray(signed.read_bytes())
    raw[100_000] ^= 1
    signed.write_bytes(raw)
    image.tools.run("mcopy", "-o", "-i", esp, signed, f"::/{BOOT_PATH}", env=MTOOLS)
    overwrite(copy / "disk.raw", offset, esp.read_bytes())
    assert open_image(copy / "disk.raw", copy / "uki.efi").boot_image is BootImage.OTHER


def test_a_root_rebuilt_with_privileges(image, tmp_path, failing):
    """A real EROFS with a setuid file, a file capability and a device, under its own verity, in a real UKI."""
    tree = open_image(image.release / "disk.raw", image.release / "uki.efi").root
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, file in tree.items():
            member = tarfile.TarInfo(path.lstrip("/") or ".")
            member.mtime = image.tools.source_date_epoch
            member.mode = file.permissions
            if path == "/usr/bin/mount":
                member.mode = 0o4755
            if path == "/usr/bin/umount":
                member.pax_headers = {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0\x20" + "\0" * 14}
            if path == "/etc/passwd":
                member.uid, member.mode = 980, 0o666
            kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
            member.type = kinds.get(stat.S_IFMT(file.mode), tarfile.REGTYPE)
            member.linkname = file.target
            member.size = len(file.content) if file.is_file else 0
            archive.addfile(member, io.BytesIO(file.content))
        device = tarfile.TarInfo("dev/mem")
        device.mtime = image.tools.source_date_epoch
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 1
        archive.addfile(device)
    (tmp_path / "root.tar").write_bytes(buffer.getvalue())
    identity = root_identity("base", "1.0")
    erofs, tools = tmp_path / "root.erofs", image.tools
    with (tmp_path / "root.tar").open("rb") as source:
        tools.run(
            "mkfs.erofs", "--quiet", "-d0", "--tar=f", "-b4096", "-zlz4", "-C65536",
            f"-T{tools.source_date_epoch}", "--all-time", f"-U{identity.erofs_uuid}", erofs, stdin=source,
        )  # fmt: skip
    verity = format_verity(erofs, identity=identity, tools=tools, workdir=tmp_path)
    uki, raw = tmp_path / "uki.efi", (image.release / "uki.efi").read_bytes()
    place = raw.index(b"roothash=") + len(b"roothash=")
    uki.write_bytes(raw[:place] + verity.root_hash.encode() + raw[place + 64 :])
    ids = identify(verity, uki)
    esp = build_esp(uki, volume_id=ids.fat_volume, tools=tools, workdir=tmp_path)
    disk = assemble_disk(esp, verity, identity=ids, output=tmp_path / "disk.raw")
    assert failing(disk, uki) == {
        "GS-USER-001": ["root:/usr/bin/mount"],
        "GS-USER-002": ["root:/usr/bin/umount"],
        "GS-USER-005": ["root:/etc/passwd", "root:/etc/passwd"],
        "GS-USER-006": ["root:/dev/mem"],
    }


@pytest.fixture
def build(tmp_path):
    """Build base with other text in its recipes: (file, old, new)."""
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (recipes / "base/golden.json").unlink(missing_ok=True)

    def run(*changes: tuple[str, str, str]) -> subprocess.CompletedProcess[str]:
        for name, old, new in changes:
            path = recipes / name
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        return goldsmith(
            "build", recipes / "base/recipe.yaml", "--offline", "--out", tmp_path / "out", timeout=500
        )

    return run


def waive(rule: str) -> tuple[str, str, str]:
    return (
        "base/recipe.yaml",
        "platforms:\n",
        f'audit:\n  waive:\n    {rule}: "tried on purpose, in a test"\nplatforms:\n',
    )


def test_a_failing_rule_fails_the_build_until_it_is_waived(build, tmp_path):
    done = build(("common/hardening/sysctl.conf", "kernel.io_uring_disabled = 2\n", ""))
    assert done.returncode == 3
    assert (
        "GS-KERNEL-012" in done.stderr and "io_uring_disabled" in done.stderr and "audit.waive" in done.stderr
    )
    assert not (tmp_path / "out").exists()
    done = build(waive("GS-KERNEL-012"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/audit.json").read_bytes())
    (rule,) = [rule for rule in report["rules"] if rule["id"] == "GS-KERNEL-012"]
    assert (rule["outcome"], rule["reason"]) == ("waived", "tried on purpose, in a test")
    assert "io_uring" in rule["findings"][0]["expected"]
    done = goldsmith("audit", tmp_path / "out")
    assert done.returncode == 0 and "because tried on purpose" in done.stdout


@pytest.mark.parametrize(
    ("rule", "message"), [("GS-KERNEL-012", "the waiver is not used"), ("GS-KERNEL-999", "there is no rule")]
)
def test_waivers_that_hide_nothing_are_errors(build, rule, message):
    done = build(waive(rule))
    assert done.returncode == 2
    assert rule in done.stderr and message in done.stderr


def test_sarif_of_a_waived_rule(image):
    declared = read_declared((image.release / "audit.json").read_bytes())
    from dataclasses import replace

    lock = read_lock(image.release / "lock.json", recipe="base")
    report = audit_release(
        disk=image.release / "disk.raw", uki=image.release / "uki.efi",
        declared=replace(declared, ports={}, waivers={"GS-NET-003": "a reason", "GS-NET-004": "b", "GS-NET-005": "c"}),
        lock=lock, store=Store.default(),
    )  # fmt: skip
    results = json.loads(dump_sarif(report))["runs"][0]["results"]
    (waived,) = [result for result in results if result["ruleId"] == "GS-NET-003"]
    assert waived["suppressions"] == [{"kind": "external", "status": "accepted", "justification": "a reason"}]
