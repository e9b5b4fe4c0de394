"""Evidence against documents that are not its own, replayed or edited evidence, and keys of somebody else."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from attacking import part, rename_partition
from running import BootRun

from measurements import golden
from measurements.attestation_key import load_attestation_key
from measurements.envelope import sign_document
from measurements.keys import KeyAlgorithm, generate, load_private_key
from measurements.policy import ExpectedNonce, PinnedKey, Policy
from measurements.prediction import Prediction
from measurements.verify import Status, Verdict, verify

pytestmark = pytest.mark.integration


# Evidence against the document of another image. Which of both an attacker made is the same to a verifier, so
# one genuine boot meets the documents of the images that an attacker would have booted.


def predicting(document: golden.GoldenDocument, *predictions: Prediction) -> golden.GoldenDocument:
    """The document of a release that publishes these predictions alone, without the layer of an image beside them."""
    return replace(document, predictions=predictions, image_layer=None)


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
    own = predicting(document, desk.predict())
    assert judge(genuine, own, signing_key).passed
    assert own.predictions[0] in document.predictions


@pytest.mark.parametrize("section", [".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".sbat"])
def test_another_uki_section(genuine, release, document, desk, signing_key, section):
    uki = bytearray((release / "uki.efi").read_bytes())
    uki[part(release, f"uki {section}", "uki.efi").offset + 9] ^= 1
    verdict = judge(genuine, predicting(document, desk.predict(uki=bytes(uki))), signing_key)
    assert f"PCR 11: uki {section} differs" in failed(verdict)["events"]


def test_another_root_with_its_own_root_hash(genuine, release, document, desk, signing_key):
    uki = (release / "uki.efi").read_bytes()
    at = uki.index(b"roothash=") + len(b"roothash=")
    other = uki[:at] + hashlib.sha256(b"another root").hexdigest().encode() + uki[at + 64 :]
    verdict = judge(genuine, predicting(document, desk.predict(uki=other)), signing_key)
    assert "PCR 11: uki .cmdline differs (the command line carries the root hash" in failed(verdict)["events"]


def test_another_partition_table(genuine, document, desk, signing_key, tmp_path):
    (tmp_path / "prefix").write_bytes(desk.disk_prefix())
    rename_partition(tmp_path / "prefix")
    other = desk.predict(disk=(tmp_path / "prefix").read_bytes())
    said = failed(judge(genuine, predicting(document, other), signing_key))
    assert "PCR 5: disk partition table differs" in said["events"]


def test_another_firmware_build(genuine, document, desk, signing_key):
    other = desk.predict(build="ovmf-2026.08")
    said = failed(judge(genuine, predicting(document, other), signing_key, shape=other.shape.name))
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
