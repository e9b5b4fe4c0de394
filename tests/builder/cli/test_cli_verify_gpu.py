"""``goldsmith verify`` of a machine whose image expects a GPU."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
from pathlib import Path

import pytest
from attester import AK, NONCE, SIGNING_KEY, Machine, document, public_pem, signed
from gpu_evidence import (
    DEVICES,
    DRIVER_RIM,
    EXPECTED,
    MANIFESTS,
    SIGNER,
    THEN,
    VBIOS_RIM,
    Gpu,
    crl,
    entry,
    machine,
    ocsp,
)

from builder.cli import run
from measurements.gpu import appraise
from measurements.gpu.evidence import GateRecord, qualifying_data, serialize
from measurements.gpu.expectations import MAX_RIMS
from measurements.gpu.revocation import MAX_STATUS_FILES

ASKED = hashlib.sha256(NONCE).digest()
# Both the document (2026) and the tests' manifests (2024 to 2034) are valid then.
VALID = ["--at", "2026-11-22T13:00:00Z", "--nonce", NONCE.hex(), "--ak", "ak.pem"]
GIVEN = [
    "verify",
    "--golden",
    "golden.dsse.json",
    "--key",
    "release.pub",
    "--evidence",
    "evidence.json",
    *VALID,
]
VALID_TIME = datetime.datetime(2026, 11, 22, 13, tzinfo=datetime.UTC)
RIMS = ["--rim", "driver.swidtag", "--rim", "vbios.swidtag"]


def sends(**states):
    gpu = serialize(machine(entry(Gpu(nonce=ASKED)), nonce=ASKED, **states))
    value = Machine().evidence(qualifying_data(NONCE, gpu))
    value |= {"nonce": NONCE.hex(), "gpu": base64.b64encode(gpu).decode()}
    Path("evidence.json").write_text(json.dumps(value))


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """An honest machine, and what its verifier has; GPUs and manifests are under the tests' roots."""
    Path("golden.dsse.json").write_bytes(signed(dataclasses.replace(document(), gpu=EXPECTED)))
    Path("release.pub").write_bytes(SIGNING_KEY.public().pem())
    Path("ak.pem").write_text(public_pem(AK))
    Path("driver.swidtag").write_bytes(DRIVER_RIM)
    Path("vbios.swidtag").write_bytes(VBIOS_RIM)
    sends()
    policy = appraise.Policy
    monkeypatch.setattr(
        appraise,
        "Policy",
        lambda **given: policy(device_root=DEVICES.root, rim_root=MANIFESTS.root, **given),
    )


def failed(found):
    return {check["number"]: check["detail"] for check in found["checks"] if check["status"] == "failed"}


def told(capfd, *more, code=0):
    assert run([*GIVEN, *more, "--json"]) == code
    printed = capfd.readouterr()
    return json.loads(printed.out), printed.err


def test_pass(capfd):
    found, said = told(capfd, *RIMS)
    assert found["verdict"] == "pass" and [check["number"] for check in found["checks"]] == list(range(1, 17))
    assert found["gpu"]["gate"] == {
        "ready": True,
        "reason": None,
        "steps": [{"name": "confidential mode", "ok": True, "detail": "on"}],
    }
    assert found["gpu"]["appraisal"]["verdict"] == "pass" and len(found["gpu"]["appraisal"]["checks"]) == 14
    assert found["gpu"]["appraisal"]["gpus"][0]["measurements"]["matched"] == 33
    assert "warning: UNPROVEN GPUs: 1 hopper GPU: 14 checks hold; revocation" in said


def test_people_see_the_gate_and_every_check(capfd):
    assert run([*GIVEN, *RIMS]) == 0
    printed = capfd.readouterr().out
    assert "the machine's GPU gate: ready\n" in printed and "measured driver" in printed
    assert printed.endswith("verdict: pass\n")


def test_revocation_lists_and_answers(capfd):
    """Both manifests have one signer, and the lists and answers cover every authority."""
    late = (VALID_TIME - THEN).days + 30
    for number, (issuer, key) in enumerate(
        (
            (DEVICES.root, DEVICES.root_key),
            (DEVICES.issuer, DEVICES.key),
            (MANIFESTS.root, MANIFESTS.root_key),
        )
    ):
        Path(f"{number}.crl").write_bytes(crl(issuer, key, days=late))
    Path("signer.ocsp").write_bytes(ocsp(MANIFESTS.issuer, MANIFESTS.key, SIGNER, at=VALID_TIME))
    lists = [part for number in range(3) for part in ("--gpu-crl", f"{number}.crl")]
    found, said = told(capfd, *RIMS, *lists, "--gpu-ocsp", "signer.ocsp")
    assert found["verdict"] == "pass" and found["warnings"] == [] and said == ""
    Path("1.crl").write_bytes(crl(MANIFESTS.issuer, MANIFESTS.key, SIGNER, days=late))
    found, _ = told(capfd, *RIMS, *lists, code=1)
    assert "revocation" in failed(found)[16]


def test_without_reference_values_it_fails_closed(capfd):
    found, _ = told(capfd, code=1)
    assert "pinned, and not given" in failed(found)[16]
    found, _ = told(capfd, *RIMS[:2], code=1)
    assert list(failed(found)) == [16]


def test_without_gpu_is_loud(capfd):
    sends(gate=GateRecord(ready=False, reason="no GPU"), ready=None)
    found, said = told(capfd, "--without-gpu")
    assert found["verdict"] == "pass" and found["gpu"]["appraisal"] is None
    assert "warning: UNPROVEN GPUs: NO GPU IS JUDGED" in said and "its gate refused: no GPU" in said
    assert any("NO GPU IS JUDGED" in warning for warning in found["warnings"])
    assert run([*GIVEN, "--without-gpu"]) == 0
    assert "the machine's GPU gate: refused: no GPU" in capfd.readouterr().out


def test_a_gate_that_refused(capfd):
    sends(gate=GateRecord(ready=False, reason="developer tools are on"), developer_tools=True)
    found, _ = told(capfd, *RIMS, code=1)
    assert "the gate refused: developer tools are on" in failed(found)[16]


def test_certificates_of_another_time(capfd):
    """Verifiers judge manifests at their own time, and not as of the import."""
    at = VALID.index("--at") + 1
    later = [*VALID[:at], "2035-01-01T00:00:00Z", *VALID[at + 1 :]]
    assert run([*GIVEN[: -len(VALID)], *later, *RIMS, "--json"]) == 1
    assert "RIM signatures" in failed(json.loads(capfd.readouterr().out))[16]


def test_usage(capfd):
    assert run([*GIVEN, *RIMS, "--without-gpu"]) == 2
    assert run([*GIVEN, "--rim", "absent"]) == 2
    for option, most in (
        ("--rim", MAX_RIMS),
        ("--gpu-crl", MAX_STATUS_FILES),
        ("--gpu-ocsp", MAX_STATUS_FILES),
    ):
        capfd.readouterr()
        assert run([*GIVEN, *([option, "driver.swidtag"] * (most + 1))]) == 2
        assert f"at most {most}" in capfd.readouterr().err


def test_junk_for_reference_values(capfd):
    Path("vbios.swidtag").write_bytes(b"\0" * (2 << 20))
    found, _ = told(capfd, *RIMS, code=1)
    assert "does not pin" in failed(found)[16]
