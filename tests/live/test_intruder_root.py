"""What root of the guest tries, with every capability and outside every sandbox, and what holds even then.

Root of the guest is inside the trust boundary and can do much: change settings that have no latch, open the packet
filter, mount, stop the machine. What is promised against it is the kernel: no code gets in, no memory gets out, and the
root file system stays what was measured.
"""

from __future__ import annotations

import struct

import pytest
from syscalls import Result, answers, call

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
RDONLY, WRONLY, RDWR = 0, 1, 2
MS_REMOUNT = 32
RB_SW_SUSPEND, RB_KEXEC = 0xD000FCE2, 0x45584543
#: Settings with a latch: once set, they go back for nobody, until the machine stops (sysctl/kernel.rst, Yama.rst).
LATCHED = {
    "kernel.modules_disabled": ("1", "0"),
    "kernel.kexec_load_disabled": ("1", "0"),
    "kernel.yama.ptrace_scope": ("3", "0"),
    "kernel.unprivileged_bpf_disabled": ("1", "0"),
}


@pytest.fixture(scope="module")
def tries(live):
    """Make system calls as root."""
    return lambda *calls: answers(live.channel, *calls)


def test_root_has_every_capability(host):
    (line,) = [
        line
        for line in host.file("/proc/self/status").content_string.splitlines()
        if line.startswith("CapEff")
    ]
    last = int(host.file("/proc/sys/kernel/cap_last_cap").content_string)
    assert int(line.split()[1], 16) == (1 << last + 1) - 1


@pytest.mark.parametrize(
    "command", ["touch /x", "mkdir /usr/x", "chmod 0777 /usr", "rm /etc/passwd", "echo > /etc/passwd"]
)
def test_the_root_cannot_be_written(host, command):
    done = host.run(command)
    assert done.rc != 0 and "Read-only file system" in done.stderr


def test_the_root_cannot_be_remounted_for_writing(tries, host):
    """EROFS cannot be written, and its device is read only: EACCES (mount(2))."""
    assert tries(call("mount", b"/dev/mapper/root\0", b"/\0", b"erofs\0", MS_REMOUNT, 0)) == ["EACCES"]
    assert "ro" in host.mount_point("/").options


def test_the_verity_device_takes_no_write(host):
    before = host.check_output("sha256sum /etc/os-release")
    done = host.run("dd if=/dev/zero of=/dev/dm-0 bs=4096 count=1 conv=fsync")
    assert done.rc != 0 and "not permitted" in done.stderr
    assert (
        host.run("blockdev --setrw /dev/dm-0 && dd if=/dev/zero of=/dev/dm-0 bs=4096 count=1 conv=fsync").rc
        != 0
    )
    assert host.check_output("sha256sum /etc/os-release") == before


def test_the_mounted_root_partition_is_claimed(tries):
    """Neither swap nor a second file system takes the disk from dm-verity."""
    assert tries(call("swapon", b"/dev/vda2\0", 0), call("mount", b"/dev/vda2\0", b"/tmp\0", b"erofs\0", 1, 0)) == [
        "EBUSY", "EBUSY",
    ]  # fmt: skip


def test_no_module_is_loaded(tries, host):
    """Neither one of nonsense nor one that Debian signed and the image carries (kernel.modules_disabled)."""
    module = host.check_output("find /usr/lib/modules -name 'failover.ko*'").encode() + b"\0"
    assert (
        tries(
            call("init_module", b"\x7fELF".ljust(128, b"\0"), 128, b"\0"),
            call("open", module, RDONLY, 0),
            call("finit_module", Result(1), b"\0", 0),
            call("finit_module", Result(1), b"\0", 4),  # MODULE_INIT_COMPRESSED_FILE
        )[2:]
        == ["EPERM", "EPERM"]
    )
    assert tries(call("init_module", b"\x7fELF".ljust(128, b"\0"), 128, b"\0")) == ["EPERM"]


def test_no_module_is_unloaded(tries, host):
    assert tries(call("delete_module", b"virtio_rng\0", 0x800)) == ["EPERM"]
    done = host.run("rmmod virtio_rng")
    assert done.rc != 0 and "not permitted" in done.stderr


@pytest.mark.parametrize("request_", [PTRACE_ATTACH, PTRACE_SEIZE])
def test_no_process_is_traced(tries, request_):
    """Yama's scope 3 is for root too, and for good."""
    assert tries(call("ptrace", request_, 1, 0, 0)) == ["EPERM"]


def test_no_memory_of_processes_is_read(tries):
    place = struct.pack("<QQ", 0x400000, 8)
    assert tries(call("process_vm_readv", 1, place, 1, place, 1, 0)) == ["EPERM"]
    assert tries(call("pidfd_open", 1, 0), call("pidfd_getfd", Result(0), 0, 0))[1] == "EPERM"
    assert tries(call("open", b"/proc/1/mem\0", RDWR, 0)) == ["EACCES"]


@pytest.mark.parametrize(("device", "error"), [("mem", "EPERM"), ("port", "ENOENT"), ("kmem", "ENOENT")])
def test_raw_memory_is_closed(tries, device, error):
    """Lockdown (kernel_lockdown(7)); the last two are not built."""
    path = f"/dev/{device}\0".encode()
    assert tries(call("open", path, RDONLY, 0), call("open", path, RDWR, 0)) == [error, error]


def test_the_kernels_image_of_itself_is_closed(tries):
    assert tries(call("open", b"/proc/kcore\0", RDONLY, 0)) == ["EPERM"]


def test_ports_of_the_machine_are_closed(tries):
    assert tries(call("iopl", 3), call("ioperm", 0x80, 1, 1)) == ["EPERM", "EPERM"]


def test_no_other_kernel_is_started(tries):
    """kexec: refused by its own latch and by lockdown; nothing is loaded that could be started."""
    assert tries(call("kexec_load", 0, 0, 0, 0), call("kexec_file_load", 0, 0, 1, b"\0", 0)) == [
        "EPERM",
        "EPERM",
    ]
    assert tries(call("reboot", 0xFEE1DEAD, 672274793, RB_KEXEC)) == ["EINVAL"]


def test_no_hibernation(tries, host):
    assert tries(call("reboot", 0xFEE1DEAD, 672274793, RB_SW_SUSPEND), call("open", b"/dev/snapshot\0", RDONLY, 0)) == [
        "EPERM", "EPERM",
    ]  # fmt: skip
    assert "disk" not in host.file("/sys/power/state").content_string.split()
    assert host.file("/sys/power/disk").content_string == "[disabled]\n"


def test_lockdown_is_not_lifted(host):
    for level in ("none", "integrity"):
        done = host.run(f"echo {level} > /sys/kernel/security/lockdown")
        assert done.rc != 0 and "not permitted" in done.stderr
    assert "[confidentiality]" in host.file("/sys/kernel/security/lockdown").content_string


@pytest.mark.parametrize(("name", "values"), LATCHED.items())
def test_latches_do_not_go_back(host, name, values):
    now, wanted = values
    assert host.run(f"sysctl -w {name}={wanted}").rc != 0
    assert str(host.sysctl(name)) == now


def test_helpers_of_the_kernel_have_no_rights_again(host):
    """kernel.usermodehelper.bset only ever loses: what a core_pattern or modprobe would start is powerless."""
    host.run("sysctl -w 'kernel.usermodehelper.bset=4294967295 4294967295'")
    assert host.file("/proc/sys/kernel/usermodehelper/bset").content_string.split() == ["0", "0"]


def test_nothing_is_traced_or_probed(tries, host):
    """Lockdown's confidentiality leaves tracefs empty, and perf gives no tracepoint."""
    host.check_output("mount -t tracefs tracefs /sys/kernel/tracing")  # in the agent's own namespace
    assert host.check_output("ls -A /sys/kernel/tracing") == ""
    # PERF_SAMPLE_REGS_INTR: what the kernel's registers held (perf_event_open(2)), here the instruction pointer.
    registers = struct.pack("<IIQQQ", 1, 112, 0, 1, 1 << 18).ljust(96, b"\0") + struct.pack("<QQ", 1 << 8, 0)
    assert tries(call("perf_event_open", registers, 0, -1, -1, 0)) == ["EPERM"]


def test_no_io_uring(tries):
    """kernel.io_uring_disabled=2: for nobody."""
    assert tries(call("io_uring_setup", 4, bytes(120))) == ["EPERM"]


@pytest.mark.parametrize("place", ["/run", "/tmp", "/var", "/var/tmp", "/dev", "/dev/shm", "/run/lock"])
def test_programs_start_from_no_place_that_can_be_written(host, place):
    host.check_output(f"cp /usr/bin/mount {place}/copy && chmod 755 {place}/copy")
    done = host.run(f"{place}/copy --version")
    host.check_output(f"rm {place}/copy")
    assert done.rc == 126 and "Permission denied" in done.stderr


def test_memory_files_are_no_programs(tries):
    assert tries(call("memfd_create", b"x\0", 0x10)) == ["EACCES"]
    assert tries(
        call("memfd_create", b"x\0", 0),
        call("execve", b"/proc/self/fd/3\0", struct.pack("<Q", 0), struct.pack("<Q", 0)),
    )[1] == "EACCES"  # fmt: skip


def test_no_packet_leaves_but_answers(host):
    """The filter drops in the kernel: a raw packet is refused at once, a connection never begins."""
    refused = host.run("ping -c 1 -w 3 10.0.2.2")
    assert refused.rc != 0 and "not permitted" in refused.stderr
    for address in ("10.0.2.2 80", "10.0.2.3 53"):
        assert host.run(f"nc -w 3 {address} < /dev/null").rc != 0
