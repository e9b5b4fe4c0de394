"""What the gate writes down, and when: a step is named before it runs, so that one that never ends is too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gate_machine import PROGRAMS, Gate, Machine, gate, steps
from gpugate.record import gate_record
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.gpu.evidence import GpuEvidence, parse, serialize


def test_a_step_is_written_down_before_it_runs(tmp_path):
    path = str(tmp_path / "steps.json")
    seen = []
    kept = steps.Steps(path)
    assert kept.run("first", lambda: "fine")
    assert kept.run("second", lambda: seen.extend(steps.read(path)) or "fine too")
    assert seen == [
        {"name": "first", "ok": True, "detail": "fine"},
        {"name": "second", "ok": False, "detail": steps.BEGUN},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["steps.json"], "nothing half-written is left"


def test_whatever_is_raised_is_written_down(tmp_path):
    kept = steps.Steps(str(tmp_path / "steps.json"))
    assert not kept.run("first", lambda: [][0])
    assert steps.read(str(tmp_path / "steps.json"))[0]["detail"].startswith("IndexError: ")


#: A gate whose driver never answers, in a process of its own.
_HANGS = """
import sys
sys.path[:0] = {path!r}
from gate_machine import Gate, Machine
from pathlib import Path
import time
machine = Machine()
machine.{call} = lambda *_: time.sleep(600)
Gate(Path({root!r}), machine).run()
"""


@pytest.mark.parametrize(
    ("call", "step"),
    [("modules", "crypto modules"), ("driver", "not ready yet"), ("nonce", "evidence")],
)
def test_a_step_that_hangs_is_named_after_it_was_killed(tmp_path, call, step):
    """As TimeoutStartSec= of the unit does it."""
    program = _HANGS.format(path=[str(Path(__file__).parent), *sys.path], call=call, root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        record = tmp_path / "checks.json"
        deadline = time.monotonic() + 60
        while not record.is_file() or steps.read(str(record))[-1]["name"] != step:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    found = gate_record(str(record), str(tmp_path / "opening.json"))
    assert not found.ready and found.reason == f"{step}: {steps.BEGUN}"
    machine = Machine()
    assert not gate.open_gate(machine.driver, steps.read(str(record)), steps.Steps(str(tmp_path / "o.json")))
    assert machine.calls == []


def test_the_record_of_an_open_gate(tmp_path):
    opened = Gate(tmp_path)
    assert opened.run()
    found = gate_record(opened.checks, opened.opening)
    assert found.ready and found.reason is None
    assert [step.name for step in found.steps] == [*gate.CHECKS, *gate.OPENING]
    _is_evidence(found)


def test_the_record_of_a_shut_gate(tmp_path):
    shut = Gate(tmp_path, Machine(mode=False))
    assert not shut.run()
    found = gate_record(shut.checks, shut.opening)
    assert (
        not found.ready
        and found.reason == "confidential mode: confidential mode is off, or not that of production"
    )
    assert not found.steps[-1].ok
    _is_evidence(found)


def test_the_record_while_the_second_part_has_not_run(tmp_path):
    opened = Gate(tmp_path)
    assert opened.run()
    Path(opened.opening).unlink()
    found = gate_record(opened.checks, opened.opening)
    assert not found.ready and found.reason == "ready state: it has not begun"
    _is_evidence(found)


def test_no_record(tmp_path):
    found = gate_record(str(tmp_path / "1"), str(tmp_path / "2"))
    assert not found.ready and found.reason == "expectations: it has not begun" and found.steps == ()
    _is_evidence(found)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'[{"name": "gpu", "ok": 1, "detail": ""}]', b"\xff"]
)
def test_a_record_that_is_none(tmp_path, content):
    (tmp_path / "1").write_bytes(content)
    found = gate_record(str(tmp_path / "1"), str(tmp_path / "2"))
    assert not found.ready and found.reason.startswith("the gate's record cannot be read: ")
    _is_evidence(found)


def test_a_long_and_odd_detail_fits_the_evidence(tmp_path):
    path = str(tmp_path / "1")

    def fail():
        raise steps.RefusalError("ä\n\0" * 5000)

    assert not steps.Steps(path).run(gate.CHECKS[0], fail)
    _is_evidence(gate_record(path, str(tmp_path / "2")))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "ok", "detail", "x"]), inner, max_size=4)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), _VALUES.map(lambda value: json.dumps(value).encode())))
def test_any_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("steps") / "steps.json"
    path.write_bytes(data)
    try:
        found = steps.read(str(path))
    except ValueError:
        return
    assert all(set(step) == {"name", "ok", "detail"} for step in found)


def test_a_record_has_a_limit(tmp_path):
    (tmp_path / "1").write_bytes(b" " * (steps.MAX_FILE + 1))
    with pytest.raises(ValueError, match="larger than"):
        steps.read(str(tmp_path / "1"))


def _is_evidence(record):
    document = GpuEvidence(nonce=bytes(32), gate=record)
    assert parse(serialize(document)).gate == record


def test_programs_name_their_records():
    """The paths are those that the units make and the evidence service reads."""
    for unit, path in (("gate", steps.CHECKS), ("ready", steps.OPENING)):
        text = (PROGRAMS / f"goldsmith-gpu-{unit}.service").read_text()
        folder = path.removeprefix("/run/").rpartition("/")[0]
        assert f"\nRuntimeDirectory={folder}\n" in text and "\nRuntimeDirectoryPreserve=yes\n" in text
