"""The boundary to sysfs, /proc and device nodes, on trees made like the kernel's."""

from __future__ import annotations

import datetime

import pytest
from gate_machine import nvml
from gpugate.machine import Machine


@pytest.fixture
def root(tmp_path):
    """A machine with an H100, an NVSwitch, NVIDIA's audio function, another vendor's display and a network card."""
    for address, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:02:00.0", "0x10de", "0x068000"),
        ("0000:01:00.1", "0x10de", "0x040300"),
        ("0000:00:01.0", "0x1234", "0x030000"),
        ("0000:00:02.0", "0x1af4", "0x020000"),
    ):
        folder = tmp_path / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    for name in ("nvidia", "gcm"):
        (tmp_path / "sys/module" / name).mkdir(parents=True)
    (tmp_path / "sys/module/nvidia/version").write_text("550.163.01\n")
    return tmp_path


def daemon(root, command, number="321\n"):
    (root / "run/nvidia-persistenced").mkdir(parents=True)
    (root / "run/nvidia-persistenced/nvidia-persistenced.pid").write_text(number)
    if command is not None:
        (root / "proc/321").mkdir(parents=True)
        (root / "proc/321/cmdline").write_bytes(command)
    return Machine(f"{root}/")


def test_a_machine_with_a_gpu(root):
    machine = Machine(f"{root}/")
    assert machine.gpus() == ("0000:01:00.0",)
    assert machine.nvswitches() == ("0000:02:00.0",)
    assert machine.modules() == {"nvidia", "gcm"}
    assert machine.module_version() == "550.163.01"


def test_a_machine_without_anything(tmp_path):
    machine = Machine(f"{tmp_path}/")
    assert machine.gpus() == machine.nvswitches() == () and machine.modules() == frozenset()
    assert machine.module_version() is None and machine.persistence_daemon() is None
    assert not machine.has_device_node("nvidia0")


def test_only_character_devices_are_nodes(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").write_text("")
    assert not Machine(f"{tmp_path}/").has_device_node("nvidia0")
    assert Machine("/").has_device_node("null")


def test_the_daemon_and_how_it_was_started(root):
    assert daemon(root, b"/usr/bin/nvidia-persistenced\0--uvm-persistence-mode\0").persistence_daemon() == (
        "--uvm-persistence-mode",
        "",
    )


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (None, "321\n"),  # it is gone, and its file is not
        (b"", "321\n"),  # a kernel thread
        (b"/usr/bin/other\0--uvm-persistence-mode\0", "321\n"),  # another process has its number
        (b"/usr/bin/nvidia-persistenced\0", ""),
        (b"/usr/bin/nvidia-persistenced\0", "../1\n"),
    ],
)
def test_what_is_no_daemon(root, command, number):
    assert daemon(root, command, number).persistence_daemon() is None


def test_nonces_are_fresh_and_the_clock_has_a_zone():
    machine = Machine()
    assert len(machine.nonce()) == nvml.NONCE_SIZE and machine.nonce() != machine.nonce()
    assert machine.now().utcoffset() == datetime.timedelta(0)
