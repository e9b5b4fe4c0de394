"""NVIDIA's driver in the live image: recipes/gpu-cc on a machine with a stand-in for devices of NVIDIA's.

Where there is no device nvidia.ko unloads itself, so nothing of it could be looked at. The stand-in (`standin/`)
is a kernel module of the test extension's initrd. It is unsigned, and so is what this image compiles: without Secure
Boot the kernel of this image is locked down after its last module, and until then takes what the initrd brings, which
is measured. That ABI, linkage and order hold is what these tests prove; of GPUs, their firmware and sessions, nothing.

Expected values come from another machine with the same packages and such a device, without this project.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend import STRANGER, live_host
from conftest import ROOT, disk_launch, tools_of
from guest import agent
from machine import LiveMachine, live_machine
from standin import NAME, Workshop
from test_never_production import MOVED, judge
from testinfra.host import Host

from builder.elf import section

#: include/linux/panic.h: TAINT_OOT_MODULE and TAINT_UNSIGNED_MODULE.
TAINT = 1 << 12 | 1 << 13
#: Documentation/admin-guide/devices.txt: NVIDIA's own major, and where the kernel takes those that drivers leave to it.
NVIDIA_MAJOR = 195
DYNAMIC_MAJORS = {*range(234, 255), *range(384, 512)}
#: What has to be there before the driver asks for it, since by name nothing is loaded any more.
CIPHERS = ("ecdh_generic", "gcm", "ghash_generic")
CUINIT = f"{agent.PROGRAMS}/cuinit"


@pytest.fixture(scope="module")
def workshop(gpu_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(ROOT / "recipes/gpu-cc", tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def standin(gpu_release: Path, workshop: Workshop) -> Iterator[LiveMachine]:
    """The one machine of these tests."""
    launch, tools = disk_launch(gpu_release, "gpu-cc"), tools_of(gpu_release, "gpu-cc")
    module, program = workshop.standin(), workshop.cuinit()
    with (
        tempfile.TemporaryDirectory(prefix="gs-live-", dir="/tmp") as name,
        live_machine(tools, launch, gpu_release / "disk.raw", Path(name), standin=module) as machine,
    ):
        machine.channel.put(program, CUINIT)
        yield machine


@pytest.fixture(scope="module")
def guest(standin: LiveMachine) -> Host:
    return live_host(standin.channel)


@pytest.fixture(scope="module")
def majors(guest: Host) -> dict[str, int]:
    """Name -> major of the driver's character devices."""
    lines = (line.split() for line in guest.check_output("grep nvidia /proc/devices").splitlines())
    return {name: int(number) for number, name in lines}


def test_the_image_s_own_driver_is_loaded_and_stays(guest):
    lines = [line.split() for line in guest.file("/proc/modules").content_string.splitlines()]
    state = {name: (state, users) for name, _, _, users, state, *_ in lines}
    assert state["nvidia"] == ("Live", "nvidia_uvm,")
    assert state["nvidia_uvm"] == ("Live", "-")
    assert state[NAME] == ("Live", "[permanent],")


@pytest.mark.parametrize("name", ["nvidia", "nvidia_uvm"])
def test_what_is_loaded_is_what_the_release_publishes(guest, gpu_release, name):
    """The linker's digest of a module stands in a note (ld(1), --build-id) that the kernel shows."""
    note = bytes(section((gpu_release / f"{name}.ko").read_bytes(), ".note.gnu.build-id") or b"")
    assert len(note) == 36
    assert guest.check_output(f"xxd -p -c 64 /sys/module/{name}/notes/.note.gnu.build-id") == note.hex()


def test_modules_came_in_their_order(guest):
    """The newest stands first (proc(5)): stand-in, ciphers, driver."""
    names = [line.split()[0] for line in guest.file("/proc/modules").content_string.splitlines()][::-1]
    assert names[0] == NAME or names.index(NAME) < names.index("virtio_net")
    for name in CIPHERS:
        assert names.index(NAME) < names.index(name) < names.index("nvidia") < names.index("nvidia_uvm")


def test_the_driver_says_its_version(guest):
    driver, compiler = guest.file("/proc/driver/nvidia/version").content_string.splitlines()
    assert driver == (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build  (buildd@debian)  "
        "Mon Jul 21 21:45:24 UTC 2025"
    )
    assert "gcc version 14." in compiler
    assert guest.file("/sys/module/nvidia/version").content_string == "550.163.01\n"


def test_majors(majors):
    assert majors.pop("nvidia") == majors.pop("nvidiactl") == NVIDIA_MAJOR
    assert majors.keys() == {
        "nvidia-uvm", "nvidia-nvswitch", "nvidia-nvlink", "nvidia-caps", "nvidia-caps-imex-channels",
    }  # fmt: skip
    assert set(majors.values()) <= DYNAMIC_MAJORS and len(set(majors.values())) == len(majors)


def test_what_stands_on_the_bus(guest):
    """A switch (class 0680), which the driver takes, and a GPU (class 0302), which no driver may have."""
    found = {}
    for line in guest.check_output("cd /sys/bus/pci/devices && grep . */vendor */class").splitlines():
        path, _, value = line.partition(":0x")
        found.setdefault(path.rpartition("/")[0], []).append(value)
    nvidia = {address: class_ for address, (vendor, class_) in found.items() if vendor == "10de"}
    assert nvidia == {"0000:00:04.0": "068000", "0000:00:05.0": "030200"}
    assert not guest.file("/sys/bus/pci/devices/0000:00:05.0/driver").exists


def test_what_the_driver_found(guest):
    assert guest.check_output("ls -A /proc/driver/nvidia/gpus") == ""
    log = guest.check_output("dmesg")
    assert "nvidia-uvm: Loaded the UVM driver" in log
    assert "nvidia-nvswitch 0000:00:04.0: probe with driver nvidia-nvswitch failed with error -22" in log
    assert [
        line for line in log.splitlines() if any(word in line for word in ("BUG:", "WARNING:", "Oops"))
    ] == []


def test_latch_and_lockdown_came_after_the_driver(guest):
    assert "[confidentiality]" in guest.file("/sys/kernel/security/lockdown").content_string
    assert guest.sysctl("kernel.modules_disabled") == 1
    assert guest.file("/sys/module/module/parameters/sig_enforce").content_string == "Y\n"
    log = guest.check_output("dmesg")
    assert log.index("nvidia-uvm: Loaded the UVM driver") < log.index("Kernel is locked down from securityfs")


def test_taint_says_that_modules_are_not_debian_s(guest):
    """Nothing worse: no forced module, no warning, no proprietary one (the driver's open modules are MIT and GPL)."""
    assert int(guest.file("/proc/sys/kernel/tainted").content_string) == TAINT


def test_no_second_stand_in(standin, guest, workshop):
    """What the initrd could load, root of the running machine cannot."""
    path = f"{agent.PROGRAMS}/second.ko"
    standin.channel.put(workshop.standin(), path)
    done = guest.run(f"insmod {path}")
    assert done.rc != 0 and "not permitted" in done.stderr
    done = guest.run("rmmod nvidia_uvm")
    assert done.rc != 0 and "not permitted" in done.stderr


@pytest.mark.parametrize(
    "command", ["nvidia-smi", "nvidia-smi -L", "nvidia-smi conf-compute -f", "nvidia-smi conf-compute -grs"]
)
def test_nvidia_smi_reaches_the_driver_and_finds_no_gpu(guest, command):
    """Status 9 would say that it cannot talk to the driver."""
    done = guest.run(command)
    assert (done.rc, "No supported GPUs were found" in done.stdout + done.stderr) == (255, True)


def test_nvidia_smi_runs_without_asking_the_driver(guest):
    assert "confidential compute" in guest.check_output("nvidia-smi conf-compute -h").lower()


def test_the_persistence_daemon_finds_no_gpu(guest):
    done = guest.run("nvidia-persistenced")
    assert done.rc == 1 and "failed to initialize" in done.stdout + done.stderr


def test_cuda_starts_and_finds_no_gpu(guest):
    """libcuda.so.1 and all that it links are there; cuda.h: CUDA_ERROR_UNKNOWN."""
    assert guest.check_output(CUINIT) == "999"


def test_device_nodes(guest, majors):
    """The unit of common/gpu-gate has made them, with the driver's majors, for as many GPUs as a machine may have."""
    assert "Result=success" in guest.check_output("systemctl show goldsmith-gpu-nodes -p Result")
    nodes = {}
    for line in guest.check_output("stat -c '%n %t %T' /dev/nvidia*").splitlines():
        name, major, minor = line.split()
        nodes[name] = (int(major, 16), int(minor, 16))
    nodes.pop("/dev/nvidia-caps", None)  # a folder
    uvm = majors["nvidia-uvm"]
    assert nodes == {
        "/dev/nvidiactl": (NVIDIA_MAJOR, 255),
        "/dev/nvidia-uvm": (uvm, 0),
        "/dev/nvidia-uvm-tools": (uvm, 1),
        **{f"/dev/nvidia{number}": (NVIDIA_MAJOR, number) for number in range(8)},
    }


def test_how_far_the_gate_comes(guest):
    """Expectations, bus, ciphers, the driver's version and the nodes are in order; the daemon has no GPU to hold."""
    steps = json.loads(guest.file("/run/goldsmith-gpu-gate/steps.json").content)
    assert [(step["name"], step["ok"]) for step in steps] == [
        ("expectations", True),
        ("gpu", True),
        ("crypto modules", True),
        ("driver", True),
        ("device nodes", True),
        ("persistence daemon", False),
    ]
    assert [step["detail"] for step in steps[1:5]] == [
        "0000:00:05.0",
        ", ".join(CIPHERS),
        "550.163.01",
        "nvidiactl, nvidia-uvm, nvidia0",
    ]
    assert "does not run" in steps[5]["detail"]


def test_the_daemon_has_what_it_needs(guest):
    """Without any right and in its sandbox it comes as far as root outside, where another test starts it by hand."""
    assert "Result=exit-code" in guest.check_output("systemctl show goldsmith-gpu-persistence -p Result")
    said = guest.check_output("strings /run/log/journal/*/system.journal | grep '^MESSAGE=Failed to'")
    for user in (983, 0):
        assert (
            f"device files (/dev/nvidia*) exist, and that user {user} has read and write permissions" in said
        )


def test_nobody_else_makes_device_nodes(standin, guest):
    """Debian's nvidia-modprobe is setuid root; the image's is not."""
    guest.run("rm -f /dev/nvidia-uvm-tools")
    live_host(standin.channel, user=STRANGER).run("nvidia-modprobe -c 0 -u")
    assert not guest.file("/dev/nvidia-uvm-tools").exists
    assert guest.file("/usr/bin/nvidia-modprobe").mode == 0o755


def test_nothing_of_the_stand_in_is_in_the_image(guest):
    """The root is the release's, bit for bit; what the initrd had is gone with it."""
    assert guest.check_output("find / -xdev -name '*standin*'") == ""


def test_everything_else_is_the_release(standin, gpu_release):
    """The add-on moves 4, 9 and 12; devices more stand in the ACPI tables, hence 1."""
    verdict = judge(standin, gpu_release, image="gpu-cc")
    assert not verdict.passed
    moved = {each.index for each in verdict.registers if each.pinned and not each.equal}
    assert moved == MOVED | {1}
