"""The three programs that units start, each as a process would run it."""

from __future__ import annotations

import os
import socket

import pytest
from gate_machine import NONCE, Machine, nvml, program, steps
from gpugate import collect
from gpugate.machine import Machine as RealMachine
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.gpu.evidence import GateRecord, parse, serialize

UNDECIDED = GateRecord(ready=False, reason="not yet")


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Both records below a folder of the test."""
    checks, opening = str(tmp_path / "checks.json"), str(tmp_path / "opening.json")
    monkeypatch.setattr(steps, "CHECKS", checks)
    monkeypatch.setattr(steps, "OPENING", opening)
    return checks, opening


def test_on_this_machine_the_check_ends_in_its_refusal(records, capsys):
    """No machine of the tests has this image's expectations."""
    assert program("check").main() == 1
    assert capsys.readouterr().err.startswith("expectations: FileNotFoundError: ")
    assert [step["name"] for step in steps.read(records[0])] == ["expectations"]


def test_without_a_record_nothing_is_opened(records, capsys):
    assert program("ready").main() == 1
    assert "expectations: it has not begun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "written", "closed"),
    [
        ("success", [("ready state", True), ("read back", True)], False),
        ("timeout", [("ready state", False)], True),
        ("timeout", [("ready state", True), ("read back", False)], True),
        ("timeout", [], False),
        ("exit-code", [("ready state", False)], True),
    ],
)
def test_a_part_that_was_ended_is_followed_by_closing(records, monkeypatch, result, written, closed):
    ready = program("ready")
    machine = Machine(accepting=True)
    monkeypatch.setattr(ready, "Nvml", machine.driver)
    if written:
        kept = steps.Steps(records[1])
        for name, ok in written:
            kept.run(name, (lambda: "fine") if ok else (lambda: 1 / 0))
    assert ready.after(result) == 0
    assert ("set_ready False" in machine.calls) is closed


class TestAnswer:
    """One process for one nonce."""

    def ask(self, answer, request, monkeypatch):
        ours, theirs = socket.socketpair()
        alarms = []
        monkeypatch.setattr(answer.signal, "alarm", alarms.append)
        with ours, theirs:
            monkeypatch.setattr(answer, "_CONNECTION", theirs.fileno())
            ours.sendall(request)
            ours.shutdown(socket.SHUT_WR)
            answer.main()
            theirs.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: ours.recv(1 << 16), b"")), alarms

    def test_without_a_gpu(self, records, monkeypatch):
        found, alarms = self.ask(program("answer"), NONCE.hex().encode() + b"\n", monkeypatch)
        document = parse(found)
        assert document.nonce == NONCE and document.gpus == () and document.error == "no GPU"
        assert not document.gate.ready and document.gate.reason == "expectations: it has not begun"
        assert alarms == [program("answer").SECONDS]

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"",
            b"\n",
            b"00\n",
            b"zz" * 32 + b"\n",
            b"0" * 64,
            b"0" * 65 + b"\n",
            b"0" * 63 + b"\n",
            b"0" * 200,
        ],
    )
    def test_other_requests_get_nothing(self, monkeypatch, request_bytes):
        found, alarms = self.ask(program("answer"), request_bytes, monkeypatch)
        assert found == b"" and alarms == []

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=80))
    def test_any_request(self, data):
        answer = program("answer")
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        try:
            nonce = answer.request(reading)
        finally:
            os.close(reading)
        assert nonce is None or len(nonce) == 32


def test_evidence_of_a_machine_in_order():
    found = collect.collect(Machine(), NONCE, UNDECIDED)
    assert parse(serialize(found)) == found
    assert (
        found.driver_version,
        found.confidential_mode,
        found.developer_tools,
        found.ready,
        found.nvswitches,
    ) == (
        "550.90.07",
        True,
        False,
        False,
        0,
    )
    assert len(found.gpus) == 1 and found.error is None and found.nonce == NONCE


LOST = nvml.NvmlError("nvml…: GPU is lost\n(15)")


@pytest.mark.parametrize(
    ("call", "known"),
    [
        ("nvswitches", ()),
        ("driver", ("nvswitches",)),
        ("driver_version", ("nvswitches",)),
        ("developer_tools", ("nvswitches", "driver_version", "confidential_mode")),
        ("devices", ("nvswitches", "driver_version", "confidential_mode", "developer_tools", "ready")),
        ("uuid", ("nvswitches", "driver_version", "confidential_mode", "developer_tools", "ready")),
    ],
)
def test_evidence_of_what_could_be_read(call, known):
    found = collect.collect(Machine(fails={call: LOST}), NONCE, UNDECIDED)
    assert found.error == "nvml?: GPU is lost?(15)" and found.gpus == ()
    states = ("driver_version", "confidential_mode", "developer_tools", "ready", "nvswitches")
    assert {name for name in states if getattr(found, name) is not None} == set(known)
    assert parse(serialize(found)) == found


def test_evidence_of_gpus_that_the_document_does_not_take(monkeypatch):
    """What a driver says is not believed to fit: the answer is an error, and no crash."""
    answer = program("answer")
    import gpugate.machine

    strange = Machine()
    strange.said_version = "not a version"
    monkeypatch.setattr(gpugate.machine, "Machine", lambda: strange)
    document = parse(answer.answer(NONCE))
    assert document.gpus == () and "driver_version" in document.error


def test_this_machine_is_asked_without_harm():
    assert isinstance(RealMachine().gpus(), tuple)
