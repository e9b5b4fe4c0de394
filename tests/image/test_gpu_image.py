"""The gate in the built image of recipes/gpu-cc: in which order its units run, and that its own Python can judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/measurements")]

from gpu_evidence import CHAIN, DRIVER_RIM, EXPECTED, MANIFESTS, NONCE, REPORT, VBIOS_RIM, pem  # noqa: E402

from measurements.gpu import expectations  # noqa: E402

pytestmark = pytest.mark.integration

GATE, READY = "goldsmith-gpu-gate.service", "goldsmith-gpu-ready.service"
#: The boot: each comes after the one before it, directly or by way of others.
ORDER = [
    "systemd-modules-load.service",
    "goldsmith-lockdown.service",
    "goldsmith-gpu-nodes.service",
    "goldsmith-gpu-persistence.service",
    GATE,
    READY,
    "systemd-sysctl.service",
    "goldsmith-readback.service",
    "network-pre.target",
    "systemd-networkd.service",
]
LATE = ["goldsmith-workload.target", "goldsmith-evidence@.service", "goldsmith-gpu-evidence@.service"]
UNITS = ("etc/systemd/system", "usr/lib/systemd/system")
KINDS = (".service", ".socket", ".target", ".mount")


@pytest.fixture(scope="module")
def units(gpu_image) -> dict[str, dict[str, list[str]]]:
    """Unit -> setting -> words, of the image's unit files and drop-ins, with what systemd adds by default."""
    found: dict[str, dict[str, list[str]]] = {}
    for folder in UNITS[::-1]:
        for path in sorted((gpu_image.root / folder).iterdir()):
            if path.suffix in KINDS and path.is_file() and not path.is_symlink():
                found[path.name] = _settings(path.read_text())
    for folder in UNITS:
        for path in sorted((gpu_image.root / folder).glob("*.d/*.conf")):
            for key, words in _settings(path.read_text()).items():
                if path.parent.name[:-2] in found:
                    found[path.parent.name[:-2]].setdefault(key, []).extend(words)
        for path in (gpu_image.root / folder).glob("*.*/*"):
            owner, _, kind = path.parent.name.rpartition(".")
            if kind in ("wants", "requires") and owner in found:
                found[owner].setdefault(kind.capitalize(), []).append(path.name)
    for name, settings in found.items():
        # systemd.service(5), "Default Dependencies"; systemd.target(5): a target comes after what it pulls in.
        if settings.get("DefaultDependencies") != ["no"]:
            if name.endswith(".service"):
                settings.setdefault("After", []).extend(["sysinit.target", "basic.target"])
            if name.endswith(".target"):
                settings.setdefault("After", []).extend(_pulled(settings))
    return found


def _settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            found.setdefault(key.strip(), []).extend(value.split())
    return found


def _pulled(settings: dict[str, list[str]]) -> list[str]:
    return [*settings.get("Wants", []), *settings.get("Requires", [])]


@pytest.fixture(scope="module")
def comes_after(units):
    """(later, earlier) -> whether the image's units say so, over any number of others."""
    earlier = {name: set(settings.get("After", [])) for name, settings in units.items()}
    for name, settings in units.items():
        for other in settings.get("Before", []):
            earlier.setdefault(other, set()).add(name)

    @cache
    def all_before(name: str) -> frozenset[str]:
        found, pending = set(), [name]
        while pending:
            for other in earlier.get(pending.pop(), ()):
                if other not in found:
                    found.add(other)
                    pending.append(other)
        return frozenset(found)

    return lambda later, first: first in all_before(later)


@pytest.mark.parametrize("position", range(1, len(ORDER)))
def test_order_of_the_boot(comes_after, position):
    """docs/evidence-service.md, "GPUs": attest, then ready, then latch, then the network."""
    assert all(comes_after(ORDER[position], earlier) for earlier in ORDER[:position])
    assert not any(comes_after(earlier, ORDER[position]) for earlier in ORDER[:position]), "a cycle"


@pytest.mark.parametrize("unit", LATE)
def test_what_serves_comes_after_the_gate(comes_after, unit):
    assert comes_after(unit, GATE) and comes_after(unit, READY)


def test_nothing_but_the_workload_needs_the_gate(units):
    """A gate that stays shut blocks neither latch, read-back, network nor evidence."""
    for name, settings in units.items():
        needed = {
            word
            for key in ("Requires", "Requisite", "BindsTo", "PartOf", "PropagatesStopTo")
            for word in settings.get(key, [])
        }
        if {GATE, READY} & needed:
            assert name in ("goldsmith-workload.target", READY)
    for name in (GATE, READY, *ORDER[2:4]):
        assert not {"FailureAction", "OnFailure", "SuccessAction"} & units[name].keys()
    assert {GATE, READY} <= set(units["goldsmith-workload.target"]["Requires"])
    assert units[READY]["Requires"] == [GATE]


def test_what_hangs_is_ended(units):
    for name in (GATE, READY, *ORDER[2:4]):
        assert units[name]["TimeoutStartSec"][0].endswith("s"), name


def test_only_the_evidence_service_is_connected(units, gpu_image):
    """The manager opens the socket for it; the socket itself is root's alone."""
    assert units["goldsmith-gpu-evidence.socket"]["SocketMode"] == ["0600"]
    (path,) = units["goldsmith-gpu-evidence.socket"]["ListenStream"]
    opened = f"{path}:gpu:graceful"
    connected = {name for name, settings in units.items() if opened in settings.get("OpenFile", [])}
    assert connected == {"goldsmith-evidence@.service", "goldsmith-evidence-serial.service"}


def test_privileges_of_each_unit(units):
    """What reads a GPU's words has none; what sets the ready state reads nothing."""
    bounding = {name: units[name]["CapabilityBoundingSet"] for name in (GATE, READY, *ORDER[2:4], LATE[2])}
    assert bounding == {
        GATE: [],
        READY: ["CAP_SYS_ADMIN"],
        "goldsmith-gpu-nodes.service": ["CAP_MKNOD"],
        "goldsmith-gpu-persistence.service": [],
        "goldsmith-gpu-evidence@.service": [],
    }
    assert units[GATE]["User"] == units[LATE[2]]["User"] == ["goldsmith-gpu"]
    assert units["goldsmith-gpu-persistence.service"]["User"] == ["nvidia-persistenced"]


def test_the_base_image_has_none_of_it(image):
    names = {path.name for path in image.root.rglob("*")}
    assert not {name for name in names if "gpu" in name or "nvidia" in name or "cryptography" in name}
    assert "goldsmith-workload.target" not in names


#: Judges with the image's own files: its Python, its libraries, its modules of this project.
_JUDGE = """
import datetime, json, sys
sys.path += [{programs!r}, {root!r} + "/usr/lib/goldsmith/python", {root!r} + "/usr/lib/python3/dist-packages"]
import answer, check, ready
from cryptography import x509
from gpugate import gate, record, steps
from gpugate.collect import document
from gpugate.judge import Judge
sample = {sample!r}
def content(name):
    with open(sample + "/" + name, "rb") as file:
        return file.read()
class Driver:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    driver_version = lambda self: "550.90.07"
    confidential_mode = lambda self: True
    developer_tools = lambda self: False
    ready = lambda self: False
    devices = lambda self: [1]
    uuid = lambda self, device: "GPU-1"
    architecture = lambda self, device: "hopper"
    report = lambda self, device, nonce: content("report")
    certificates = lambda self, device: content("chain")
class Machine:
    gpus = lambda self: ("0000:01:00.0",)
    nvswitches = lambda self: ()
    modules = lambda self: frozenset(gate.CRYPTO_MODULES)
    module_version = lambda self: "550.90.07"
    has_device_node = lambda self, name: True
    persistence_daemon = lambda self: (gate.UVM_PERSISTENCE,)
    driver = lambda self: Driver()
    nonce = lambda self: bytes.fromhex(sys.argv[1])
    now = lambda self: datetime.datetime(2024, 6, 1, tzinfo=datetime.UTC)
machine = Machine()
judge = Judge(machine, sample + "/", rim_root=x509.load_pem_x509_certificate(content("root.pem")))
gate.check(machine, judge, steps.Steps(sample + "/steps.json"))
document(machine, machine.nonce(), record.gate_record(sample + "/steps.json", sample + "/none.json"))
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
frozen = {{getattr(module, "__file__", None) for module in list(sys.modules.values())
          if getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"}}
print(json.dumps(sorted(set(files) - frozen - {{None}})))
"""


@pytest.fixture(scope="module")
def judged(gpu_image, tmp_path_factory):
    """Run the gate's checks with the image's files on a nonce; return the steps and the files that it imported."""
    sample = tmp_path_factory.mktemp("sample")
    folder = sample / "usr/lib/goldsmith/gpu"
    (folder / "rims").mkdir(parents=True)
    (folder / "policy.json").write_bytes(expectations.serialize(EXPECTED))
    for name, content in (
        (folder / "rims/driver.swidtag", DRIVER_RIM),
        (folder / "rims/vbios.swidtag", VBIOS_RIM),
        (sample / "report", REPORT),
        (sample / "chain", CHAIN),
        (sample / "root.pem", pem(MANIFESTS.root)),
    ):
        name.write_bytes(content)
    root = gpu_image.root
    libraries = root / "usr/lib/x86_64-linux-gnu"
    program = _JUDGE.format(root=str(root), sample=str(sample), programs=str(root / "usr/lib/goldsmith/gpu"))

    def run(nonce: bytes) -> tuple[list[dict], list[str]]:
        done = subprocess.run(
            [
                libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, root / "usr/bin/python3.13",
                "-P", "-S", "-B", "-c", program, nonce.hex(),
            ],
            env={"PYTHONHOME": str(root / "usr"), "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads((sample / "steps.json").read_text()), json.loads(done.stdout)

    return run


def test_the_image_s_own_python_judges_a_genuine_h100(judged):
    """Debian's interpreter and cryptography, nothing of this host, the recorded report of an H100."""
    steps, _ = judged(NONCE)
    assert [step["name"] for step in steps][-1] == "appraisal" and all(step["ok"] for step in steps), steps


def test_the_image_s_own_python_refuses_another_nonce(judged):
    steps, _ = judged(bytes(32))
    assert steps[-1]["name"] == "appraisal" and not steps[-1]["ok"] and NONCE.hex() in steps[-1]["detail"]


def test_what_the_gate_imports_is_what_the_image_holds(judged, gpu_image):
    """No file of Python in the image that nothing imports, and none imported from elsewhere."""
    _, files = judged(NONCE)
    assert [path for path in files if not path.startswith(f"{gpu_image.root}/")] == []
    imported = {os.path.relpath(path, gpu_image.root) for path in files}
    held = {
        str(path.relative_to(gpu_image.root))
        for folder in (
            "usr/lib/python3.13",
            "usr/lib/python3",
            "usr/lib/goldsmith/python",
            "usr/lib/goldsmith/gpu",
        )
        for path in (gpu_image.root / folder).rglob("*")
        if path.suffix in (".py", ".so")
    }
    # os.py is how the interpreter finds its library; its code is frozen into it.
    assert held - imported == {"usr/lib/python3.13/os.py"}
    assert imported <= held


def test_documentation_says_what_python_costs(gpu_image):
    """docs/adr/0027: files and MiB of Python, with what the evidence service has of it."""
    found = [
        path
        for folder in (
            "usr/lib/python3.13",
            "usr/lib/python3",
            "usr/lib/goldsmith/python",
            "usr/lib/goldsmith/gpu",
        )
        for path in (gpu_image.root / folder).rglob("*")
        if path.is_file()
    ]
    libraries = [
        path
        for name in ("libffi.so*", "libgcc_s.so*", "libssl.so*")
        for path in (gpu_image.root / "usr/lib/x86_64-linux-gnu").glob(name)
        if not path.is_symlink()
    ]
    size = sum(path.stat().st_size for path in (*found, *libraries)) / 2**20
    text = next((ROOT / "docs/adr").glob("*python-in-the-guest.md")).read_text()
    assert f"{len(found) + len(libraries)} files, {size:.1f} MiB" in text
