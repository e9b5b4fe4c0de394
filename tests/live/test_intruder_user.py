"""What somebody without privileges tries, who runs programs on the machine: each attempt, and the kernel's answer.

To run anything at all they were given a place that starts programs (the extension's), which the image does not have.
"""

from __future__ import annotations

import struct

import pytest
from backend import STRANGER
from guest import agent
from syscalls import Result, answers, call, elf

PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME = 16, 0x4206, 0
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MFD_NOEXEC_SEAL, MFD_EXEC = 0x8, 0x10
RDONLY, RDWR = 0, 2
DEVICES = ("tpm0", "tpmrm0", "vda", "vda2", "dm-0", "mem", "mapper/control", "vport1p1", "ttyS0")


@pytest.fixture(scope="module")
def tries(live):
    """Make system calls as the stranger."""
    return lambda *calls: answers(live.channel, *calls, user=STRANGER)


def test_the_stranger_is_nobody(stranger, tries):
    assert stranger.check_output("id -u") == str(STRANGER)
    assert tries(call("setuid", 0)) == ["EPERM"]


@pytest.mark.parametrize("request_", [PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME])
def test_no_process_is_traced(tries, request_):
    """kernel.yama.ptrace_scope=3: not even one's own child (Yama.rst)."""
    assert tries(call("ptrace", request_, 1, 0, 0)) == ["EPERM"]


def test_no_memory_of_others_is_read(tries):
    place = struct.pack("<QQ", 0x400000, 8)
    assert tries(call("process_vm_readv", 1, place, 1, place, 1, 0)) == ["EPERM"]
    assert tries(call("pidfd_open", 1, 0), call("pidfd_getfd", Result(0), 0, 0))[1] == "EPERM"
    assert tries(call("open", b"/proc/1/mem\0", RDONLY, 0), call("open", b"/proc/1/environ\0", RDONLY, 0)) == [
        "EACCES", "EACCES",
    ]  # fmt: skip


@pytest.mark.parametrize("flag", [CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET])
def test_no_namespace(tries, flag):
    """kernel.unprivileged_userns_clone=0, and without a user namespace none of the others."""
    assert tries(call("unshare", flag)) == ["EPERM"]


def test_no_bpf(tries):
    """kernel.unprivileged_bpf_disabled=1 (sysctl/kernel.rst): a map, and a program of two instructions."""
    array = struct.pack("<IIIII", 2, 4, 4, 1, 0).ljust(128, b"\0")
    program = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    calls = (
        call("bpf", 0, array, 72),
        call("bpf", 5, struct.pack("<IIQ", 1, 2, 0).ljust(128, b"\0") + program, 72),
    )
    assert tries(*calls) == ["EPERM", "EPERM"]


def test_no_io_uring(tries):
    assert tries(call("io_uring_setup", 4, bytes(120))) == ["EPERM"]


def test_no_performance_counters(tries):
    """kernel.perf_event_paranoid=3, which is Debian's: none for who lacks CAP_PERFMON."""
    clock = struct.pack("<IIQ", 1, 112, 0).ljust(128, b"\0")
    assert tries(call("perf_event_open", clock, 0, -1, -1, 0)) == ["EACCES"]


def test_no_page_faults_of_the_kernel_are_handled(tries):
    """vm.unprivileged_userfaultfd=0; for one's own faults alone (UFFD_USER_MODE_ONLY) it is open (userfaultfd(2))."""
    assert tries(call("userfaultfd", 0)) == ["EPERM"]


def test_no_module_is_loaded_or_unloaded(tries):
    assert tries(
        call("init_module", b"\x7fELF".ljust(128, b"\0"), 128, b"\0"),
        call("open", b"/etc/os-release\0", RDONLY, 0),
        call("finit_module", Result(1), b"\0", 0),
        call("delete_module", b"virtio_rng\0", 0),
    )[::2] == ["EPERM", "EPERM"]  # fmt: skip
    assert tries(call("delete_module", b"virtio_rng\0", 0)) == ["EPERM"]


def test_nothing_is_mounted(tries):
    assert tries(call("mount", b"x\0", b"/tmp\0", b"tmpfs\0", 0, 0)) == ["EPERM"]
    assert tries(call("swapon", b"/dev/vda\0", 0)) == ["EPERM"]


def test_no_ports_and_no_kexec(tries):
    assert tries(
        call("iopl", 3), call("ioperm", 0x80, 1, 1), call("kexec_load", 0, 0, 0, 0),
        call("kexec_file_load", 0, 0, 0, b"\0", 0), call("reboot", 0xFEE1DEAD, 672274793, 0x1234567),
    ) == ["EPERM"] * 5  # fmt: skip


@pytest.mark.parametrize(
    "device", ["tpm0", "tpmrm0", "vda", "vda2", "dm-0", "mem", "mapper/control", "vport1p1", "ttyS0"]
)
def test_devices_are_closed(tries, device):
    assert tries(call("open", f"/dev/{device}\0".encode(), RDWR, 0)) == ["EACCES"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/dev/kmsg", "EPERM"),
        ("/proc/kcore", "EACCES"),
        ("/proc/sysrq-trigger", "EACCES"),
        ("/sys/kernel/security/tpm0/binary_bios_measurements", "EACCES"),
        ("/sys/kernel/security/lockdown", None),
    ],
)
def test_files_are_closed(tries, path, error):
    """All but the last, which tells what anybody may know: so an answer of this test is one of the kernel's."""
    (answer,) = tries(call("open", f"{path}\0".encode(), RDONLY, 0))
    assert answer == error if error else answer.isdigit()


def test_no_setting_is_changed(stranger):
    for name in ("kernel/yama/ptrace_scope", "kernel/core_pattern", "vm/memfd_noexec", "net/ipv4/ip_forward"):
        done = stranger.run(f"echo 0 > /proc/sys/{name}")
        assert done.rc != 0 and "Permission denied" in done.stderr, name


def test_the_kernels_log_is_closed(stranger):
    done = stranger.run("dmesg")
    assert done.rc != 0 and "not permitted" in done.stderr


def test_programs_start_from_no_place_that_can_be_written(stranger):
    """Not with a program of the machine itself, copied."""
    places = [
        place
        for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")
        if stranger.run(f"test -w {place}").rc == 0
    ]
    assert {"/tmp", "/var/tmp", "/dev/shm"} <= set(places)
    for place in places:
        stranger.check_output(f"cp /usr/bin/mount {place}/copy && chmod 755 {place}/copy")
        done = stranger.run(f"{place}/copy --version")
        stranger.check_output(f"rm {place}/copy")
        assert done.rc == 126 and "Permission denied" in done.stderr, place


def test_nor_through_the_loader(stranger):
    """ld.so maps the file itself: a mount without execution refuses that too."""
    stranger.check_output("cp /usr/bin/mount /tmp/copy")
    done = stranger.run("/usr/lib64/ld-linux-x86-64.so.2 /tmp/copy --version")
    stranger.check_output("rm /tmp/copy")
    assert done.rc == 127 and "failed to map segment" in done.stderr


def test_memory_files_are_no_programs(tries):
    """vm.memfd_noexec=2: asking for an executable one fails, and one that asks for nothing is none."""
    assert tries(call("memfd_create", b"x\0", MFD_EXEC)) == ["EACCES"]
    made, started = tries(
        call("memfd_create", b"x\0", 0),
        call("execve", b"/proc/self/fd/3\0", struct.pack("<Q", 0), struct.pack("<Q", 0)),
    )
    assert made.isdigit() and started == "EACCES"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("the 32-bit system call table", b"\xb8\x14\x00\x00\x00\xcd\x80"),  # mov eax, getpid; int 0x80
        (
            "the vsyscall page",
            b"\x48\xc7\xc0\x00\x00\x60\xff\xff\xd0",
        ),  # mov rax, 0xffffffffff600000; call rax
    ],
)
def test_old_doors_of_the_kernel_are_shut(live, what, code):
    """ia32_emulation=0, vsyscall=none: SIGSEGV (11)."""
    live.channel.put(
        elf(code + b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"), f"{agent.PROGRAMS}/door"
    )  # then exit(0)
    assert live.channel.run(f"{agent.PROGRAMS}/door", user=STRANGER).status == -11, what


def test_low_memory_is_not_mapped(tries):
    """vm.mmap_min_addr: a null pointer of the kernel leads to nothing of ours; 0x32 is fixed, private, anonymous."""
    assert tries(call("mmap", 0x1000, 0x1000, 3, 0x32, -1, 0)) == ["EPERM"]


def test_keystrokes_are_not_forged(tries):
    """dev.tty.legacy_tiocsti=0: TIOCSTI on the terminal that everybody may open (tty_ioctl(4))."""
    opened, forged = tries(call("open", b"/dev/ptmx\0", RDWR, 0), call("ioctl", Result(0), 0x5412, b"x"))
    assert opened.isdigit() and forged in ("EIO", "EPERM")


def test_nobody_crashes_into_a_file(stranger):
    """RLIMIT_CORE is zero for every unit, and core_pattern leads nowhere."""
    assert stranger.check_output("ulimit -c") == "0"
    assert stranger.check_output("ulimit -Hc") == "0"


def test_no_connection_goes_out(stranger):
    """Over TCP, to a host that would answer: QEMU's user network, 10.0.2.2."""
    done = stranger.run("nc -w 3 10.0.2.2 80 < /dev/null")
    assert done.rc != 0
    sent = stranger.run("echo x | nc -w 3 10.0.2.3 53")
    assert sent.rc != 0


def test_a_port_that_is_opened_is_not_reached(live, host):
    """The filter counts what it drops nowhere; so the set of open ports is asked, and loopback alone goes through."""
    host.check_output("nc -l -p 9999 < /dev/null > /dev/null 2>&1 & echo $! > /tmp/listener; sleep 1")
    try:
        assert host.socket("tcp://:::9999").is_listening
        assert host.run("nc -w 3 127.0.0.1 9999 < /dev/null").rc == 0
    finally:
        host.run("kill $(cat /tmp/listener); rm -f /tmp/listener")
