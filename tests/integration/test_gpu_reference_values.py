"""From ``goldsmith rim add`` to a verdict: NVIDIA's genuine manifests in a release, and what a verifier makes of it.

The recipe is base with a section ``gpu`` for the driver of those manifests, which is enough for a build of seconds. Its
machine has neither a GPU nor a gate: what a host shows that drops them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from running import ROOT, BootRun, Goldsmith, copy_release

from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import unpack_toolbox
from measurements import golden
from measurements.gpu import expectations

pytestmark = pytest.mark.integration

VECTORS = ROOT / "tests/vectors/nvidia"
#: NVIDIA's manifests -> the ids under which its service has them.
MANIFESTS = {
    "driver-545.00.swidtag": "NV_GPU_DRIVER_GH100_545.00",
    "vbios-96.00.5E.00.01.swidtag": "NV_GPU_VBIOS_1010_0200_882_96005E0001",
}
#: When their certificates were valid.
THEN = "2024-06-01T00:00:00Z"
WARNING = "no reference values (RIM) of driver 545.00 (NV_GPU_DRIVER_GH100_545.00) are held"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """recipes/base for one GPU, in a checkout of its own."""
    recipes = tmp_path_factory.mktemp("checkout") / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    (recipes / "base/golden.json").unlink()
    with (recipes / "base/recipe.yaml").open("a") as file:
        file.write('gpu: {architecture: hopper, driver: "545.00"}\n')
    return recipes / "base"


@pytest.fixture(scope="module")
def bare(goldsmith: Goldsmith, store: Store, recipe: Path, signing_key: Path, tmp_path_factory) -> Path:
    """A release without reference values; and what the build said about that."""
    out = tmp_path_factory.mktemp("bare") / "base"
    options = ("build", recipe, "--offline", "--out", out, "--key", signing_key, "--json")
    refused = goldsmith(*options, "--require-rim", timeout=60)
    assert refused.code == 3 and WARNING in refused.stderr and not out.exists()
    done = goldsmith(*options, timeout=300)
    assert done.code == 0, done.stderr
    assert f"warning: {WARNING}" in done.stderr
    assert json.loads(done.stdout)["warnings"][0].startswith(WARNING)
    return out


@pytest.fixture(scope="module")
def complete(goldsmith: Goldsmith, bare: Path, recipe: Path, signing_key: Path, tmp_path_factory) -> Path:
    """The same release with NVIDIA's manifests imported."""
    for name, identifier in MANIFESTS.items():
        done = goldsmith(
            "rim", "add", VECTORS / name, "--recipe", recipe, "--id", identifier, "--at", THEN, timeout=60
        )
        assert done.code == 0, done.stderr
    out = tmp_path_factory.mktemp("complete") / "base"
    done = goldsmith(
        "build", recipe, "--offline", "--out", out, "--key", signing_key, "--require-rim", timeout=300
    )
    assert done.code == 0 and "RIM" not in done.stderr, done.stderr
    return out


@pytest.fixture(scope="module")
def run(goldsmith: Goldsmith, complete: Path, tmp_path_factory) -> BootRun:
    return goldsmith.boot(complete, "--firmware", "ovmf-2025.02", folder=tmp_path_factory.mktemp("boot"))


def document(release: Path) -> golden.GoldenDocument:
    return golden.parse((release / "golden.json").read_bytes())


def test_the_document_pins_the_very_files(complete: Path):
    expected = document(complete).gpu
    assert expected is not None and expected.missing == ()
    digests = {identifier: _sha256(VECTORS / name) for name, identifier in MANIFESTS.items()}
    assert {rim.id: rim.sha256 for rim in expected.rims} == digests
    outputs = {output.name: output.sha256 for output in document(complete).outputs}
    for identifier, sha256 in digests.items():
        assert outputs[f"{identifier}.swidtag"] == sha256 == _sha256(complete / f"{identifier}.swidtag")


def test_the_image_holds_policy_and_manifests(complete: Path, tmp_path: Path):
    """As erofs-utils read them from the disk that boots."""
    root = _root(complete, tmp_path)
    folder = root / "usr/lib/goldsmith/gpu"
    assert expectations.parse((folder / "policy.json").read_bytes()) == document(complete).gpu
    assert {path.name: _sha256(path) for path in (folder / "rims").iterdir()} == {
        f"{identifier}.swidtag": _sha256(VECTORS / name) for name, identifier in MANIFESTS.items()
    }
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.rglob("*") if path.is_file())


def test_the_bill_of_materials_knows_them(goldsmith: Goldsmith, complete: Path):
    for path, origin in (
        ("policy.json", "recipes/base/recipe.yaml"),
        ("rims/NV_GPU_DRIVER_GH100_545.00.swidtag", "recipes/base/rims/NV_GPU_DRIVER_GH100_545.00.swidtag"),
    ):
        done = goldsmith("why", f"/usr/lib/goldsmith/gpu/{path}", "--release", complete, timeout=60)
        assert done.code == 0 and origin in done.stdout, done.stdout + done.stderr


def test_warnings_are_part_of_the_release(bare: Path, complete: Path):
    assert [text.partition(":")[0] for text in manifests.load(bare).warnings] == [
        WARNING,
        "no reference values (RIM) of any VBIOS (NV_GPU_VBIOS_<project>_<project SKU>_<chip SKU>_<version>) are held",
    ]
    assert manifests.load(complete).warnings == ()


def test_diff_names_what_was_imported(goldsmith: Goldsmith, bare: Path, complete: Path):
    done = goldsmith("diff", bare / "golden.json", complete / "golden.json", timeout=60)
    for identifier in MANIFESTS.values():
        assert f"RIM {identifier}" in done.stdout, done.stdout + done.stderr


def test_sealing_keeps_what_is_expected(
    goldsmith: Goldsmith, complete: Path, secure_boot_keys: Path, signing_key: Path, tmp_path: Path
):
    out = tmp_path / "sealed"
    done = goldsmith(
        "seal", complete, "--keys", secure_boot_keys, "--key", signing_key, "--out", out, timeout=120
    )
    assert done.code == 0, done.stderr
    assert document(out).gpu == document(complete).gpu
    assert (out / "NV_GPU_DRIVER_GH100_545.00.swidtag").is_file()


def test_a_changed_manifest_in_the_release_is_named(goldsmith: Goldsmith, complete: Path, tmp_path: Path):
    copy = copy_release(complete, tmp_path / "copy")
    with (copy / "NV_GPU_DRIVER_GH100_545.00.swidtag").open("ab") as file:
        file.write(b"\n")
    changed = manifests.changed_parts(manifests.load(copy), copy, document(copy).outputs)
    assert changed == ("NV_GPU_DRIVER_GH100_545.00.swidtag: outside every known part",)


def test_a_boot_without_a_gpu_says_what_it_leaves_open(run: BootRun):
    assert (run.code, run.report["verdict"]) == (0, "pass"), run.reasons
    assert "warning: UNPROVEN GPUs: NO GPU IS JUDGED, though the image expects 1 hopper GPU" in run.stderr
    assert any("NO GPU IS JUDGED" in warning for warning in run.report["warnings"])
    assert run.report["gpu"] is None


def test_a_verifier_refuses_the_same_machine(goldsmith: Goldsmith, complete: Path, run: BootRun):
    given = (
        "verify", "--golden", complete / "golden.dsse.json", "--key", complete / "release.pub",
        "--evidence", run.evidence, "--nonce", run.nonce, "--ak", run.attestation_key, "--json",
    )  # fmt: skip
    rims = [part for each in MANIFESTS.values() for part in ("--rim", complete / f"{each}.swidtag")]
    for options in ((), rims):
        done = goldsmith(*given, *options, timeout=60)
        failed = {
            check["number"]: check["detail"]
            for check in json.loads(done.stdout)["checks"]
            if check["status"] == "failed"
        }
        assert done.code == 1 and list(failed) == [15] and "no GPU part" in failed[15]
    done = goldsmith(*given, "--without-gpu", timeout=60)
    assert done.code == 0 and "NO GPU IS JUDGED" in done.stderr


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _root(release: Path, folder: Path) -> Path:
    tools = unpack_toolbox(read_lock(release / "lock.json", recipe="base"), Store.default())
    (place,) = [part for part in manifests.load(release).parts if part.name == "root file system"]
    image = folder / "root.erofs"
    with (release / place.file).open("rb") as file:
        file.seek(place.offset)
        image.write_bytes(file.read(place.size))
    tools.run("fsck.erofs", f"--extract={folder / 'root'}", "--preserve-perms", "--no-preserve-owner", image)
    return folder / "root"
