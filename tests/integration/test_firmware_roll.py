"""A cloud rolls its firmware: a release that knows the old build alone verifies on the new one, through a profile."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from running import ROOT

from builder.release import manifest as manifests
from builder.toolbox import firmware
from measurements import golden, profile
from measurements.envelope import sign_document
from measurements.keys import KeyAlgorithm, generate
from measurements.profile import compose, profile_of

pytestmark = pytest.mark.integration

#: The same launches as in test_boot.py, so that they boot once.
LAUNCHES = {
    "disk": ("--firmware", "ovmf-2026.08", "--serial"),
    "direct": ("--firmware", "ovmf-2026.08", "--direct"),
}
launch = pytest.mark.parametrize("path", LAUNCHES)


@pytest.fixture(scope="module")
def old_release(release, tmp_path_factory):
    """The release as it was when OVMF 2025.02 was all there was: (envelope, public key)."""
    document = golden.parse((release / "golden.json").read_bytes())
    old = replace(
        document,
        predictions=tuple(
            each for each in document.predictions if each.shape.firmware.name == "ovmf-2025.02"
        ),
        sev_snp=(),
        tdx=(),
    )
    assert 0 < len(old.predictions) < len(document.predictions)
    folder, key = tmp_path_factory.mktemp("old"), generate(KeyAlgorithm.ED25519)
    (folder / "golden.dsse.json").write_bytes(sign_document(old, [key]))
    (folder / "release.pub").write_bytes(key.public().pem())
    return folder


@pytest.fixture(scope="module")
def rolled(goldsmith, tmp_path_factory):
    """What somebody who knows OVMF 2026.08 says about it; that image is gpu-cc, of which this machine has nothing."""
    gpu = ROOT / "recipes/gpu-cc/golden.json"
    out = tmp_path_factory.mktemp("profile") / "ovmf-2026.08.json"
    names = [
        each.shape.name
        for each in golden.parse(gpu.read_bytes()).predictions
        if each.shape.firmware.name == "ovmf-2026.08"
    ]
    launches = [item for name in names for item in ("--launch", name)]
    done = goldsmith("predict", "profile", gpu, "--name", "ovmf-2026.08", *launches, "--out", out, timeout=60)
    assert done.code == 0, done.stderr
    return out


def verified(goldsmith, old_release, run, *options):
    done = goldsmith(
        "verify", "--golden", old_release / "golden.dsse.json", "--key", old_release / "release.pub",
        "--evidence", run.evidence, "--nonce", run.nonce, "--ak", run.attestation_key, *options, "--json", timeout=60,
    )  # fmt: skip
    return done.code, json.loads(done.stdout)


@launch
def test_the_rolled_firmware_is_refused_without_a_profile(goldsmith, boot, old_release, path):
    code, verdict = verified(goldsmith, old_release, boot(*LAUNCHES[path]))
    assert code == 1
    failed = [check["name"] for check in verdict["checks"] if check["status"] == "failed"]
    assert failed == ["launch shape", "registers", "events"]


@launch
def test_the_rolled_firmware_is_accepted_through_a_profile(goldsmith, boot, old_release, rolled, path):
    code, verdict = verified(goldsmith, old_release, boot(*LAUNCHES[path]), "--profile", rolled)
    assert code == 0, verdict
    assert {check["status"] for check in verdict["checks"]} == {"ok"}
    assert verdict["shape"] == f"qemu-vtpm/ovmf-2026.08/{path}/2-vcpus/2048-mib"
    for bank in ("sha256", "sha384"):
        assert all(verdict["registers"][bank][str(index)]["equal"] for index in range(16) if index != 10)


def test_the_old_firmware_needs_no_profile(goldsmith, genuine, old_release, rolled):
    for options in ((), ("--profile", rolled)):
        code, verdict = verified(goldsmith, old_release, genuine, *options)
        assert (code, verdict["shape"]) == (0, "qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib")


def test_a_profile_without_this_machine_does_not_help(goldsmith, boot, old_release, rolled, tmp_path):
    whole = profile.parse(rolled.read_bytes())
    (tmp_path / "direct.json").write_bytes(
        profile.to_pretty(
            replace(whole, tpm=tuple(each for each in whole.tpm if each.shape.boot == "direct"))
        )
    )
    code, _ = verified(goldsmith, old_release, boot(*LAUNCHES["disk"]), "--profile", tmp_path / "direct.json")
    assert code == 1


def test_a_sealed_release_is_its_two_layers(sealed):
    """With Secure Boot too, where the image layer names the entry of db, and kernel hashes are the signed file's."""
    document = golden.parse((sealed / "golden.json").read_bytes())
    cut = profile_of(
        document.image_layer,
        name="all",
        predictions=document.predictions,
        sev_snp=document.sev_snp,
        tdx=document.tdx,
    )
    again = compose(document.image_layer, profile.parse(profile.to_canonical(cut)))
    assert any(each.shape.secure_boot for each in again.predictions)
    assert again.predictions == document.predictions
    assert again.sev_snp == document.sev_snp
    assert again.tdx == document.tdx


@pytest.fixture(scope="module")
def calibrated(goldsmith, release, lock, store, tmp_path_factory):
    """OVMF 2026.08, changed so that no firmware profile knows it: its boot, and what calibration says of it."""
    folder = tmp_path_factory.mktemp("calibrated")
    builds = {build.name: build for build in firmware(manifests.load(release).firmware, lock, store)}
    build = builds["ovmf-2026.08"]
    code = bytearray(build.code.read_bytes())
    code[code.rindex(b"\xff" * 64) + 32] ^= 1  # in the free space of a volume
    patched, found, made = folder / "OVMF_CODE_NEW.fd", folder / "firmware.json", folder / "platform.json"
    patched.write_bytes(code)
    run = goldsmith.boot(release, "--firmware", patched, folder=folder)
    done = goldsmith("calibrate", patched, "--vars", build.variables, "--output", found, timeout=300)
    assert done.code == 0, done.stderr
    done = goldsmith(
        "predict", "tpm", "--firmware", patched, "--uki", release / "uki.efi", "--disk", release / "disk.raw",
        "--machine-unmeasured", "--profile", found, "--as-profile", "new", timeout=120,
    )  # fmt: skip
    assert (done.code, "open in this profile" in done.stderr) == (0, False), done.stderr
    made.write_text(done.stdout)
    return run, made


def test_firmware_that_nobody_knew_is_accepted_once_it_is_calibrated(goldsmith, old_release, calibrated):
    run, made = calibrated
    assert run.code == 1
    assert verified(goldsmith, old_release, run)[0] == 1
    code, verdict = verified(goldsmith, old_release, run, "--profile", made)
    assert code == 0, verdict
    assert verdict["shape"] == "qemu-vtpm/ovmf_code_new/disk/2-vcpus/2048-mib"
