"""Attacks that checks 8, 15 and 16 are there for: what a machine says of its GPUs, and somebody on the way.

The machine is that of ``attester``. Its GPU is one of the tests' (``gpu_evidence``) with NVIDIA's reference values: the
genuine H100's recorded report, on which test_gpu_appraise.py stands, answers a nonce that is nobody's SHA-256.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from datetime import timedelta

import pytest
from attester import NONCE, OTHER_AK, Machine, document, policy, public_pem, signed
from gpu_evidence import (
    DEVICES,
    DRIVER_RIM,
    DRIVER_VALUES,
    EXPECTED,
    MANIFESTS,
    THEN,
    VBIOS_RIM,
    Gpu,
    crl,
    entry,
    machine,
    manifest,
)
from gpu_evidence import (
    signed as signed_rim,
)
from verifying import failed, run

from measurements import evidence as evidence_file
from measurements.errors import FormatError, LimitError
from measurements.gpu import appraise
from measurements.gpu.evidence import MAX_GPU_EVIDENCE_BYTES, GateRecord, GateStep, serialize
from measurements.policy import GpuDemands, Unproven
from measurements.verify import Status
from measurements.verify.gpu import to_json

GPU = Gpu(nonce=hashlib.sha256(NONCE).digest())
ASKED = hashlib.sha256(NONCE).digest()
HONEST = serialize(machine(entry(GPU), nonce=ASKED))
TRUST = appraise.Policy(at=THEN, rims_at=THEN, device_root=DEVICES.root, rim_root=MANIFESTS.root)
DEMANDS = GpuDemands(rims=(DRIVER_RIM, VBIOS_RIM), appraisal=TRUST)
WITHOUT = Unproven(reason="the test says so")
ENVELOPE = signed(dataclasses.replace(document(), gpu=EXPECTED))
REFUSED = serialize(
    machine(
        nonce=ASKED,
        gate=GateRecord(
            ready=False, reason="no GPU", steps=(GateStep(name="devices", ok=False, detail="none"),)
        ),
        ready=None,
        error="NVML: no device",
    )
)


def bound(gpu, nonce=NONCE):
    """What a guest's quotes carry: written out here, not by the package."""
    return hashlib.sha256(nonce + hashlib.sha256(gpu).digest()).digest()


def evidence(gpu=HONEST, *, carried=None, nonce=NONCE, **attest):
    """Evidence whose quotes carry ``carried``: the binding to this very GPU part unless said."""
    wanted = (nonce if gpu is None else bound(gpu, nonce)) if carried is None else carried
    value = Machine().evidence(wanted, **attest)
    value["nonce"] = nonce.hex()
    if gpu is not None:
        value["gpu"] = base64.b64encode(gpu).decode()
    return value


def judged(value=None, *, envelope=ENVELOPE, gpu=DEMANDS, **demands):
    return run(envelope=envelope, evidence=value or evidence(), gpu=gpu, **demands)


def status(verdict, number):
    return verdict.checks[number - 1].status


def changed(**states):
    return serialize(machine(entry(GPU), nonce=ASKED, **states))


def test_a_machine_with_a_gpu_passes():
    verdict = judged()
    assert verdict.passed, verdict.failures
    assert status(verdict, 15) is Status.OK and verdict.checks[7].detail.endswith("nonce and GPU part")
    assert verdict.gpu is not None and verdict.gpu.appraisal.passed
    # Nobody gave revocation lists: it passes, and the verdict says so.
    (warning,) = verdict.warnings
    assert warning.startswith("GPUs: 1 hopper GPU: 14 checks hold; revocation: UNPROVEN for ")


def test_with_revocation_lists_nothing_is_left_open():
    lists = tuple(
        crl(issuer, key)
        for each in (DEVICES, MANIFESTS)
        for issuer, key in ((each.root, each.root_key), (each.issuer, each.key))
    )
    trust = dataclasses.replace(TRUST, crls=lists)
    verdict = judged(gpu=GpuDemands(rims=DEMANDS.rims, appraisal=trust))
    assert (
        verdict.passed
        and verdict.warnings == ()
        and verdict.checks[15].detail == "1 hopper GPU: 14 checks hold"
    )


def test_a_machine_without_a_gpu_is_not_asked_for_one():
    verdict = run(gpu=DEMANDS)
    assert verdict.passed and verdict.gpu is None
    assert {status(verdict, 15), status(verdict, 16)} == {Status.OK}
    for other in (None, WITHOUT):
        assert run(gpu=other).passed and run(gpu=other).warnings == ()


# 8
def test_gpu_evidence_of_another_machine_spliced_in():
    """The other machine's GPU is genuine, of this model, and answered this very nonce."""
    other = serialize(machine(entry(Gpu(nonce=ASKED)), nonce=ASKED))
    verdict = judged(evidence(other, carried=bound(HONEST)))
    assert "its GPU part is of another" in failed(verdict)[8]
    assert [status(verdict, number) for number in (15, 16)] == [Status.SKIPPED] * 2


def test_gpu_evidence_added_to_a_machine_that_has_none():
    verdict = judged(evidence(carried=NONCE))
    assert "the quote knows of none" in failed(verdict)[8]


def test_gpu_evidence_dropped():
    """What is left carries a digest that nobody asked for."""
    value = evidence()
    del value["gpu"]
    verdict = judged(value)
    assert "taken away" in failed(verdict)[8]
    value["gpu"] = None
    assert 8 in failed(judged(value)) and 8 in failed(judged(value, gpu=WITHOUT))


def test_the_whole_answer_replayed():
    """Recorded for another nonce; the attacker writes the wanted one over it."""
    old = bytes(32)
    asked = hashlib.sha256(old).digest()
    recorded = serialize(machine(entry(Gpu(nonce=asked)), nonce=asked))
    value = evidence(recorded, nonce=old)
    assert 5 in failed(judged(value))
    value["nonce"] = NONCE.hex()
    assert 8 in failed(judged(value))


def test_one_bit_of_the_gpu_part_changed():
    for at in range(0, len(HONEST), 997):
        mutated = bytearray(HONEST)
        mutated[at] ^= 1
        assert 8 in failed(judged(evidence(bytes(mutated), carried=bound(HONEST))))


def test_a_quote_by_another_key_binds_nothing():
    value = evidence()
    value["attestation_key"]["public"] = public_pem(OTHER_AK)
    assert 6 in failed(judged(value))


# 15
def test_a_machine_that_sends_no_gpu_evidence():
    verdict = judged(evidence(None))
    assert "the evidence has no GPU part" in failed(verdict)[15]
    assert status(verdict, 16) is Status.SKIPPED


def test_gpu_evidence_that_the_image_does_not_know_of():
    verdict = run(evidence=evidence(), gpu=DEMANDS)
    assert "the image is for machines without a GPU" in failed(verdict)[15]
    assert not run(evidence=evidence(), gpu=WITHOUT).passed


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"\xff", HONEST[:-9], HONEST.replace(b"evidence/1", b"evidence/2")]
)
def test_gpu_evidence_that_does_not_parse(junk):
    for demand in (DEMANDS, WITHOUT):
        verdict = judged(evidence(junk), gpu=demand)
        assert 15 in failed(verdict) and verdict.gpu is None


# 16
@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"developer_tools": True}, "developer tools"),
        ({"confidential_mode": False}, "confidential mode"),
        ({"ready": False}, "3. gate"),
        ({"driver_version": "550.54.15"}, "6. driver"),
        ({"nvswitches": 4}, "NVSwitch count"),
        ({"error": "NVML: timeout"}, "NVML: timeout"),
        (
            {"gate": GateRecord(ready=False, reason="developer tools are on")},
            "the gate refused: developer tools",
        ),
    ],
)
def test_a_gpu_that_is_not_as_expected(states, said):
    """Bound, signed and fresh; and the machine itself says what is wrong."""
    assert said in failed(judged(evidence(changed(**states))))[16]


def test_a_gate_that_refused():
    verdict = judged(evidence(REFUSED))
    assert "the gate refused: no GPU" in failed(verdict)[16]
    assert verdict.gpu.evidence.gate.reason == "no GPU"


def test_a_gpu_that_answers_another_nonce():
    stale = serialize(machine(entry(Gpu()), nonce=ASKED))
    assert "the report answers" in failed(judged(evidence(stale)))[16]


def test_the_verifiers_nonce_itself_is_not_the_gpus():
    direct = serialize(machine(entry(Gpu(nonce=NONCE)), nonce=NONCE))
    assert "2. nonce" in failed(judged(evidence(direct)))[16]


def test_one_of_eight_gpus_bad():
    gpus = [Gpu(nonce=ASKED) for _ in range(8)]
    gpus[5] = Gpu(nonce=ASKED, measurements={9: b"\1" * 48})
    envelope = signed(dataclasses.replace(document(), gpu=dataclasses.replace(EXPECTED, count=8)))
    sent = serialize(machine(*(entry(gpu, number) for number, gpu in enumerate(gpus, 1)), nonce=ASKED))
    found = failed(judged(evidence(sent), envelope=envelope))[16]
    assert found.startswith("12. GPUs: GPU 6 (") and "GPU 5" not in found


def test_fewer_gpus_than_the_image_expects():
    envelope = signed(dataclasses.replace(document(), gpu=dataclasses.replace(EXPECTED, count=2)))
    assert "7. GPU count: 1; expected 2" in failed(judged(envelope=envelope))[16]


def test_the_same_gpu_twice():
    envelope = signed(dataclasses.replace(document(), gpu=dataclasses.replace(EXPECTED, count=2)))
    chain = GPU.chain()
    twice = serialize(
        machine(entry(GPU, 1, certificates=chain), entry(GPU, 2, certificates=chain), nonce=ASKED)
    )
    assert "9. distinct GPUs" in failed(judged(evidence(twice), envelope=envelope))[16]


@pytest.mark.parametrize("rims", [(), (DRIVER_RIM,), (VBIOS_RIM,)])
def test_without_the_reference_values_that_the_document_pins(rims):
    verdict = judged(gpu=GpuDemands(rims=rims, appraisal=TRUST))
    assert "10. reference values: pinned, and not given" in failed(verdict)[16]


def test_reference_values_that_the_document_does_not_pin():
    """Of this version, validly signed, and lenient: they list what this GPU measures, and other bytes beside."""
    lenient = signed_rim(manifest("550.90.07", {7: [*DRIVER_VALUES[7], "ab" * 48]}))
    verdict = judged(gpu=GpuDemands(rims=(lenient, VBIOS_RIM), appraisal=TRUST))
    assert "a manifest that the image does not pin" in failed(verdict)[16]


def test_a_vbios_that_the_document_does_not_allow():
    newer = Gpu(nonce=ASKED, opaque={6: bytes.fromhex("009f009602000000")})
    found = failed(judged(evidence(serialize(machine(entry(newer), nonce=ASKED)))))[16]
    assert "14. VBIOS" in found and "96.00.9F.00.02" in found


def test_a_document_that_pins_no_reference_values():
    envelope = signed(dataclasses.replace(document(), gpu=dataclasses.replace(EXPECTED, rims=())))
    for rims in ((), DEMANDS.rims):
        found = judged(envelope=envelope, gpu=GpuDemands(rims=rims, appraisal=TRUST))
        assert "10. reference values" in failed(found)[16]


def test_certificates_that_have_expired_meanwhile():
    late = THEN + timedelta(days=36500)
    trust = dataclasses.replace(TRUST, at=late, rims_at=late)
    assert "12. GPUs" in failed(judged(gpu=GpuDemands(rims=DEMANDS.rims, appraisal=trust)))[16]


def test_a_policy_that_forgets_gpus_refuses():
    verdict = judged(gpu=None)
    assert "the policy has nothing to judge it with" in failed(verdict)[16]


# unproven
@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (REFUSED, "the machine says that its gate refused: no GPU"),
        (HONEST, "the machine says that its gate found them in order"),
        (changed(developer_tools=True), "found them in order"),
        (None, "the machine says nothing of them"),
    ],
)
def test_doing_without_gpus_has_to_be_said_and_is_told(gpu, said):
    verdict = judged(evidence(gpu), gpu=WITHOUT)
    assert verdict.passed, verdict.failures
    assert status(verdict, 16) is Status.UNPROVEN
    (warning,) = [text for text in verdict.warnings if text.startswith("GPUs: ")]
    assert "NO GPU IS JUDGED" in warning and "the test says so" in warning and said in warning


def test_a_demand_must_be_one_of_a_verifier():
    with pytest.raises(FormatError, match="gate has decided"):
        GpuDemands(rims=(), appraisal=dataclasses.replace(TRUST, decided=False))
    with pytest.raises(FormatError, match="time zone"):
        GpuDemands(rims=(), appraisal=dataclasses.replace(TRUST, at=THEN.replace(tzinfo=None)))


def test_what_scripts_read():
    assert to_json(run().gpu) is None
    value = to_json(judged().gpu)
    assert value["gate"]["ready"] is True and value["appraisal"]["verdict"] == "pass"
    refused = to_json(judged(evidence(REFUSED), gpu=WITHOUT).gpu)
    assert refused == {
        "gate": {
            "ready": False,
            "reason": "no GPU",
            "steps": [{"name": "devices", "ok": False, "detail": "none"}],
        },
        "driver_version": "550.90.07",
        "confidential_mode": True,
        "developer_tools": False,
        "ready": None,
        "nvswitches": 0,
        "error": "NVML: no device",
        "appraisal": None,
    }


def test_the_evidence_file_holds_the_part_as_bytes():
    parsed = evidence_file.parse(evidence_file.serialize(dataclasses.replace(_parsed(), gpu=HONEST)))
    assert parsed.gpu == HONEST and _parsed().gpu is None
    assert b'"gpu"' not in evidence_file.serialize(_parsed())


def _parsed():
    import json

    return evidence_file.parse(json.dumps(Machine().evidence()).encode())


@pytest.mark.parametrize("part", ["====", 1, {}, "!"])
def test_a_part_that_is_no_base64(part):
    import json

    value = Machine().evidence()
    value["gpu"] = part
    with pytest.raises(FormatError):
        evidence_file.parse(json.dumps(value).encode())
    value["gpu"] = base64.b64encode(bytes(MAX_GPU_EVIDENCE_BYTES + 3)).decode()
    with pytest.raises(LimitError):
        evidence_file.parse(json.dumps(value).encode())


def test_policy_of_the_attester_says_nothing_of_gpus():
    assert policy().gpu is None
