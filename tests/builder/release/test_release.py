"""Manifest, parts, comparison with committed values, publication."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from builder.artifacts import Output, PackageShare
from builder.errors import GoldenMismatchError, ImageError, UsageError
from builder.recipe.model import FirmwareSource
from builder.recipe.platforms import Platform
from builder.release.golden import check_committed, check_signed, sign_release
from builder.release.manifest import Manifest, Part, changed_parts, dump, load, output_of
from builder.release.publish import publish
from measurements import golden
from measurements.envelope import parse_statement, verify_envelope
from measurements.events import (
    DEFAULT_BANKS,
    Event,
    EventType,
    RegisterPrediction,
    Sequence,
    Stability,
    digests_of,
)
from measurements.keys import KeyAlgorithm, generate, load_public_key
from measurements.prediction import BootPath, FirmwareIdentity, LaunchShape, Prediction


def prediction(command_line: bytes = b"ro", *, vcpus: int = 2) -> Prediction:
    event = Event(
        register=11,
        type=EventType.IPL,
        digests=digests_of(command_line, DEFAULT_BANKS),
        description=".cmdline",
        cause="uki .cmdline",
    )
    return Prediction(
        shape=LaunchShape(
            platform="qemu-vtpm",
            firmware=FirmwareIdentity(name="ovmf", sha256="0" * 64, sha384="0" * 96),
            boot=BootPath.DISK,
            machine="pc-q35-10.0",
            memory_mib=2048,
            vcpus=vcpus,
        ),
        registers=(
            RegisterPrediction(
                index=11,
                stability=Stability.IMAGE,
                alternatives=(Sequence(label="boot", events=(event,)),),
            ),
        ),
    )


def document(command_line: bytes = b"ro") -> golden.GoldenDocument:
    return golden.document_from(
        image=golden.ImageIdentity(name="base", version="1.0", svn=1),
        source_date_epoch=1_700_000_000,
        validity=golden.Validity.since(1_700_000_000, days=365),
        inputs=golden.Inputs(recipe="1" * 64, lock="2" * 64),
        outputs=[golden.Output(name="disk.raw", size=4096, sha256="3" * 64)],
        calculator=golden.Calculator(name="goldsmith", version="0.1.0"),
        predictions=[prediction(command_line)],
    )


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Manifest]:
    folder = tmp_path / "release"
    folder.mkdir()
    disk = folder / "disk.raw"
    disk.write_bytes(b"A" * 100 + b"B" * 100 + b"C" * 56)
    parts = tuple(
        Part(
            name=name,
            file="disk.raw",
            offset=offset,
            size=size,
            sha256=hashlib.sha256(disk.read_bytes()[offset : offset + size]).hexdigest(),
        )
        for name, offset, size in (("partition table (GPT)", 0, 100), ("root file system", 100, 100))
    )
    manifest = Manifest(
        name="base",
        version="1.0",
        svn=1,
        source_date_epoch=1_700_000_000,
        recipe="1" * 64,
        lock="2" * 64,
        scratch=False,
        outputs=(output_of(disk),),
        parts=parts,
        sev_snp=(),
        tdx=(),
        platforms=(
            Platform(
                name="qemu-vtpm", machine="pc-q35-10.0", firmware=("ovmf",), memory_mib=(2048,), vcpus=(2,)
            ),
        ),
        firmware=(
            FirmwareSource(name="ovmf", suite="trixie", packages=("ovmf",), code="/a.fd", variables="/b.fd"),
        ),
        variables={"evidence_port": 8440},
        contents={"root": (PackageShare(name="systemd", version="257", files=3, size=12),)},
        toolbox={"erofs-utils": "1.8.6-1"},
        warnings=("no RIM",),
    )
    (folder / "manifest.json").write_bytes(dump(manifest))
    return folder, manifest


def test_a_manifest_reads_back_as_it_was_written(release):
    folder, manifest = release
    read = load(folder)
    assert read == replace(manifest, outputs=read.outputs)
    assert [(item.name, item.size, item.sha256) for item in read.outputs] == [
        (item.name, item.size, item.sha256) for item in manifest.outputs
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(format="goldsmith-manifest/2"),
        lambda value: value.pop("parts"),
        lambda value: value["outputs"][0].update(name="../../etc/passwd"),
        lambda value: value["outputs"][0].pop("sha256"),
        lambda value: value["platforms"][0].update(machine="q35"),
        lambda value: value["variables"].update(evidence_port=[1]),
    ],
)
def test_a_manifest_of_another_form_is_refused(release, change):
    folder, _ = release
    value = json.loads((folder / "manifest.json").read_bytes())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UsageError, match="not a manifest"):
        load(folder)


@pytest.mark.parametrize("raw", [b"", b"[", b"[]", b"\xff", b"[" * 100_000, b"{}" + b" " * (5 << 20)])
def test_bytes_that_are_no_manifest_are_refused(release, raw):
    folder, _ = release
    (folder / "manifest.json").write_bytes(raw)
    with pytest.raises(UsageError, match="not a manifest"):
        load(folder)


def test_a_folder_without_manifest_is_no_release(tmp_path):
    with pytest.raises(UsageError, match="no release folder"):
        load(tmp_path)


def test_an_untouched_release_has_no_changed_part(release):
    folder, manifest = release
    assert changed_parts(manifest, folder) == ()


@pytest.mark.parametrize(
    ("offset", "named"),
    [
        (3, ("disk.raw: partition table (GPT)",)),
        (150, ("disk.raw: root file system",)),
        (210, ("disk.raw: outside every known part",)),
    ],
)
def test_a_flipped_byte_is_named_by_its_part(release, offset, named):
    folder, manifest = release
    content = bytearray((folder / "disk.raw").read_bytes())
    content[offset] ^= 1
    (folder / "disk.raw").write_bytes(content)
    assert changed_parts(manifest, folder) == named


def test_a_truncated_and_a_missing_output_are_named(release):
    folder, manifest = release
    (folder / "disk.raw").write_bytes((folder / "disk.raw").read_bytes()[:120])
    assert changed_parts(manifest, folder) == ("disk.raw: root file system",)
    (folder / "disk.raw").unlink()
    assert changed_parts(manifest, folder) == ("disk.raw: missing",)


def test_a_build_that_moves_a_register_fails_and_names_the_input(tmp_path):
    committed = tmp_path / "golden.json"
    committed.write_bytes(golden.to_pretty(document()))
    check_committed(document(), committed, scratch=False, accept=False)
    with pytest.raises(GoldenMismatchError, match=r"PCR 11.*uki \.cmdline") as caught:
        check_committed(document(b"rw"), committed, scratch=False, accept=False)
    assert "--accept" in (caught.value.hint or "")
    assert caught.value.exit_code == 1
    assert golden.parse(committed.read_bytes()) == document()


def test_accepting_writes_the_new_values_and_scratch_builds_are_not_compared(tmp_path):
    committed = tmp_path / "golden.json"
    committed.write_bytes(golden.to_pretty(document()))
    check_committed(document(b"rw"), committed, scratch=True, accept=False)
    check_committed(document(b"rw"), committed, scratch=False, accept=True)
    assert golden.parse(committed.read_bytes()) == document(b"rw")


def test_a_qcow2_made_on_demand_neither_disagrees_nor_is_committed(tmp_path):
    committed = tmp_path / "golden.json"
    extra = golden.Output(name="disk.qcow2", size=1, sha256="4" * 64)
    with_qcow2 = replace(document(), outputs=(extra, *document().outputs))
    check_committed(with_qcow2, committed, scratch=False, accept=True)
    assert golden.parse(committed.read_bytes()) == document()
    check_committed(with_qcow2, committed, scratch=False, accept=False)


def with_outputs(found: golden.GoldenDocument, **digits: str) -> golden.GoldenDocument:
    """The same with more outputs, or others of the same name: file name, ``_`` for its dots -> digit of its digest."""
    outputs = {output.name: output for output in found.outputs}
    for name, digit in digits.items():
        file = name.replace("_", ".")
        outputs[file] = golden.Output(name=file, size=1, sha256=digit * 64)
    return replace(found, outputs=tuple(outputs[name] for name in sorted(outputs)))


def test_signed_modules_move_the_root_hash_and_what_follows_from_it():
    before = with_outputs(document(), x_ko="4")
    after = with_outputs(
        document(b"another root hash"), disk_raw="5", x_ko="4", x_ko_p7s="6", modules_pem="6"
    )
    check_signed(before, after)
    check_signed(before, before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: replace(found, inputs=golden.Inputs(recipe="9" * 64, lock="2" * 64)), "recipe sha256"),
        (lambda found: replace(found, inputs=golden.Inputs(recipe="1" * 64, lock="9" * 64)), "lock sha256"),
        (lambda found: replace(found, image=replace(found.image, svn=2)), "svn"),
        (lambda found: with_outputs(found, x_ko="9"), "output x.ko: sha256: 4+ -> 9+"),
        (lambda found: replace(found, outputs=found.outputs[:1]), "output x.ko: sha256: 4+ -> absent"),
        (lambda found: with_outputs(found, more="9"), "output more: sha256: absent -> 9+"),
        (lambda found: replace(found, predictions=(moved(found.predictions[0]),)), "PCR 11.*uki .linux"),
        (lambda found: replace(found, predictions=(prediction(vcpus=4),)), "vcpus: 2 -> 4"),
    ],
)
def test_what_else_moves_with_signed_modules_is_an_error(change, named):
    found = with_outputs(document(), x_ko="4")
    with pytest.raises(ImageError, match=named):
        check_signed(found, change(found))


def moved(found: Prediction) -> Prediction:
    """The same with another kernel."""
    (register,) = found.registers
    event = replace(
        register.alternatives[0].events[0], cause="uki .linux", digests=digests_of(b"x", DEFAULT_BANKS)
    )
    sequence = Sequence(label="boot", events=(event,))
    return replace(found, registers=(replace(register, alternatives=(sequence,)),))


def test_a_scratch_build_never_becomes_the_committed_document(tmp_path):
    committed = tmp_path / "golden.json"
    check_committed(document(), committed, scratch=True, accept=True)
    assert not committed.exists()


def test_a_committed_file_that_is_no_document_stops_the_build(tmp_path):
    (tmp_path / "golden.json").write_text("{}")
    with pytest.raises(GoldenMismatchError, match="no golden document"):
        check_committed(document(), tmp_path / "golden.json", scratch=False, accept=False)


def test_signatures_of_several_keys_and_of_a_throw_away_key(tmp_path):
    keys = [generate(KeyAlgorithm.ED25519), generate(KeyAlgorithm.ECDSA_P256)]
    sign_release(document(), keys, tmp_path)
    verified = verify_envelope(
        (tmp_path / "golden.dsse.json").read_bytes(), [key.public() for key in keys], 2
    )
    assert parse_statement(verified) == document()
    assert load_public_key((tmp_path / "release.pub").read_bytes()) == keys[0].public()
    sign_release(document(), [], tmp_path)
    only = load_public_key((tmp_path / "release.pub").read_bytes())
    assert (
        parse_statement(verify_envelope((tmp_path / "golden.dsse.json").read_bytes(), [only])) == document()
    )


def finished(base: Path, content: str) -> Path:
    folder = base / f"work-{content}" / "release"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(content)
    (folder / "manifest.json").chmod(0o600)
    return folder


def test_a_release_replaces_the_older_one_as_a_whole(tmp_path):
    out = tmp_path / "dist"
    publish(finished(tmp_path, "1"), out)
    (out / "stale").write_text("from the older release")
    publish(finished(tmp_path, "2"), out)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert (out / "manifest.json").read_text() == "2"
    assert (out / "manifest.json").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist", "work-1", "work-2"]


def test_a_folder_that_is_no_release_is_left_alone(tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="left alone"):
        publish(finished(tmp_path, "1"), out)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_may_be_taken(tmp_path):
    out = tmp_path / "empty"
    out.mkdir()
    publish(finished(tmp_path, "1"), out)
    assert os.listdir(out) == ["manifest.json"]


def test_an_output_is_described_by_name_size_and_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    # printf x | sha256sum
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert output_of(tmp_path / "a") == Output(name="a", path=tmp_path / "a", size=1, sha256=digest)
