"""``goldsmith rim add``, and what a build says about reference values that nobody holds."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from gpu_evidence import (
    DRIVER_PIN,
    DRIVER_RIM,
    DRIVER_VALUES,
    MANIFESTS,
    RIMS,
    THEN,
    VBIOS_PIN,
    VBIOS_RIM,
    VBIOS_VALUES,
    manifest,
    signed,
)

from builder import rims
from builder.cli import build, run
from builder.recipe import load_recipe
from measurements.gpu.certificates import RIM_ROOT

AT = ["--at", "2024-06-01T00:00:00Z"]
HEAD = """\
name: img
version: "1.2"
svn: 3
summary: an image
distribution: {suite: trixie}
kernel: {package: linux-image-cloud-amd64}
"""
STORE = Path("recipes/img/rims")


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """A recipe for the driver of the tests' manifests, and these as files."""
    STORE.parent.mkdir(parents=True)
    expect("550.90.07")
    Path("driver.swidtag").write_bytes(DRIVER_RIM)
    Path(f"{VBIOS_PIN.id}.swidtag").write_bytes(VBIOS_RIM)
    monkeypatch.setattr(rims, "RIM_ROOT", MANIFESTS.root)


def expect(driver, more=""):
    section = f'gpu: {{architecture: hopper, driver: "{driver}"{more}}}\n'
    (STORE.parent / "recipe.yaml").write_text(HEAD + section)


def add(name, *more, at=AT):
    return run(["rim", "add", str(name), "--recipe", "img", *at, *more])


def held():
    return sorted(path.name for path in STORE.iterdir()) if STORE.exists() else []


def test_driver_and_vbios(capfd):
    assert add("driver.swidtag") == 0
    printed = capfd.readouterr()
    assert "NV_GPU_DRIVER_GH100_550.90.07: driver 550.90.07 of GH100, 21 active" in printed.out
    assert "still holds no reference values of any VBIOS" in printed.err
    assert add(f"{VBIOS_PIN.id}.swidtag", "--json") == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {
        "recipe": "img",
        "file": str(Path.cwd() / STORE / f"{VBIOS_PIN.id}.swidtag"),
        "rim": {
            "id": "NV_GPU_VBIOS_1010_0200_882_96009F0001",
            "kind": "vbios",
            "chip": "GH100",
            "version": "96.00.9F.00.01",
            "sha256": hashlib.sha256(VBIOS_RIM).hexdigest(),
            "judged_at": "2024-06-01T00:00:00Z",
        },
        "measurements": 12,
        "missing": [],
    }
    assert printed.err == ""
    recipe = load_recipe(STORE.parent)
    assert recipe.gpu.rims == (DRIVER_PIN, VBIOS_PIN)
    assert recipe.rims == {DRIVER_PIN.id: DRIVER_RIM, VBIOS_PIN.id: VBIOS_RIM}
    assert held() == [f"{DRIVER_PIN.id}.swidtag", f"{VBIOS_PIN.id}.swidtag", "index.json"]
    assert rims.check_rims(recipe) == ()


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_imports_does_not_matter(order):
    for name in ("driver.swidtag", f"{VBIOS_PIN.id}.swidtag")[::order]:
        assert add(name) == 0
    assert [rim["id"] for rim in json.loads((STORE / "index.json").read_text())["rims"]] == [
        DRIVER_PIN.id,
        VBIOS_PIN.id,
    ]


def test_nvidias_own(monkeypatch, capfd):
    """The genuine manifests of the vectors, under NVIDIA's pinned root."""
    monkeypatch.setattr(rims, "RIM_ROOT", RIM_ROOT)
    expect("545.00")
    for name, data in RIMS.items():
        Path(name).write_bytes(data)
    assert add("driver-545.00.swidtag") == 0
    assert add("vbios-96.00.5E.00.01.swidtag", "--id", "NV_GPU_VBIOS_1010_0200_882_96005E0001") == 0
    assert add("vbios-96.00.6D.00.29.swidtag", "--id", "NV_GPU_VBIOS_G520_0228_889_96006D0029") == 0
    recipe = load_recipe(STORE.parent)
    assert recipe.gpu.missing == () and len(recipe.rims) == 3 and rims.check_rims(recipe) == ()
    # Certificates of manifests live two years; this one's ended in 2025.
    assert add("driver-545.00.swidtag", at=["--at", "2026-01-01T00:00:00Z"]) == 1
    assert "--at TIME" in capfd.readouterr().err
    Path("ours").write_bytes(DRIVER_RIM)
    assert add("ours") == 1
    assert "issued by none" in capfd.readouterr().err


def test_the_services_answer():
    """JSON with the manifest in Base64, as NVIDIA's RIM service gives it."""
    answer = {"id": VBIOS_PIN.id, "rim": base64.b64encode(VBIOS_RIM).decode(), "rim_format": "TEXT"}
    Path("answer.json").write_text(json.dumps(answer))
    assert add("answer.json") == 0
    assert (STORE / f"{VBIOS_PIN.id}.swidtag").read_bytes() == VBIOS_RIM


@pytest.mark.parametrize("answer", [b"{", b'{"rim": 1}', b'{"id": "x"}', b'{"rim": "eA=="}', b"{}"])
def test_an_answer_that_is_none(answer, capfd):
    Path("answer.json").write_bytes(answer)
    assert add("answer.json") == 1 and held() == []
    assert "answer" in capfd.readouterr().err


def refused(name, capfd, *more, code, said, at=AT):
    before = held()
    assert add(name, *more, at=at) == code
    assert said in capfd.readouterr().err
    assert held() == before and not list(STORE.parent.glob(".*"))


def test_a_changed_manifest(capfd):
    Path("changed").write_bytes(DRIVER_RIM.replace(b"M_7", b"M_8"))
    refused("changed", capfd, code=1, said="not the one that was signed")


def test_an_unsigned_manifest(capfd):
    from lxml import etree

    Path("unsigned").write_bytes(etree.tostring(manifest("550.90.07", DRIVER_VALUES)))
    refused("unsigned", capfd, code=1, said="XML signature")


def test_a_manifest_of_another_authority(capfd):
    Path("nvidias").write_bytes(RIMS["driver-545.00.swidtag"])
    refused("nvidias", capfd, code=1, said="issued by none")


def test_before_and_after_its_certificates(capfd):
    for time in ("2020-01-01T00:00:00Z", "2060-01-01T00:00:00Z"):
        refused("driver.swidtag", capfd, code=1, said="is valid from", at=["--at", time])


def test_a_manifest_of_another_driver(capfd):
    expect("550.163.01")
    refused("driver.swidtag", capfd, code=1, said="of driver 550.90.07; expected 550.163.01")


def test_a_manifest_of_another_architecture(capfd):
    Path("blackwell").write_bytes(signed(manifest("550.90.07", DRIVER_VALUES, product="GB100")))
    refused("blackwell", capfd, code=1, said="no chip of hopper")
    Path("ampere").write_bytes(signed(manifest("550.90.07", DRIVER_VALUES, product="GA100")))
    refused("ampere", capfd, code=2, said="no known architecture")


def test_a_vbios_that_is_not_allowed(capfd):
    expect("550.90.07", ', vbios: {allow: ["96.00.9F.00.02"]}')
    refused(f"{VBIOS_PIN.id}.swidtag", capfd, code=1, said="allowed are 96.00.9F.00.02")


def test_an_unknown_kind(capfd):
    """A switch's manifest: signed by NVIDIA, and of nothing that is known here."""
    Path("switch").write_bytes(signed(manifest("LS10.1", DRIVER_VALUES)))
    refused("switch", capfd, code=1, said="neither a driver's nor a VBIOS's")


def test_the_same_manifest_again(capfd):
    assert add("driver.swidtag") == 0
    capfd.readouterr()
    refused("driver.swidtag", capfd, code=2, said=f"is there already, as {DRIVER_PIN.id}")


def test_another_manifest_of_the_same_version(capfd):
    assert add(f"{VBIOS_PIN.id}.swidtag") == 0
    Path("twin").write_bytes(signed(manifest("96.00.9F.00.01", VBIOS_VALUES)))
    for name in (VBIOS_PIN.id, "NV_GPU_VBIOS_G520_0228_889_96009F0001"):
        capfd.readouterr()
        refused("twin", capfd, "--id", name, code=2, said="believes neither")


def test_an_id_that_is_not_the_manifests(capfd):
    Path("board.swidtag").write_bytes(VBIOS_RIM)
    refused("board.swidtag", capfd, code=2, said="--id ID")
    for wrong in (
        "NV_GPU_VBIOS_1010_0200_882_96005E0001",
        "../../../../tmp/x",
        "NV_GPU_DRIVER_GH100_550.90.07",
    ):
        refused("board.swidtag", capfd, "--id", wrong, code=2, said="RIM id")
    refused("driver.swidtag", capfd, "--id", VBIOS_PIN.id, code=2, said="NV_GPU_DRIVER_GH100_550.90.07")


@pytest.mark.parametrize("junk", [b"", b"<", b"\0" * 100, b"<a/>", b"<!DOCTYPE a><a/>"])
def test_junk(junk, capfd):
    Path("junk").write_bytes(junk)
    refused("junk", capfd, code=1, said="junk: ")


def test_usage(capfd):
    refused("absent", capfd, code=2, said="cannot read absent")
    refused("driver.swidtag", capfd, code=2, said="has no time zone", at=["--at", "2024-06-01T00:00:00"])
    (STORE.parent / "recipe.yaml").write_text(HEAD)
    refused("driver.swidtag", capfd, code=2, said="expects no GPU")
    assert run(["rim", "add", "driver.swidtag", "--recipe", "nowhere"]) == 2
    assert run(["rim"]) == 2


def test_a_full_store(capfd, monkeypatch):
    monkeypatch.setattr(rims, "MAX_RIMS", 0)
    refused("driver.swidtag", capfd, code=2, said="which is the limit")


def test_a_manifest_that_came_by_another_way():
    """Somebody wrote index and file by hand: a build judges the signature all the same."""
    assert add("driver.swidtag") == 0
    foreign = RIMS["driver-545.00.swidtag"].replace(b"545.00", b"550.90.07")
    index = STORE / "index.json"
    index.write_text(index.read_text().replace(DRIVER_PIN.sha256, hashlib.sha256(foreign).hexdigest()))
    (STORE / f"{DRIVER_PIN.id}.swidtag").write_bytes(foreign)
    with pytest.raises(rims.RimError, match="issued by none"):
        rims.check_rims(load_recipe(STORE.parent))


def test_an_index_that_misnames_its_manifest():
    other = signed(manifest("550.54.15", DRIVER_VALUES))
    assert add("driver.swidtag") == 0
    index = STORE / "index.json"
    index.write_text(index.read_text().replace(DRIVER_PIN.sha256, hashlib.sha256(other).hexdigest()))
    (STORE / f"{DRIVER_PIN.id}.swidtag").write_bytes(other)
    with pytest.raises(rims.RimError, match=r"the manifest is of driver 550\.54\.15"):
        rims.check_rims(load_recipe(STORE.parent))


@pytest.fixture
def no_work(monkeypatch):
    """Whatever a build does after it has read the recipe."""

    def reached(*_):
        raise AssertionError("the build began")

    monkeypatch.setattr(build, "load_lock", reached)


def test_a_build_that_requires_reference_values(no_work, capfd):
    assert run(["build", "img", "--require-rim"]) == 3
    printed = capfd.readouterr().err
    assert "no reference values (RIM) of driver 550.90.07" in printed and "any VBIOS" in printed
    assert "goldsmith rim add" in printed
    assert add("driver.swidtag") == 0
    assert run(["build", "img", "--require-rim"]) == 3


def test_a_build_that_has_them(no_work, capfd):
    assert add("driver.swidtag") == 0 and add(f"{VBIOS_PIN.id}.swidtag") == 0
    capfd.readouterr()
    with pytest.raises(AssertionError, match="the build began"):
        run(["build", "img", "--require-rim"])
    assert "RIM" not in capfd.readouterr().err


def test_a_build_without_them_warns(no_work, capfd):
    with pytest.raises(AssertionError, match="the build began"):
        run(["build", "img"])
    printed = capfd.readouterr().err
    assert printed.count("warning: no reference values (RIM) of ") == 2
    assert "accepts no GPU" in printed


def test_moments_have_whole_seconds_in_utc():
    assert add("driver.swidtag", at=["--at", "2024-06-01T02:00:00.9+02:00"]) == 0
    assert load_recipe(STORE.parent).gpu.rims[0].judged_at == THEN


def test_an_interrupted_import_leaves_nothing_half_written(monkeypatch):
    assert add("driver.swidtag") == 0
    before = {path.name: path.read_bytes() for path in STORE.iterdir()}

    def full(path, data, **_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(rims, "write_atomic", full)
    assert add(f"{VBIOS_PIN.id}.swidtag") == 3
    assert {path.name: path.read_bytes() for path in STORE.iterdir()} == before
