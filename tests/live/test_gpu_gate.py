"""The gate in the live image: recipes/gpu-cc on a machine without a GPU, where it stays shut and stops nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend import live_host
from conftest import disk_launch, tools_of
from machine import LiveMachine, live_machine
from testinfra.host import Host

from measurements.evidence import parse_quote
from measurements.gpu.evidence import GpuEvidence, parse

GATE, READY, WORKLOAD = (
    "goldsmith-gpu-gate.service",
    "goldsmith-gpu-ready.service",
    "goldsmith-workload.target",
)
#: As they ended or came up in this boot, one after the other.
ORDER = [
    "systemd-modules-load.service", "goldsmith-lockdown.service", GATE, "systemd-sysctl.service",
    "goldsmith-readback.service", "systemd-networkd.service", "systemd-pcrphase.service",
]  # fmt: skip
NO_GPU = "no GPU: this machine has no PCI device of NVIDIA's of the display class"


@pytest.fixture(scope="module")
def gateless(gpu_release: Path) -> Iterator[LiveMachine]:
    """The one machine of these tests."""
    launch, tools = disk_launch(gpu_release, "gpu-cc"), tools_of(gpu_release, "gpu-cc")
    with (
        tempfile.TemporaryDirectory(prefix="gs-live-", dir="/tmp") as name,
        live_machine(tools, launch, gpu_release / "disk.raw", Path(name)) as machine,
    ):
        yield machine


@pytest.fixture(scope="module")
def guest(gateless: LiveMachine) -> Host:
    return live_host(gateless.channel)


@pytest.fixture(scope="module")
def told(gateless: LiveMachine) -> GpuEvidence:
    return parse(base64.b64decode(json.loads(gateless.evidence)["gpu"]))


def state(guest: Host, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as the manager has them."""
    lines = guest.check_output(f"systemctl show {unit} {' '.join(f'-p {name}' for name in names)}")
    return dict(line.split("=", 1) for line in lines.splitlines())


def test_the_gate_refused(guest):
    assert state(guest, GATE, "ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "1",
    }
    steps = json.loads(guest.file("/run/goldsmith-gpu-gate/steps.json").content)
    assert [(step["name"], step["ok"]) for step in steps] == [("expectations", True), ("gpu", False)]
    assert steps[-1]["detail"] == NO_GPU


def test_nothing_was_opened(guest):
    """The second part never started, and what works on GPUs was not reached."""
    assert state(guest, READY, "ActiveState", "ExecMainPID") == {
        "ActiveState": "inactive",
        "ExecMainPID": "0",
    }
    assert not guest.file("/run/goldsmith-gpu-ready").exists
    assert state(guest, WORKLOAD, "ActiveState") == {"ActiveState": "inactive"}
    assert state(guest, "multi-user.target", "ActiveState") == {"ActiveState": "active"}


def test_the_gate_stops_nothing_else(guest):
    assert guest.sysctl("kernel.modules_disabled") == 1
    assert "[confidentiality]" in guest.file("/sys/kernel/security/lockdown").content_string
    for unit in ("goldsmith-readback.service", "systemd-networkd.service", "goldsmith-evidence.socket"):
        assert state(guest, unit, "ActiveState") == {"ActiveState": "active"}, unit


def test_nothing_but_the_gate_failed(guest):
    failed = guest.check_output("systemctl list-units --state=failed --plain --no-legend").splitlines()
    assert {line.split()[0] for line in failed} == {GATE}


def test_order_of_the_boot(guest):
    """When each was done with, by the manager's clock."""
    found = []
    for unit in ORDER:
        times = state(guest, unit, "ExecMainExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        # A service that stays up has no exit; one that failed never was active.
        found.append(
            int(times["ExecMainExitTimestampMonotonic"]) or int(times["ActiveEnterTimestampMonotonic"])
        )
    assert 0 not in found and found == sorted(found)


def test_the_evidence_says_why(told, gateless):
    assert not told.gate.ready and told.gate.reason == f"gpu: {NO_GPU}"
    assert [step.name for step in told.gate.steps] == ["expectations", "gpu"]
    assert told.error == "no GPU" and told.gpus == () and told.ready is None
    assert told.nonce == hashlib.sha256(gateless.nonce).digest()


def test_the_quotes_are_bound_to_it(gateless):
    document = json.loads(gateless.evidence)
    gpu = base64.b64decode(document["gpu"])
    bound = hashlib.sha256(gateless.nonce + hashlib.sha256(gpu).digest()).digest()
    assert {parse_quote(base64.b64decode(quote["attest"])).extra_data for quote in document["quotes"]} == {
        bound
    }


def test_who_tells_gpu_evidence_has_no_right(guest):
    """One process waits beside the evidence service of the serial port, connected by PID 1."""
    units = guest.check_output("systemctl list-units 'goldsmith-gpu-evidence@*' --plain --no-legend").split()
    number = state(guest, units[0], "MainPID")["MainPID"]
    fields = dict(
        line.split(":", 1) for line in guest.file(f"/proc/{number}/status").content_string.splitlines()
    )
    assert fields["Uid"].split() == ["982"] * 4 and fields["Gid"].split() == ["982"] * 4
    assert {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"


def test_nobody_else_reaches_the_socket(gateless, guest):
    socket = guest.file("/run/goldsmith-gpu-evidence/socket")
    assert socket.is_socket and socket.mode == 0o600 and socket.user == "root"
    assert guest.run("test -w /run/goldsmith-gpu-evidence").rc == 0  # root's own
    for folder in ("/run/goldsmith-gpu-gate", "/run/goldsmith-gpu-evidence"):
        assert guest.file(folder).mode == 0o755


#: The image's own program, on a machine whose PCI bus never answers; the unit's own limit is two minutes.
_HANGS = """[Service]
TimeoutStartSec=15s
ExecStart=
ExecStart=/usr/bin/python3.13 -I -S -B -c "import sys, time; sys.path.append('/usr/lib/goldsmith/gpu'); import check; \
check.Machine.gpus = lambda self: time.sleep(600); check.main()"
"""


@pytest.fixture(scope="module")
def hanging(gpu_release: Path) -> Iterator[LiveMachine]:
    """A machine whose gate hangs."""
    launch, tools = disk_launch(gpu_release, "gpu-cc"), tools_of(gpu_release, "gpu-cc")
    with (
        tempfile.TemporaryDirectory(prefix="gs-live-", dir="/tmp") as name,
        live_machine(tools, launch, gpu_release / "disk.raw", Path(name), drop_ins={GATE: _HANGS}) as machine,
    ):
        yield machine


def test_a_gate_that_hangs_is_ended_and_stops_nothing(hanging):
    guest = live_host(hanging.channel)
    assert state(guest, GATE, "ActiveState", "Result") == {"ActiveState": "failed", "Result": "timeout"}
    assert state(guest, READY, "ActiveState", "ExecMainPID") == {
        "ActiveState": "inactive",
        "ExecMainPID": "0",
    }
    assert state(guest, WORKLOAD, "ActiveState") == {"ActiveState": "inactive"}
    assert guest.sysctl("kernel.modules_disabled") == 1
    for unit in ("goldsmith-readback.service", "systemd-networkd.service", "multi-user.target"):
        assert state(guest, unit, "ActiveState") == {"ActiveState": "active"}, unit


def test_the_evidence_names_the_step_that_hung(hanging):
    told = parse(base64.b64decode(json.loads(hanging.evidence)["gpu"]))
    assert not told.gate.ready and told.gate.reason == "gpu: begun, and it has not ended"
    assert [step.name for step in told.gate.steps] == ["expectations", "gpu"]
