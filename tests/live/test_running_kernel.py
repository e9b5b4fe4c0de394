"""What the running kernel says of itself, against what the hardening promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "recipes/common/hardening/sysctl.conf"

#: Linux, Documentation/admin-guide/sysctl, and what the Kernel Self Protection Project recommends there.
SETTINGS = {
    "dev.tty.ldisc_autoload": "0",
    "dev.tty.legacy_tiocsti": "0",
    "fs.protected_fifos": "2",
    "fs.protected_hardlinks": "1",
    "fs.protected_regular": "2",
    "fs.protected_symlinks": "1",
    "fs.suid_dumpable": "0",
    "kernel.core_pattern": "/dev/null",
    "kernel.core_pipe_limit": "1",
    "kernel.ctrl-alt-del": "0",
    "kernel.dmesg_restrict": "1",
    "kernel.ftrace_enabled": "0",
    "kernel.io_uring_disabled": "2",
    "kernel.kexec_load_disabled": "1",
    "kernel.kptr_restrict": "2",
    "kernel.modprobe": "",
    "kernel.modules_disabled": "1",
    "kernel.oops_limit": "1",
    "kernel.panic": "1",
    "kernel.panic_on_io_nmi": "1",
    "kernel.panic_on_oops": "1",
    "kernel.panic_on_unrecovered_nmi": "1",
    "kernel.perf_event_paranoid": "3",
    "kernel.randomize_va_space": "2",
    "kernel.sysrq": "0",
    "kernel.tracepoint_printk": "0",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.unprivileged_userns_clone": "0",
    "kernel.usermodehelper.bset": "0 0",
    "kernel.usermodehelper.inheritable": "0 0",
    "kernel.yama.ptrace_scope": "3",
    "net.core.bpf_jit_harden": "2",
    "net.ipv4.conf.*.accept_redirects": "0",
    "net.ipv4.conf.*.accept_source_route": "0",
    "net.ipv4.conf.*.bootp_relay": "0",
    "net.ipv4.conf.*.proxy_arp": "0",
    "net.ipv4.conf.*.rp_filter": "1",
    "net.ipv4.conf.*.secure_redirects": "0",
    "net.ipv4.conf.*.send_redirects": "0",
    "net.ipv4.conf.*.shared_media": "0",
    "net.ipv4.icmp_echo_ignore_all": "1",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.icmp_ignore_bogus_error_responses": "1",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.tcp_rfc1337": "1",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv6.conf.*.accept_redirects": "0",
    "net.ipv6.conf.*.accept_source_route": "0",
    "net.ipv6.conf.*.forwarding": "0",
    "net.ipv6.icmp.echo_ignore_all": "1",
    "vm.memfd_noexec": "2",
    "vm.mmap_min_addr": "65536",
    "vm.mmap_rnd_bits": "32",
    "vm.unprivileged_userfaultfd": "0",
}

#: Built in, or loaded before the latch closed (modules.dep of Debian's linux-image-6.12-cloud-amd64).
MODULES = {
    "dm_bufio", "dm_mod", "dm_verity", "erofs", "failover", "libcrc32c", "net_failover", "nf_tables",
    "nfnetlink", "reed_solomon", "virtio_blk", "virtio_net", "virtio_rng",
}  # fmt: skip

#: Words that switch a defence on which nothing but the command line can (kernel-parameters.txt).
WORDS = {
    "lockdown=confidentiality", "module.sig_enforce=1", "init_on_alloc=1", "init_on_free=1", "slab_nomerge",
    "page_alloc.shuffle=1", "randomize_kstack_offset=on", "vsyscall=none", "ia32_emulation=0", "debugfs=off",
    "mitigations=auto", "iommu.strict=1", "random.trust_bootloader=off", "proc_mem.force_override=never",
    "nohibernate", "i8042.nokbd", "i8042.noaux", "systemd.import_credentials=no", "oops=panic", "panic=1",
    "systemd.verity_root_options=panic-on-corruption", "systemd.gpt_auto=no",
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS.items())
def test_setting(host, name, value):
    files = f"/proc/sys/{name.replace('.', '/')}"
    found = host.check_output(f'for file in {files}; do echo "$file $(cat "$file")"; done').splitlines()
    assert found
    if "*" in name:
        assert len(found) >= 4, "all, default, lo and the card"
    for line in found:
        path, _, text = line.partition(" ")
        assert " ".join(text.split()) == value, path


def test_every_setting_of_the_profile_is_looked_at():
    lines = [line.partition("=") for line in SOURCE.read_text().splitlines() if line[:1] not in ("#", "")]
    assert {name.strip() for name, equals, _ in lines if equals} <= set(SETTINGS)


def test_testinfra_reads_the_same(host):
    """Its own module and sysctl(8) agree with the files."""
    assert host.sysctl("kernel.yama.ptrace_scope") == 3
    assert host.sysctl("kernel.core_pattern") == "/dev/null"


def test_command_line(host):
    words = host.file("/proc/cmdline").content_string.split()
    assert set(words) >= WORDS
    assert len([word for word in words if word.startswith("roothash=")]) == 1
    keys = [word.partition("=")[0] for word in words]
    assert not {"console", "init", "rdinit", "systemd.unit", "systemd.debug_shell", "single"} & set(keys)


def test_lockdown(host):
    assert "[confidentiality]" in host.file("/sys/kernel/security/lockdown").content_string


def test_loaded_modules(host):
    lines = host.file("/proc/modules").content_string.splitlines()
    assert {line.split()[0] for line in lines} == MODULES
    assert all(re.search(r" Live 0x[0-9a-f]+$", line) for line in lines), "a module's taint stands at the end"


def test_only_signed_modules(host):
    assert host.file("/sys/module/module/parameters/sig_enforce").content_string == "Y\n"


def test_not_tainted(host):
    assert host.file("/proc/sys/kernel/tainted").content_string == "0\n"


def test_random_numbers_are_ready(host):
    """The pool's size in bits, once it is seeded (drivers/char/random.c)."""
    assert int(host.file("/proc/sys/kernel/random/entropy_avail").content_string) == 256


def test_cpu_weaknesses_are_answered(host):
    texts = host.check_output("cd /sys/devices/system/cpu/vulnerabilities && grep . *").splitlines()
    assert len(texts) > 10
    assert [line for line in texts if "Vulnerable" in line] == []


def test_kernel_defences_that_its_log_names(host):
    assert "mem auto-init: stack:all(zero), heap alloc:on, heap free:on" in host.check_output("dmesg")


def test_no_address_of_the_kernel_is_shown(host):
    addresses = {line.split()[0] for line in host.check_output("head -n 200 /proc/kallsyms").splitlines()}
    assert addresses == {"0000000000000000"}


@pytest.mark.parametrize(
    "path",
    [
        "/sys/kernel/debug", "/sys/kernel/config", "/sys/bus/usb", "/sys/firmware/qemu_fw_cfg", "/dev/port",
        "/dev/cpu/0/msr", "/dev/vsock", "/dev/uinput", "/dev/loop-control", "/dev/vhost-net",
    ],
)  # fmt: skip
def test_surface_that_is_not_there(host, path):
    assert not host.file(path).exists


def test_no_firmware_variable_is_seen(host):
    """Without efivarfs: systemd takes options from such variables, which no register shows."""
    assert host.check_output("ls -A /sys/firmware/efi/efivars") == ""


def test_nobody_sits_at_a_keyboard(host):
    """No input device, and no driver that could make one."""
    assert host.check_output("ls /sys/class/input") == ""
    assert host.file("/proc/bus/input/devices").content_string == ""


def test_security_modules(host):
    active = host.file("/sys/kernel/security/lsm").content_string.split(",")
    assert {"lockdown", "yama", "landlock", "bpf"} <= set(active)
    assert active[0] == "lockdown"


def test_ima_measures_its_start_and_nothing_else(host):
    """No IMA policy is loaded: PCR 10 holds the boot aggregate alone."""
    lines = host.file("/sys/kernel/security/ima/ascii_runtime_measurements").content_string.splitlines()
    assert [line.split()[-1] for line in lines] == ["boot_aggregate"]
    assert host.file("/sys/kernel/security/ima/violations").content_string == "0\n"
