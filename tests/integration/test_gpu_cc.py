"""recipes/gpu-cc: the driver is compiled as elsewhere, and the image measures as predicted."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from running import ROOT, BootRun, Goldsmith

from measurements.evidence import parse_quote
from measurements.gpu.evidence import GateRecord, GateStep, GpuEvidence, GpuReport, gpu_nonce, serialize

pytestmark = pytest.mark.integration

#: Compiled on another machine, in another folder, without this project, from nvidia-open-kernel-source 550.163.01-2
#: (SHA-256 8726fc25ee05…) with gcc 14.2.0-19, binutils 2.44-3 and linux-headers-6.12.117+deb13-cloud-amd64 6.12.117-1:
#: `make -j2 modules NV_KERNEL_MODULES='nvidia nvidia-uvm' KCFLAGS="-g0 -ffile-prefix-map=$PWD/=nv/"`. nvidia.ko is
#: another, since our patch of it is.
_ELSEWHERE = {"nvidia_uvm.ko": "d0f4b57d5241f1bf7b258c53b8816dd054142d95af0081e2c501f9ff67067352"}


def test_modules_are_those_of_another_machine(gpu_release: Path):
    for name, digest in _ELSEWHERE.items():
        assert hashlib.sha256((gpu_release / name).read_bytes()).hexdigest() == digest


def test_the_golden_document_names_the_unsigned_modules(gpu_release: Path):
    document = json.loads((gpu_release / "golden.json").read_bytes())
    outputs = {output["name"]: output["sha256"] for output in document["outputs"]}
    for name in ("nvidia.ko", "nvidia_uvm.ko"):
        assert outputs[name] == hashlib.sha256((gpu_release / name).read_bytes()).hexdigest()


def test_modules_come_from_the_packaged_source(goldsmith: Goldsmith, gpu_release: Path):
    lock = json.loads((ROOT / "recipes/gpu-cc/lock.json").read_bytes())
    release = lock["sets"]["kernel"][0].partition("=")[0].removeprefix("linux-image-")
    done = goldsmith(
        "why", f"/usr/lib/modules/{release}/updates/nvidia.ko", "--release", gpu_release, timeout=60
    )
    assert done.code == 0 and "nvidia-open-kernel-source" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def booted(goldsmith: Goldsmith, gpu_release: Path, tmp_path_factory) -> BootRun:
    """The one boot of these tests, without a GPU."""
    return goldsmith.boot(gpu_release, "--firmware", "ovmf-2026.08", folder=tmp_path_factory.mktemp("boot"))


def test_every_register_is_as_predicted(booted: BootRun):
    """The read-back, too, holds: without a GPU the driver unloads itself, and then the kernel is locked down."""
    assert booted.report["verdict"] == "pass", booted.reasons
    assert not booted.leftovers


def test_the_gate_says_that_there_is_no_gpu(booted: BootRun):
    """In the verdict, and in the evidence, whose quotes cover it (docs/evidence-service.md, "GPUs")."""
    gate = booted.report["gpu"]["gate"]
    assert not gate["ready"] and gate["reason"].startswith(
        "gpu: no GPU: this machine has no PCI device of NVIDIA"
    )
    assert [(step["name"], step["ok"]) for step in gate["steps"]] == [("expectations", True), ("gpu", False)]
    evidence = json.loads(booted.evidence.read_bytes())
    told = base64.b64decode(evidence["gpu"])
    assert json.loads(told)["gate"] == gate
    nonce = bytes.fromhex(booted.nonce)
    bound = hashlib.sha256(nonce + hashlib.sha256(told).digest()).digest()
    assert {parse_quote(base64.b64decode(quote["attest"])).extra_data for quote in evidence["quotes"]} == {
        bound
    }


def test_a_machine_without_its_gpu_fails_elsewhere(goldsmith: Goldsmith, gpu_release: Path, booted: BootRun):
    """`goldsmith boot` gives the machine no GPU and says so; `goldsmith verify` insists on one."""
    done = goldsmith(
        "verify", "--golden", gpu_release / "golden.dsse.json", "--key", gpu_release / "release.pub",
        "--evidence", booted.evidence, "--nonce", booted.nonce, "--ak", booted.attestation_key, "--json",
        timeout=60,
    )  # fmt: skip
    assert done.code == 1, done.stdout + done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert [check["name"] for check in checks if check["status"] not in ("ok", "unproven")] == ["GPUs"]


def another_machines(_: bytes, nonce: bytes) -> bytes:
    """A genuine H100's recorded report, in a document for this very nonce."""
    gpu = GpuReport(
        uuid="GPU-00000000-0000-0000-0000-000000000001",
        architecture="hopper",
        report=bytes.fromhex((ROOT / "tests/vectors/nvidia/h100.report.txt").read_text()),
        certificates=(ROOT / "tests/vectors/nvidia/h100.chain.pem").read_bytes(),
    )
    ready = GateRecord(ready=True, steps=(GateStep(name="appraisal", ok=True),))
    return serialize(
        GpuEvidence(
            nonce=gpu_nonce(nonce), gate=ready, driver_version="550.163.01", confidential_mode=True,
            developer_tools=False, ready=True, nvswitches=0, gpus=(gpu,),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told, nonce: None, "its GPU part was taken away"),
        (lambda told, nonce: told.replace(b'"ok":false', b'"ok":true '), "its GPU part is of another"),
        (another_machines, "its GPU part is of another"),
    ],
    ids=["dropped", "edited", "spliced"],
)
def test_somebody_on_the_way_changes_what_the_machine_says_of_its_gpus(
    goldsmith: Goldsmith, gpu_release: Path, booted: BootRun, tmp_path: Path, change, said: str
):
    """Without GPUs being judged at all: the quotes of this machine's TPM give it away."""
    evidence = json.loads(booted.evidence.read_bytes())
    told = base64.b64decode(evidence.pop("gpu"))
    changed = change(told, bytes.fromhex(booted.nonce))
    assert changed != told
    if changed is not None:
        evidence["gpu"] = base64.b64encode(changed).decode()
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))
    done = goldsmith(
        "verify", "--golden", gpu_release / "golden.dsse.json", "--key", gpu_release / "release.pub",
        "--evidence", tmp_path / "evidence.json", "--nonce", booted.nonce, "--ak", booted.attestation_key,
        "--without-gpu", "--json", timeout=60,
    )  # fmt: skip
    failed = {
        check["name"]: check["detail"]
        for check in json.loads(done.stdout)["checks"]
        if check["status"] == "failed"
    }
    assert done.code == 1 and list(failed) == ["qualifying data"] and said in failed["qualifying data"]


def test_readme_tells_the_truth_about_the_image(gpu_release: Path):
    """README, "What gpu-cc adds": packages, files and MiB."""
    content = json.loads((gpu_release / "manifest.json").read_bytes())["contents"]["root"]
    packages = sum(1 for item in content["origins"] if item["version"] and item["files"])
    disk = round((gpu_release / "disk.raw").stat().st_size / 2**20)
    readme = (ROOT / "README.md").read_text()
    row = f"| root file system of gpu-cc | {packages} | {content['files']} | {round(content['bytes'] / 2**20)} MiB |"
    assert row in readme
    assert f"Its `disk.raw` has {disk} MiB." in readme
