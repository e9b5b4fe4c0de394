"""The gate: it opens for a genuine H100, once and last of all; each thing that is wrong keeps it shut."""

from __future__ import annotations

import dataclasses

import pytest
from gate_machine import NONCE, Gate, Machine, gate, nvml, steps
from gpu_evidence import (
    DEVICES,
    DRIVER_PIN,
    DRIVER_VALUES,
    EXPECTED,
    GENUINE,
    VBIOS_RIM,
    Gpu,
    crl,
    entry,
    manifest,
    reference,
    signed,
)

from measurements.gpu.rim import RimKind

SET, UNSET = "set_ready True", "set_ready False"
GPUS = [Gpu() for _ in range(8)]
EIGHT = dataclasses.replace(EXPECTED, count=8)
OURS = {"device_root": DEVICES.root}


def eight(**replaced):
    """Eight GPUs under the test's own authority, some of them replaced by their number from 0."""
    found = [entry(replaced.get(f"gpu{number}", gpu), number) for number, gpu in enumerate(GPUS)]
    return Machine(entries=tuple(found))


def test_a_genuine_h100_opens_the_gate(tmp_path):
    opened = Gate(tmp_path)
    assert opened.run()
    assert [step["name"] for step in opened.steps] == [*gate.CHECKS, *gate.OPENING]
    assert all(step["ok"] for step in opened.steps)
    assert opened.machine.accepting


def test_eight_gpus_open_the_gate(tmp_path):
    opened = Gate(tmp_path, eight(), EIGHT, authorities=OURS)
    assert opened.run(), opened.steps


def test_the_order_of_every_call(tmp_path):
    """Nothing touches a GPU before the persistence daemon is known to run; ready is set once, and last."""
    opened = Gate(tmp_path)
    assert opened.run()
    assert opened.machine.calls == [
        *("gpus", "modules", "module_version"),
        *("gpus", "has_device_node", "has_device_node", "has_device_node"),
        "persistence_daemon",
        *("driver", "ready", "shutdown"),
        *("driver", "confidential_mode", "shutdown"),
        *("driver", "developer_tools", "shutdown"),
        *("nonce", "nvswitches", "gpus"),
        *("driver", "driver_version", "confidential_mode", "developer_tools", "ready", "devices"),
        *("uuid", "architecture", f"report {GENUINE.uuid}", f"certificates {GENUINE.uuid}", "shutdown"),
        "gpus",
        *("driver", SET, "shutdown"),
        *("driver", "ready", "shutdown"),
    ]


REFUSALS = {
    "no GPU": ({"slots": 0}, "gpu", "no GPU"),
    "no crypto module": ({"loaded": frozenset({"nvidia", "gcm"})}, "crypto modules", "ecdh_generic, ghash"),
    "driver not loaded": ({"version": None}, "driver", "not loaded"),
    "another driver": ({"version": "550.163.01"}, "driver", "550.163.01; expected 550.90.07"),
    "no control node": ({"missing_nodes": ("nvidiactl",)}, "device nodes", "nvidiactl"),
    "no node of the GPU": ({"missing_nodes": ("nvidia0",)}, "device nodes", "nvidia0"),
    "no persistence daemon": ({"daemon": None}, "persistence daemon", "does not run"),
    "daemon without UVM": ({"daemon": ("--user", "x")}, "persistence daemon", "without --uvm-persistence"),
    "ready before": ({"accepting": True}, "not ready yet", "accept work already"),
    "confidential mode off": ({"mode": False}, "confidential mode", "off"),
    "developer tools on": ({"tools": True}, "developer tools", "on"),
    "another GPU in a slot": ({"slots": 2}, "evidence", "1 of 2 GPUs answered"),
    "the driver says another version": ({"said_version": "550.1"}, "appraisal", "6. driver: 550.1"),
    "an NVSwitch": ({"switches": 1}, "appraisal", "8. NVSwitch count: 1; expected 0"),
    "another nonce": ({"asked_with": bytes(32)}, "appraisal", f"the report answers {NONCE.hex()}"),
    "another architecture": (
        {"entries": (dataclasses.replace(GENUINE, architecture="blackwell"),)},
        "appraisal",
        "the driver calls it blackwell",
    ),
    "a report that is cut": (
        {"entries": (dataclasses.replace(GENUINE, report=GENUINE.report[:-1]),)},
        "appraisal",
        "12. GPUs: GPU 1",
    ),
    "no certificate": (
        {"entries": (dataclasses.replace(GENUINE, certificates=b"-"),)},
        "appraisal",
        "certificates",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_keeps_the_gate_shut(tmp_path, case):
    options, step, why = REFUSALS[case]
    shut = Gate(tmp_path, Machine(**options))
    assert not shut.run()
    assert shut.failed == step and why in shut.why
    # All steps up to this one ran, in their order, and none after it.
    assert [each["name"] for each in shut.steps] == list(gate.CHECKS[: gate.CHECKS.index(step) + 1])
    assert SET not in shut.machine.calls
    assert shut.machine.accepting is options.get("accepting", False)


LOST = nvml.NvmlError("nvmlDeviceGetConfComputeGpuAttestationReport: GPU is lost (15)")
SILENT = nvml.NvmlError("nvmlDeviceGetConfComputeGpuAttestationReport: Timeout (10)")
FAILURES = {
    "GPU gone while it is asked": (f"report {GENUINE.uuid}", LOST, "evidence", "GPU is lost"),
    "GPU gone after it answered": (f"certificates {GENUINE.uuid}", LOST, "evidence", "GPU is lost"),
    "timeout": (f"report {GENUINE.uuid}", SILENT, "evidence", "Timeout"),
    "no library": (
        "driver",
        nvml.NvmlError("libnvidia-ml.so.1 cannot be used"),
        "not ready yet",
        "NvmlError",
    ),
    "mode cannot be read": ("confidential_mode", LOST, "confidential mode", "GPU is lost"),
    "tools cannot be read": ("developer_tools", LOST, "developer tools", "GPU is lost"),
    "no randomness": ("nonce", OSError(5, "Input/output error"), "evidence", "Input/output error"),
    "the gate itself is wrong": ("modules", ZeroDivisionError("oops"), "crypto modules", "ZeroDivisionError"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_read_keeps_the_gate_shut(tmp_path, case):
    call, error, step, why = FAILURES[case]
    shut = Gate(tmp_path, Machine(fails={call: error}))
    assert not shut.run()
    assert shut.failed == step and why in shut.why
    assert SET not in shut.machine.calls and not shut.machine.accepting


@pytest.mark.parametrize("number", [0, 3, 7])
def test_one_of_eight_gpus_measures_otherwise(tmp_path, number):
    bad = Gpu(measurements={next(iter(DRIVER_VALUES)): b"\1" * 48})
    shut = Gate(tmp_path, eight(**{f"gpu{number}": bad}), EIGHT, authorities=OURS)
    assert not shut.run()
    assert shut.failed == "appraisal" and f"GPU {number + 1} (" in shut.why and "1 of 33 differ" in shut.why
    assert SET not in shut.machine.calls


def test_one_of_eight_gpus_is_lost(tmp_path):
    machine = eight()
    machine.fails[f"report {machine.entries[5].uuid}"] = LOST
    shut = Gate(tmp_path, machine, EIGHT, authorities=OURS)
    assert not shut.run() and shut.failed == "evidence" and SET not in machine.calls


def test_one_gpu_stands_for_two(tmp_path):
    machine = eight()
    machine.entries = (*machine.entries[:7], dataclasses.replace(machine.entries[0], uuid="GPU-8"))
    shut = Gate(tmp_path, machine, EIGHT, authorities=OURS)
    assert not shut.run() and "one GPU stands there twice" in shut.why


def test_a_gpu_too_few(tmp_path):
    shut = Gate(tmp_path, Machine(), EIGHT)
    assert not shut.run() and "7. GPU count: 1; expected 8" in shut.why


@pytest.mark.parametrize("rims", [(), (VBIOS_RIM,)])
def test_no_manifest_of_the_driver(tmp_path, rims):
    """As in recipes/gpu-cc: the driver is pinned, and NVIDIA's manifest of it is not at hand."""
    pins = tuple(pin for pin in EXPECTED.rims if pin.kind is RimKind.VBIOS)[: len(rims)]
    shut = Gate(tmp_path, expected=dataclasses.replace(EXPECTED, rims=pins), rims=rims)
    assert not shut.run()
    assert shut.failed == "appraisal" and "pins no reference values of a driver" in shut.why


def test_a_pinned_manifest_is_gone(tmp_path):
    shut = Gate(tmp_path, rims=(VBIOS_RIM,))
    assert not shut.run() and f"pinned, and not given: {DRIVER_PIN.id}" in shut.why


def test_a_manifest_that_nvidia_did_not_sign(tmp_path):
    shut = Gate(tmp_path, authorities={"rim_root": DEVICES.root})
    assert not shut.run() and "RIM signatures" in shut.why


def test_a_manifest_with_other_values(tmp_path):
    index = next(iter(DRIVER_VALUES))
    other = signed(manifest("550.90.07", DRIVER_VALUES | {index: ["11" * 48]}))
    pin = reference(DRIVER_PIN.id, RimKind.DRIVER, "550.90.07", other)
    expected = dataclasses.replace(EXPECTED, rims=(pin, EXPECTED.rims[1]))
    shut = Gate(tmp_path, expected=expected, rims=(other, VBIOS_RIM))
    assert not shut.run() and "1 of 32 differ" in shut.why


def test_a_revoked_certificate(tmp_path):
    """By a list that the image holds in usr/lib/goldsmith/gpu/revocation."""
    machine = Machine(entries=(entry(GPUS[0]),))
    fine = Gate(tmp_path / "1", machine, authorities=OURS, lists=(crl(DEVICES.root, DEVICES.root_key),))
    assert fine.run(), fine.steps
    revoking = crl(DEVICES.root, DEVICES.root_key, DEVICES.issuer)
    shut = Gate(tmp_path / "2", Machine(entries=(entry(GPUS[0]),)), authorities=OURS, lists=(revoking,))
    assert not shut.run()
    assert shut.failed == "appraisal" and "revoked" in shut.why and SET not in shut.machine.calls


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 100, b"[" * 100_000])
def test_no_expectations(tmp_path, content):
    shut = Gate(tmp_path)
    policy = tmp_path / "usr/lib/goldsmith/gpu/policy.json"
    policy.unlink() if content is None else policy.write_bytes(content)
    assert not shut.run()
    assert shut.failed == "expectations" and shut.machine.calls == []


def test_a_ready_state_that_does_not_stick(tmp_path):
    shut = Gate(tmp_path, Machine(sticks=False))
    assert not shut.run()
    assert shut.failed == "read back" and "still refuse work" in shut.why
    # Taken back, so that it does not come about later.
    assert [call for call in shut.machine.calls if call in (SET, UNSET)] == [SET, UNSET]


@pytest.mark.parametrize(
    ("call", "step"),
    [(SET, "ready state"), ("ready", "read back")],
)
def test_a_ready_state_that_may_be_set_is_taken_back(tmp_path, call, step):
    """The driver sets one GPU after the other: where it fails in between, some accept work."""
    half = Gate(tmp_path, Machine())
    assert gate.check(half.machine, _judge(half), steps.Steps(half.checks))
    half.machine.fails[call] = LOST
    assert not half.open()
    assert half.failed == step
    assert [each for each in half.machine.calls if each in (SET, UNSET)] == [SET, UNSET]
    assert not half.machine.accepting


def test_the_second_part_does_not_believe_its_unit(tmp_path):
    """Started by whatever mistake, it sets nothing unless the record says that every check held."""
    shut = Gate(tmp_path, Machine(mode=False))
    assert not shut.run()
    shut.machine.calls.clear()
    assert not shut.open()
    assert shut.machine.calls == []
    assert steps.read(shut.opening)[0]["detail"].startswith("the checks do not hold: confidential mode: ")


@pytest.mark.parametrize("missing", range(len(gate.CHECKS)))
def test_a_record_without_one_step_opens_nothing(tmp_path, missing):
    """ "ready" is never set before every check."""
    whole = Gate(tmp_path)
    assert whole.run()
    shorter = [step for number, step in enumerate(steps.read(whole.checks)) if number != missing]
    machine = Machine()
    assert not gate.open_gate(machine.driver, shorter, steps.Steps(str(tmp_path / "again.json")))
    assert machine.calls == []


def test_closing_a_gate_without_a_driver_is_no_error(tmp_path):
    machine = Machine(fails={"driver": LOST})
    gate.close_gate(machine.driver)
    assert machine.calls == ["driver"]


def _judge(opened):
    from gpu_evidence import MANIFESTS
    from gpugate.judge import Judge

    return Judge(opened.machine, f"{opened.root}/", rim_root=MANIFESTS.root)
