"""How far each service of the image is boxed in, by the judgement of the locked systemd itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from builder.lockfile import read_lock
from builder.store import Store
from builder.toolbox import open_members

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LIBRARIES = "usr/lib/x86_64-linux-gnu"
#: The most that a service of ours may be exposed.
LIMIT = 2.0
OURS = {
    "goldsmith-evidence@.service",
    "goldsmith-evidence-serial.service",
    "goldsmith-firewall.service",
    "goldsmith-readback.service",
}
#: Of common/scratch, which the base image does not include.
SCRATCH = "goldsmith-scratch.service"
#: Of common/lockdown-late and common/gpu-gate, likewise.
GPU = {
    "goldsmith-gpu-evidence@.service",
    "goldsmith-gpu-gate.service",
    "goldsmith-gpu-nodes.service",
    "goldsmith-gpu-persistence.service",
    "goldsmith-gpu-ready.service",
    "goldsmith-lockdown.service",
}
#: PID 1 does their work; none has a process that runs while the machine does.
STOPPING = {
    f"{name}.service"
    for name in ("emergency", "rescue", "systemd-halt", "systemd-poweroff", "systemd-reboot")
}


@pytest.fixture(scope="module")
def exposure(image, tmp_path_factory) -> dict[str, float]:
    """Every service of the base image."""
    return exposures(image, "base", tmp_path_factory.mktemp("analyze"))


@pytest.fixture(scope="module")
def scratch_exposure(scratch_image, tmp_path_factory) -> float:
    """The service of common/scratch."""
    return exposures(scratch_image, "scratch", tmp_path_factory.mktemp("analyze"))[SCRATCH]


@pytest.fixture(scope="module")
def gpu_exposure(gpu_image, tmp_path_factory) -> dict[str, float]:
    """Every service of recipes/gpu-cc."""
    return exposures(gpu_image, "gpu-cc", tmp_path_factory.mktemp("analyze"))


def exposures(image, recipe: str, folder: Path) -> dict[str, float]:
    """Unit -> exposure, from `systemd-analyze security` over the unpacked root."""
    lock = read_lock(image.release / "lock.json", recipe=recipe)
    (archive,) = [item for item in lock.members("root") if item.name == "systemd"]
    (package,) = open_members([archive], Store.default(), recipe=recipe)
    (program,) = [
        bytes(item.content) for item in package.entries() if item.path == "/usr/bin/systemd-analyze"
    ]
    analyze = folder / "systemd-analyze"
    analyze.write_bytes(program)
    analyze.chmod(0o755)
    libraries = image.root / LIBRARIES
    found = {}
    for path in sorted((image.root / "usr/lib/systemd/system").glob("*.service")):
        if (image.root / "etc/systemd/system" / path.name).is_symlink() or path.name in STOPPING:
            continue  # masked, or nothing that runs
        done = subprocess.run(
            [
                libraries / "ld-linux-x86-64.so.2", "--library-path", f"{libraries}:{libraries}/systemd",
                analyze, "security", "--no-pager", "--offline=yes", f"--root={image.root}", path.name,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        overall = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
        assert overall, f"{path.name}: {done.stdout[-500:]}{done.stderr}"
        found[path.name] = float(overall[1])
    return found


def test_our_services_are_below_their_limit(exposure, scratch_exposure, gpu_exposure):
    ours = {name: value for name, value in exposure.items() if name.startswith("goldsmith-")}
    assert set(ours) == OURS
    assert {name: value for name, value in ours.items() if value > LIMIT} == {}
    assert scratch_exposure <= LIMIT
    gpu = {name: gpu_exposure[name] for name in gpu_exposure.keys() - exposure.keys()}
    assert set(gpu) == GPU
    assert {name: value for name, value in gpu.items() if value > LIMIT} == {}
    # What the gate adds to other services opens them no further.
    assert {name: gpu_exposure[name] for name in exposure} == exposure


def test_documentation_has_every_number(exposure, scratch_exposure, gpu_exposure):
    """docs/hardening.md, "Services"."""
    text = (ROOT / "docs/hardening.md").read_text()
    told = dict(re.findall(r"^\| (\S+\.service) \| (\d+\.\d) \|$", text, re.MULTILINE))
    assert {name: float(value) for name, value in told.items()} == {
        **gpu_exposure,
        **exposure,
        SCRATCH: scratch_exposure,
    }
