"""Which accelerator really runs a guest here: a device node that opens is no proof."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from builder.tools import Tools

KVM, TCG = "kvm", "tcg,thread=multi"

_DEVICE = Path("/dev/kvm")
_TIMEOUT = 5.0  # seconds; a working KVM needs 0.1
_POLL = 0.02
_EXIT_PORT = 0xF4
_PASSED = 0x2A
_STATUS = _PASSED << 1 | 1  # how isa-debug-exit turns a written byte into an exit status
_ROM_SIZE, _ENTRY, _RESET_VECTOR = 0x10000, 0xFF00, 0xFFF0

# 16-bit code: what firmware does first, and where nested and emulated KVMs have been seen to fail.
_GUEST = (
    bytes.fromhex("9bdbe3")  # finit
    + bytes.fromhex("0f20e0 660d00060000 0f22e0")  # cr4 |= OSFXSR | OSXMMEXCPT
    + bytes.fromhex("0f57c0")  # xorps xmm0, xmm0
    + bytes.fromhex("6631c0 0fa2")  # eax = 0, cpuid
    + bytes((0xB0, _PASSED, 0xE6, _EXIT_PORT))  # al = passed, out
    + bytes.fromhex("f4 ebfd")  # hlt, for ever
)

_results: dict[tuple[Path | None, str], str] = {}


def probe(tools: Tools, cpu: str) -> str:
    """Return the value for ``-accel``: KVM where it runs a guest on this CPU model, else TCG. Cached.

    Args:
        tools: the toolbox that holds QEMU.
        cpu: QEMU's CPU model; KVM is refused where the host lacks a feature that the model promises.

    Raises:
        ToolError: there is no QEMU.
    """
    key = (tools.root, cpu)
    if key not in _results:
        _results[key] = KVM if os.access(_DEVICE, os.R_OK | os.W_OK) and _runs(tools, KVM, cpu) else TCG
    return _results[key]


def _runs(tools: Tools, accelerator: str, cpu: str) -> bool:
    """Whether a few instructions run to their end."""
    jump = (_ENTRY - (_RESET_VECTOR + 3)).to_bytes(2, "little", signed=True)
    rom = bytearray(_ROM_SIZE)
    rom[_ENTRY : _ENTRY + len(_GUEST)] = _GUEST
    rom[_RESET_VECTOR : _RESET_VECTOR + 3] = b"\xe9" + jump
    with tempfile.NamedTemporaryFile(prefix="goldsmith-probe-") as file:
        file.write(rom)
        file.flush()
        arguments = [
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35", "-m", "16",
            "-accel", accelerator, "-cpu", f"{cpu},enforce", "-bios", file.name,
            "-device", f"isa-debug-exit,iobase=0x{_EXIT_PORT:x},iosize=1",
        ]  # fmt: skip
        with tools.spawn("qemu-system-x86_64", *arguments) as process:
            deadline = time.monotonic() + _TIMEOUT
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL)
            return process.poll() == _STATUS
