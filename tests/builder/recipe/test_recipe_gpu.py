"""A recipe's GPUs: what it expects, the manifests beside it, and the files that the image's gate reads."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from gpu_evidence import DRIVER_PIN, DRIVER_RIM, EXPECTED, VBIOS_PIN, VBIOS_RIM

from builder.errors import RecipeError
from builder.recipe import gpu, load_recipe
from measurements.gpu.expectations import parse

HEAD = """\
name: img
version: "1.2"
svn: 3
summary: an image
distribution: {suite: trixie}
kernel: {package: linux-image-cloud-amd64}
"""
GPU = 'gpu: {architecture: hopper, driver: "550.90.07", vbios: {allow: ["96.00.9F.00.01"]}}\n'
SOURCE = """\
module_sources:
  - name: nvidia
    packages: [nvidia-open-kernel-source]
    version: VERSION
    source: /usr/src/nvidia-open-kernel.tar.xz
    folder: modules
    make: [modules]
    modules: {nvidia: nvidia.ko}
"""


@pytest.fixture
def image(tmp_path):
    """The folder of a recipe, which `recipe` writes and loads."""
    folder = tmp_path / "recipes" / "img"
    folder.mkdir(parents=True)
    return folder


def recipe(folder, text=GPU):
    (folder / "recipe.yaml").write_text(HEAD + text)
    return load_recipe(folder)


def hold(folder, rims=((DRIVER_PIN, DRIVER_RIM), (VBIOS_PIN, VBIOS_RIM))):
    store = folder / "rims"
    store.mkdir(exist_ok=True)
    for pin, data in rims:
        (store / f"{pin.id}.swidtag").write_bytes(data)
    (store / "index.json").write_bytes(gpu.index_bytes([pin for pin, _ in rims]))
    return store


def problem(folder, text=GPU):
    with pytest.raises(RecipeError) as caught:
        recipe(folder, text)
    return str(caught.value)


def test_without_a_gpu_nothing_changes(image):
    found = recipe(image, "")
    assert found.gpu is None and not found.rims and found.files["root"] == ()


def test_what_the_image_gets(image):
    hold(image)
    found = recipe(image)
    assert found.gpu == EXPECTED
    assert [(file.path, file.origin, oct(file.mode), file.owner) for file in found.files["root"]] == [
        ("/usr/lib/goldsmith/gpu/policy.json", "recipes/img/recipe.yaml", "0o644", "root"),
        (
            f"/usr/lib/goldsmith/gpu/rims/{DRIVER_PIN.id}.swidtag",
            f"recipes/img/rims/{DRIVER_PIN.id}.swidtag",
            "0o644",
            "root",
        ),
        (
            f"/usr/lib/goldsmith/gpu/rims/{VBIOS_PIN.id}.swidtag",
            f"recipes/img/rims/{VBIOS_PIN.id}.swidtag",
            "0o644",
            "root",
        ),
    ]
    policy, *manifests = (file.content for file in found.files["root"])
    assert parse(policy) == EXPECTED and manifests == [DRIVER_RIM, VBIOS_RIM]


def test_without_manifests_it_says_what_it_expects(image):
    found = recipe(image, 'gpu: {architecture: blackwell, driver: "595.91.07", count: 8, nvswitches: 4}\n')
    assert found.gpu.rims == () and found.gpu.vbios is None
    assert (found.gpu.architecture, found.gpu.count, found.gpu.nvswitches) == ("blackwell", 8, 4)
    assert [file.path for file in found.files["root"]] == ["/usr/lib/goldsmith/gpu/policy.json"]


def test_the_digest_moves_with_gpu_and_manifest(image):
    digests = {
        recipe(image, "").digest,
        recipe(image).digest,
        recipe(image, GPU.replace("}}", "}, count: 2}")).digest,
    }
    hold(image, ((DRIVER_PIN, DRIVER_RIM),))
    digests.add(recipe(image).digest)
    hold(image)
    digests.add(recipe(image).digest)
    assert len(digests) == 5


def test_a_fragment_may_say_it(image):
    (image.parent / "common").mkdir()
    (image.parent / "common" / "gpu.yaml").write_text(GPU)
    found = recipe(image, "include: [common/gpu]\n")
    assert found.files["root"][0].origin == "recipes/common/gpu.yaml"
    assert "contradicts" in problem(image, "include: [common/gpu]\n" + GPU.replace("550.90.07", "550.163.01"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GPU.replace("hopper", "ampere"), "expected 'hopper' or 'blackwell'"),
        (GPU.replace("550.90.07", "latest"), "gpu.driver"),
        (GPU.replace('"550.90.07"', "550.90"), "quote it"),
        (GPU.replace("96.00.9F.00.01", "96.00.9f.00.01"), "gpu.vbios.allow[0]"),
        (GPU.replace("driver:", "drivr:"), "did you mean 'driver'"),
        ("gpu: {architecture: hopper}\n", "gpu.driver"),
        (GPU.replace("}}", "}, count: 0}"), "at least 1"),
        (GPU.replace("}}", "}, confidential_mode: false}"), "unknown key"),
    ],
)
def test_refused(image, text, said):
    assert said in problem(image, text)


def test_another_driver_than_the_one_compiled_in(image):
    assert recipe(image, GPU + SOURCE.replace("VERSION", "550.90.07-2")).gpu
    assert recipe(image, GPU + SOURCE.replace("VERSION", '"1:550.90.07-2~deb13u1"')).gpu
    said = problem(image, GPU + SOURCE.replace("VERSION", "550.163.01-2"))
    assert "recipes/img/recipe.yaml:7: gpu.driver" in said and "550.163.01-2" in said


def test_manifests_of_a_recipe_without_gpu(image):
    hold(image)
    assert "recipes/img/rims" in problem(image, "")


def test_a_manifest_changed_after_its_import(image):
    store = hold(image)
    (store / f"{VBIOS_PIN.id}.swidtag").write_bytes(VBIOS_RIM + b"\n")
    assert "SHA-256 is" in problem(image)


@pytest.mark.parametrize("name", [f"{VBIOS_PIN.id}.swidtag", "index.json"])
def test_a_file_of_the_store_missing(image, name):
    store = hold(image)
    (store / name).unlink()
    assert "recipes/img/rims" in problem(image)


def test_a_manifest_that_nobody_imported(image):
    store = hold(image, ((DRIVER_PIN, DRIVER_RIM),))
    (store / f"{VBIOS_PIN.id}.swidtag").write_bytes(VBIOS_RIM)
    said = problem(image)
    assert f"disagree about {VBIOS_PIN.id}.swidtag" in said and "goldsmith rim add" in said


def test_a_manifest_that_is_a_link(image):
    store = hold(image)
    path = store / f"{VBIOS_PIN.id}.swidtag"
    elsewhere = image / "elsewhere"
    path.rename(elsewhere)
    os.symlink(elsewhere, path)
    assert "symbolic link" in problem(image)


def test_manifests_of_another_driver(image):
    hold(image)
    assert "of driver 550.90.07" in problem(image, GPU.replace("550.90.07", "550.163.01"))


def test_manifests_of_a_vbios_that_is_not_allowed(image):
    hold(image)
    assert "allowed are 96.00.9F.00.02" in problem(image, GPU.replace("9F.00.01", "9F.00.02"))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="goldsmith-rims/2"),
        lambda v: v.update(more=1),
        lambda v: v["rims"].reverse(),
        lambda v: v["rims"].append(v["rims"][0]),
        lambda v: v["rims"][0].update(id="../../../etc/passwd"),
        lambda v: v["rims"][0].update(kind="switch"),
        lambda v: v["rims"][0].pop("judged_at"),
    ],
)
def test_a_malformed_index(image, change):
    store = hold(image)
    value = json.loads((store / "index.json").read_text())
    change(value)
    (store / "index.json").write_text(json.dumps(value))
    assert "recipes/img/rims" in problem(image)


def test_an_index_that_is_no_json(image):
    store = hold(image)
    for junk in (b"", b"\xff", b"[" * 100_000, b"{}"):
        (store / "index.json").write_bytes(junk)
        assert "recipes/img/rims" in problem(image)


def test_the_committed_recipe_says_what_no_manifest_is_held_for():
    """gpu-cc: no manifest of its driver could be had yet."""
    found = load_recipe(gpu_cc())
    assert found.gpu == dataclasses.replace(
        EXPECTED, driver_version="550.163.01", vbios=None, rims=found.gpu.rims
    )
    assert found.gpu.missing or found.rims


def gpu_cc():
    from pathlib import Path

    return Path(__file__).parents[3] / "recipes" / "gpu-cc"
