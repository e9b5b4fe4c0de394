"""recipes/gpu-cc: the driver is compiled as elsewhere, and the image measures as predicted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from running import ROOT, Goldsmith

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


def test_every_register_is_as_predicted(goldsmith: Goldsmith, gpu_release: Path, tmp_path: Path):
    """The read-back, too, holds: without a GPU the driver unloads itself, and then the kernel is locked down."""
    run = goldsmith.boot(gpu_release, "--firmware", "ovmf-2026.08", folder=tmp_path)
    assert run.report["verdict"] == "pass", run.reasons
    assert not run.leftovers
