"""The GPU evidence document: written and read by one module, bounded, and bound to the quote."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json

import pytest
from gpu_evidence import GENUINE, NONCE, READY, machine
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.gpu.evidence import (
    MAX_GPU_EVIDENCE_BYTES,
    MAX_TEXT,
    GateRecord,
    GateStep,
    gpu_nonce,
    parse,
    qualifying_data,
    serialize,
    tidy,
)

REFUSED = machine(
    gate=GateRecord(
        ready=False,
        reason="no GPU",
        steps=(GateStep(name="driver", ok=True), GateStep(name="devices", ok=False, detail="none")),
    ),
    driver_version=None,
    confidential_mode=None,
    developer_tools=None,
    ready=None,
    nvswitches=None,
    error="NVML: Driver Not Loaded",
)


@pytest.mark.parametrize(
    "each", [machine(), machine(GENUINE, GENUINE), REFUSED, dataclasses.replace(REFUSED, gpus=())]
)
def test_reads_back(each):
    assert parse(serialize(each)) == each


def test_the_document_in_words():
    """Names and types as docs/evidence-service.md has them."""
    value = json.loads(serialize(machine()))
    gpu = value["gpus"].pop()
    assert value == {
        "format": "goldsmith-gpu-evidence/1",
        "nonce": NONCE.hex(),
        "gate": {
            "ready": True,
            "reason": None,
            "steps": [{"name": "confidential mode", "ok": True, "detail": "on"}],
        },
        "driver_version": "550.90.07",
        "confidential_mode": True,
        "developer_tools": False,
        "ready": True,
        "nvswitches": 0,
        "gpus": [],
        "error": None,
    }
    assert sorted(gpu) == ["architecture", "certificates", "report", "uuid"]
    assert gpu["certificates"].startswith("-----BEGIN CERTIFICATE-----\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="goldsmith-gpu-evidence/2"),
        lambda v: v.update(nonce=v["nonce"][2:]),
        lambda v: v.update(nonce=v["nonce"].upper()),
        lambda v: v.update(ready=1),
        lambda v: v.update(confidential_mode="on"),
        lambda v: v.update(nvswitches=1.0),
        lambda v: v.update(nvswitches=-1),
        lambda v: v.update(driver_version=""),
        lambda v: v.update(error=""),
        lambda v: v.update(error="\x1b[2J"),
        lambda v: v.update(error="x" * (MAX_TEXT + 1)),
        lambda v: v.update(more=None),
        lambda v: v.pop("error"),
        lambda v: v.pop("gate"),
        lambda v: v.update(gate=None),
        lambda v: v["gate"].update(reason="yet"),
        lambda v: v["gate"].update(ready=False),
        lambda v: v["gate"].update(steps=v["gate"]["steps"] * 65),
        lambda v: v["gate"]["steps"][0].pop("ok"),
        lambda v: v["gate"]["steps"][0].update(name=""),
        lambda v: v["gate"]["steps"][0].update(detail="\n"),
        lambda v: v.update(gpus=v["gpus"] * 17),
        lambda v: v.update(gpus=None),
        lambda v: v["gpus"][0].update(uuid="GPU 1"),
        lambda v: v["gpus"][0].update(uuid="x" * 65),
        lambda v: v["gpus"][0].update(report="===="),
        lambda v: v["gpus"][0].update(report="A" * (5 * (1 << 16) // 3)),
        lambda v: v["gpus"][0].update(certificates="é"),
        lambda v: v["gpus"][0].update(certificates=None),
        lambda v: v["gpus"][0].update(certificates="x" * ((1 << 16) + 1)),
        lambda v: v["gpus"][0].update(more=1),
    ],
)
def test_refused(change):
    value = json.loads(serialize(machine()))
    change(value)
    with pytest.raises(FormatError):
        parse(json.dumps(value).encode())


def test_too_long():
    with pytest.raises(LimitError):
        parse(serialize(machine()).ljust(MAX_GPU_EVIDENCE_BYTES + 1))


def test_what_cannot_be_read_back_is_not_written():
    for wrong in (
        machine(error="x" * (MAX_TEXT + 1)),
        machine(error=""),
        machine(nonce=bytes(31)),
        machine(gate=GateRecord(ready=False)),
        machine(dataclasses.replace(GENUINE, uuid="")),
        machine(dataclasses.replace(GENUINE, certificates=b"\xff")),
        machine(dataclasses.replace(GENUINE, report=bytes((1 << 16) + 1))),
    ):
        with pytest.raises(FormatError):
            serialize(wrong)


def test_messages_of_others_become_text():
    assert tidy("NVML: Kein Gerät\n\x1b") == "NVML: Kein Ger?t??"
    assert parse(serialize(machine(error=tidy("é" * 5000)))).error == "?" * MAX_TEXT


def test_the_binding():
    """docs/evidence-service.md, "Binding"; hashes by hashlib here, as by sha256sum there."""
    nonce, data = bytes(range(16)), b"{}\n"
    assert gpu_nonce(nonce) == hashlib.sha256(nonce).digest()
    assert qualifying_data(nonce, None) == nonce
    # printf '{}\n' | sha256sum; then nonce and digest as bytes through sha256sum
    assert qualifying_data(nonce, data).hex() == BOUND
    assert qualifying_data(nonce, data + b" ") != qualifying_data(nonce, data)
    assert qualifying_data(nonce, b"") != nonce


BOUND = "d2310a053e4868ddbdca0bdb19ec42377c405d1c37d94a107ef1c2f86bf8b1f3"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_message_can_be_written(text):
    record = GateRecord(ready=False, reason=tidy(text) or "?", steps=READY.steps)
    each = machine(gate=record)
    assert parse(serialize(each)) == each


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_our_errors(data):
    sample = bytearray(serialize(data.draw(st.sampled_from([REFUSED, machine()]))))
    for _ in range(data.draw(st.integers(0, 3))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(sample[: data.draw(st.integers(0, len(sample)))])
    with contextlib.suppress(MeasurementError):
        parse(data.draw(st.sampled_from([bytes(sample), cut]) | st.binary(max_size=200)))
