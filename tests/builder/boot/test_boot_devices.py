"""What predictions are told about the machine: it must be what QEMU is told."""

import pytest

from builder.artifacts import Firmware, Machine
from builder.boot.qemu import Wiring, boot_devices, qemu_arguments, random_numbers
from measurements.platforms.qemu import VirtioBlk, VirtioNet
from measurements.prediction import BootPath


def machine(cpu="qemu64", devices=()):
    return Machine(type="pc-q35-10.0", cpu=cpu, memory_mib=512, vcpus=1, devices=devices)


def test_boot_devices_are_those_of_the_command_line(tmp_path):
    firmware = Firmware(name="", package="", version="", code=tmp_path / "code", variables=tmp_path / "vars")
    wiring = Wiring(tpm=tmp_path / "tpm", variables=tmp_path / "vars")
    arguments = qemu_arguments(machine(), firmware, BootPath.DISK, wiring, accelerator="tcg")
    disk, card = boot_devices()
    assert isinstance(disk, VirtioBlk)
    assert any(f"virtio-blk-pci,drive=disk,addr=0x{disk.slot:02x}" in each for each in arguments)
    assert isinstance(card, VirtioNet)
    (line,) = (each for each in arguments if each.startswith("virtio-net-pci"))
    assert f"addr=0x{card.slot:02x}" in line
    assert line.endswith("mac=" + card.mac.hex(":"))


@pytest.mark.parametrize(
    ("cpu", "devices", "answer"),
    [
        ("qemu64", (), False),
        ("qemu64,+rdrand", (), None),
        ("EPYC-v4", (), None),
        ("max", (), None),
        ("qemu64", ("virtio-rng-pci",), None),
    ],
)
def test_random_numbers(cpu, devices, answer):
    # RDRAND is CPUID leaf 1, ECX bit 30; QEMU's qemu64 has never had it (target/i386/cpu.c builtin_x86_defs).
    assert random_numbers(machine(cpu, devices)) is answer
