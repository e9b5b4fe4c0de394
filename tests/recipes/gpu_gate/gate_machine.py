"""A machine for the gate: GPUs that answer with recorded or made reports, and every way in which they fail.

All calls to the machine and its driver are kept in one list, so that a test can say what came before what.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = REPOSITORY / "recipes/common/gpu-gate"
sys.path[:0] = [str(PROGRAMS), str(REPOSITORY / "tests/measurements")]

from gpu_evidence import DRIVER_RIM, EXPECTED, GENUINE, MANIFESTS, NONCE, THEN, VBIOS_RIM  # noqa: E402
from gpugate import gate, nvml, steps  # noqa: E402
from gpugate.judge import FOLDER, Judge  # noqa: E402

from measurements.gpu import expectations  # noqa: E402


def program(name: str) -> ModuleType:
    """One of the three programs, which are no modules of a package."""
    spec = importlib.util.spec_from_file_location(f"gpugate_{name}", PROGRAMS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@dataclass
class Machine:
    """What a machine with one genuine H100 says, unless a test says otherwise; `fails` maps calls to errors."""

    entries: tuple = (GENUINE,)
    slots: int | None = None
    loaded: frozenset = frozenset((*gate.CRYPTO_MODULES, "nvidia", "nvidia_uvm"))
    version: str | None = "550.90.07"
    said_version: str = "550.90.07"
    missing_nodes: tuple = ()
    daemon: tuple | None = (gate.UVM_PERSISTENCE,)
    mode: bool = True
    tools: bool = False
    accepting: bool = False
    sticks: bool = True
    switches: int = 0
    asked_with: bytes = NONCE
    fails: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)

    def _call(self, name, value=None):
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]
        return value

    def gpus(self):
        count = len(self.entries) if self.slots is None else self.slots
        return self._call("gpus", tuple(f"0000:{number:02x}:00.0" for number in range(1, count + 1)))

    def nvswitches(self):
        return self._call("nvswitches", tuple(f"0000:f{number:x}:00.0" for number in range(self.switches)))

    def modules(self):
        return self._call("modules", self.loaded)

    def module_version(self):
        return self._call("module_version", self.version)

    def has_device_node(self, name):
        return self._call("has_device_node", name not in self.missing_nodes)

    def persistence_daemon(self):
        return self._call("persistence_daemon", self.daemon)

    def nonce(self):
        return self._call("nonce", self.asked_with)

    def now(self):
        return THEN

    def driver(self):
        self._call("driver")
        return Driver(self)


class Driver:
    """A session with that machine's driver."""

    def __init__(self, machine):
        self._machine = machine

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._machine._call("shutdown")

    def driver_version(self):
        return self._machine._call("driver_version", self._machine.said_version)

    def confidential_mode(self):
        return self._machine._call("confidential_mode", self._machine.mode)

    def developer_tools(self):
        return self._machine._call("developer_tools", self._machine.tools)

    def ready(self):
        return self._machine._call("ready", self._machine.accepting)

    def set_ready(self, ready):
        self._machine._call(f"set_ready {ready}")
        self._machine.accepting = ready and self._machine.sticks

    def devices(self):
        return self._machine._call("devices", list(self._machine.entries))

    def uuid(self, device):
        return self._machine._call("uuid", device.uuid)

    def architecture(self, device):
        return self._machine._call("architecture", device.architecture)

    def report(self, device, nonce):
        assert nonce == self._machine.asked_with
        return self._machine._call(f"report {device.uuid}", device.report)

    def certificates(self, device):
        return self._machine._call(f"certificates {device.uuid}", device.certificates)


@dataclass
class Gate:
    """Both parts of the gate on one machine, with the files of an image below ``root``."""

    root: Path
    machine: Machine = field(default_factory=Machine)
    expected: expectations.GpuExpectations = EXPECTED
    rims: tuple = (DRIVER_RIM, VBIOS_RIM)
    lists: tuple = ()
    authorities: dict = field(default_factory=dict)

    def __post_init__(self):
        folder = self.root / FOLDER
        for name, suffix, contents in (("rims", "swidtag", self.rims), ("revocation", "crl", self.lists)):
            (folder / name).mkdir(parents=True)
            for number, content in enumerate(contents):
                (folder / name / f"{number}.{suffix}").write_bytes(content)
        (folder / "policy.json").write_bytes(expectations.serialize(self.expected))
        self.checks, self.opening = str(self.root / "checks.json"), str(self.root / "opening.json")

    def run(self) -> bool:
        """Run the first part, and the second as its unit does: only where the first ended well."""
        judge = Judge(self.machine, f"{self.root}/", **({"rim_root": MANIFESTS.root} | self.authorities))
        if not gate.check(self.machine, judge, steps.Steps(self.checks)):
            return False
        return self.open()

    def open(self) -> bool:
        """Run the second part, whatever the first one left."""
        return gate.open_gate(self.machine.driver, steps.read(self.checks), steps.Steps(self.opening))

    @property
    def failed(self) -> str | None:
        """The name of the step that failed."""
        return next((step["name"] for step in self.steps if not step["ok"]), None)

    @property
    def why(self) -> str:
        """What it said."""
        return next(step["detail"] for step in self.steps if not step["ok"])

    @property
    def steps(self) -> list:
        return [*steps.read(self.checks), *steps.read(self.opening)]


__all__ = ["NONCE", "Driver", "Gate", "Machine", "gate", "nvml", "program", "replace", "steps"]
