"""The gate: which steps stand before the GPUs accept work, and in which order. Pure: the machine is behind `machine`.

The first part (`CHECKS`) runs without any privilege and judges; the second (`OPENING`) may set the ready state, and
does nothing but that. docs/evidence-service.md has each step.
"""

from collections.abc import Callable
from typing import Protocol

from gpugate.steps import RefusalError, Steps, complete, reason

#: What the driver's sessions with a GPU need. It asks for them by name when nothing can be loaded any more.
CRYPTO_MODULES = ("ecdh_generic", "gcm", "ghash_generic")
UVM_PERSISTENCE = "--uvm-persistence-mode"


class Driver(Protocol):
    """A session with the driver, as `nvml.Nvml`."""

    def __enter__(self) -> "Driver": ...
    def __exit__(self, *_: object) -> None: ...
    def driver_version(self) -> str: ...
    def confidential_mode(self) -> bool: ...
    def developer_tools(self) -> bool: ...
    def ready(self) -> bool: ...
    def set_ready(self, ready: bool) -> None: ...


class Evidence(Protocol):
    """What was collected from the GPUs, as `measurements.gpu.evidence.GpuEvidence`."""

    gpus: tuple[object, ...]
    error: str | None


class Machine(Protocol):
    """What the first part looks at, as `machine.Machine`."""

    def gpus(self) -> tuple[str, ...]: ...
    def modules(self) -> frozenset[str]: ...
    def module_version(self) -> str | None: ...
    def has_device_node(self, name: str) -> bool: ...
    def persistence_daemon(self) -> tuple[str, ...] | None: ...
    def driver(self) -> Driver: ...
    def nonce(self) -> bytes: ...


class Judge(Protocol):
    """What the image expects of its GPUs, and how evidence is held against it, as `judge.Judge`."""

    def load(self) -> str: ...
    def driver_version(self) -> str: ...
    def collect(self, nonce: bytes) -> Evidence: ...
    def appraise(self, evidence: Evidence, nonce: bytes) -> str: ...


CHECKS = (
    "expectations",
    "gpu",
    "crypto modules",
    "driver",
    "device nodes",
    "persistence daemon",
    "not ready yet",
    "confidential mode",
    "developer tools",
    "evidence",
    "appraisal",
)
OPENING = ("ready state", "read back")


def check(machine: Machine, judge: Judge, steps: Steps) -> bool:
    """Run `CHECKS`, up to the first that fails; return whether all hold."""
    collected: dict[str, tuple[Evidence, bytes]] = {}

    def evidence() -> str:
        nonce = machine.nonce()
        found = judge.collect(nonce)
        if found.error is not None:
            raise RefusalError(found.error)
        if len(found.gpus) != len(machine.gpus()):
            raise RefusalError(f"{len(found.gpus)} of {len(machine.gpus())} GPUs answered")
        collected["evidence"] = found, nonce
        return f"{len(found.gpus)} GPUs answered a fresh nonce"

    actions: dict[str, Callable[[], str]] = {
        "expectations": judge.load,
        "gpu": lambda: _gpu(machine),
        "crypto modules": lambda: _crypto_modules(machine),
        "driver": lambda: _driver(machine, judge),
        "device nodes": lambda: _device_nodes(machine),
        "persistence daemon": lambda: _persistence_daemon(machine),
        "not ready yet": lambda: _not_ready_yet(machine),
        "confidential mode": lambda: _confidential_mode(machine),
        "developer tools": lambda: _developer_tools(machine),
        "evidence": evidence,
        "appraisal": lambda: judge.appraise(*collected["evidence"]),
    }
    return all(steps.run(name, actions[name]) for name in CHECKS)


def open_gate(driver: Callable[[], Driver], checks: list[dict[str, str | bool]], steps: Steps) -> bool:
    """Set the ready state and read it back, if every one of `CHECKS` held; return whether it is set.

    A state that does not stick is taken back: the GPUs must not begin to accept work some time later.
    """

    tried = False

    def set_ready() -> str:
        nonlocal tried
        if not complete(checks, CHECKS):
            raise RefusalError(f"the checks do not hold: {reason(checks, CHECKS)}")
        with driver() as session:
            tried = True
            session.set_ready(True)
        return "set"

    def read_back() -> str:
        with driver() as session:
            if not session.ready():
                raise RefusalError("the GPUs still refuse work")
        return "the GPUs accept work"

    if steps.run("ready state", set_ready) and steps.run("read back", read_back):
        return True
    if tried:
        close_gate(driver)
    return False


def close_gate(driver: Callable[[], Driver]) -> None:
    """Take the ready state back, where the driver still listens."""
    try:
        with driver() as session:
            session.set_ready(False)
    except Exception:
        return


def _gpu(machine: Machine) -> str:
    found = machine.gpus()
    if not found:
        raise RefusalError("no GPU: this machine has no PCI device of NVIDIA's of the display class")
    return ", ".join(found)


def _crypto_modules(machine: Machine) -> str:
    if missing := sorted(set(CRYPTO_MODULES) - machine.modules()):
        raise RefusalError(f"not loaded: {', '.join(missing)}")
    return ", ".join(CRYPTO_MODULES)


def _driver(machine: Machine, judge: Judge) -> str:
    version, expected = machine.module_version(), judge.driver_version()
    if version is None:
        raise RefusalError("the driver is not loaded")
    if version != expected:
        raise RefusalError(f"the driver is {version}; expected {expected}")
    return version


def _device_nodes(machine: Machine) -> str:
    names = ["nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(len(machine.gpus())))]
    if missing := [name for name in names if not machine.has_device_node(name)]:
        raise RefusalError(f"no device node {', '.join(missing)}")
    return ", ".join(names)


def _persistence_daemon(machine: Machine) -> str:
    arguments = machine.persistence_daemon()
    if arguments is None:
        raise RefusalError(
            "nvidia-persistenced does not run: the keys of a GPU would end with its first user"
        )
    if UVM_PERSISTENCE not in arguments:
        raise RefusalError(f"nvidia-persistenced was started without {UVM_PERSISTENCE}")
    return UVM_PERSISTENCE


def _not_ready_yet(machine: Machine) -> str:
    with machine.driver() as driver:
        if driver.ready():
            raise RefusalError("the GPUs accept work already, and nobody has judged them")
    return "the GPUs refuse work"


def _confidential_mode(machine: Machine) -> str:
    with machine.driver() as driver:
        if not driver.confidential_mode():
            raise RefusalError("confidential mode is off, or not that of production")
    return "on"


def _developer_tools(machine: Machine) -> str:
    with machine.driver() as driver:
        if driver.developer_tools():
            raise RefusalError("developer tools are on")
    return "off"
