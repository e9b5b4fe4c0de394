"""Programs that make system calls and nothing else: what an intruder brings along where there is no tool for it.

Each is a static ELF file of a few hundred bytes, assembled here. Calls run in order, whatever each returns; the
kernel's answers go to standard output, eight bytes each.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from channel import Channel
from guest import agent

#: arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS = {
    "open": 2, "mmap": 9, "mprotect": 10, "ioctl": 16, "ptrace": 101, "setuid": 105, "mount": 165, "swapon": 167,
    "reboot": 169, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "kexec_load": 246,
    "unshare": 272, "perf_event_open": 298, "process_vm_readv": 310, "finit_module": 313, "memfd_create": 319,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "exit": 60, "write": 1,
    "getpid": 39, "shmget": 29, "shmat": 30, "pidfd_open": 434, "pidfd_getfd": 438, "fork": 57, "execve": 59,
    "wait4": 61, "prctl": 157,
}  # fmt: skip

_BASE = 0x400000
_HEADERS = 64 + 56
_LIMIT = 0x10000  # bytes of an image
#: System V ABI, x86-64, A.2.1: mov REG, imm64; mov REG, rax
_LOAD = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
_TAKE = (b"\x48\x89\xc7", b"\x48\x89\xc6", b"\x48\x89\xc2", b"\x49\x89\xc2", b"\x49\x89\xc0", b"\x49\x89\xc1")


@dataclass(frozen=True, slots=True)
class Result:
    """The answer of an earlier call, as an argument."""

    index: int


#: A number, bytes (the call gets their address), or what an earlier call returned.
Argument = int | bytes | Result


@dataclass(frozen=True, slots=True)
class Call:
    """A system call by its name."""

    name: str
    arguments: tuple[Argument, ...] = ()


def call(name: str, *arguments: Argument) -> Call:
    """Return a call."""
    return Call(name, arguments)


def assemble(*calls: Call) -> bytes:
    """Return the program that makes these calls and writes what each returned."""
    results = _BASE + _LIMIT // 2
    data, blob = results + 8 * len(calls), b""
    code = b""
    for index, each in enumerate(calls):
        for position, argument in enumerate(each.arguments):
            if isinstance(argument, Result):
                code += b"\x48\xa1" + struct.pack("<Q", results + 8 * argument.index) + _TAKE[position]
                continue
            if isinstance(argument, bytes):
                blob += bytes(-len(blob) % 8)
                argument, blob = data + len(blob), blob + argument
            code += _LOAD[position] + struct.pack("<Q", argument & (1 << 64) - 1)
        code += _number(each.name) + b"\x0f\x05" + b"\x48\xa3" + struct.pack("<Q", results + 8 * index)
    for name, arguments in (("write", (1, results, 8 * len(calls))), ("exit", (0,))):
        for position, value in enumerate(arguments):
            code += _LOAD[position] + struct.pack("<Q", value)
        code += _number(name) + b"\x0f\x05"
    size = results - _BASE - _HEADERS
    assert len(code) <= size and len(blob) < _LIMIT // 4, "the program is too long"
    return elf(code.ljust(size, b"\x90") + bytes(8 * len(calls)) + blob)


def elf(code: bytes) -> bytes:
    """Return a static x86-64 program whose one segment, readable, writable and executable, starts with ``code``."""
    size = _HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def answers(channel: Channel, *calls: Call, user: int = 0) -> list[str]:
    """Make system calls in the guest; return for each the error's name, or the number that it returned.

    Args:
        channel: leads to the guest.
        calls: at least one.
        user: who makes them.
    """
    path = f"{agent.PROGRAMS}/calls"
    channel.put(assemble(*calls), path)
    ran = channel.run(path, user=user)
    assert ran.status == 0, f"the program ended with {ran.status}: {ran.stderr!r}"
    values = struct.unpack(f"<{len(calls)}q", ran.stdout)
    return [errno.errorcode.get(-value, str(value)) if value < 0 else str(value) for value in values]


def _number(name: str) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", NUMBERS[name])
