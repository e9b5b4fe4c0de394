"""The read-back of the hardening, against made-up kernels that fall short in one point each."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = Path(__file__).parents[3] / "recipes/common/hardening/readback.py"
_spec = importlib.util.spec_from_file_location("readback", SOURCE)
readback = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readback)

HASH = "roothash=" + "5a" * 32
SEALED, DEBUG = "root=/dev/mapper/root ro panic=1", "console=ttyS0 loglevel=6"


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def machine(tmp_path):
    """A root whose kernel is all that was asked for."""
    write(tmp_path, "usr/lib/goldsmith/hardening/command-line", f"{SEALED}\n{DEBUG}\n")
    write(tmp_path, "proc/cmdline", f"{SEALED} {HASH}\n")
    write(tmp_path, "sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    write(tmp_path, "sys/module/module/parameters/sig_enforce", "Y\n")
    write(
        tmp_path,
        "usr/lib/sysctl.d/50-a.conf",
        "# a comment = 1\n; another = 1\nkernel.sysrq = 0\n-kernel.modprobe =\nkernel.usermodehelper.bset = 0 0\n"
        "net.ipv4.conf.*.rp_filter = 1\n\n",
    )
    write(tmp_path, "usr/lib/sysctl.d/README", "kernel.not_a_setting = 1\n")
    write(tmp_path, "proc/sys/kernel/sysrq", "0\n")
    write(tmp_path, "proc/sys/kernel/modprobe", "\n")
    write(tmp_path, "proc/sys/kernel/usermodehelper/bset", "0\t0\n")
    for name in ("all", "default", "eth0"):
        write(tmp_path, f"proc/sys/net/ipv4/conf/{name}/rp_filter", "1\n")
    return tmp_path


def problems(root):
    base = f"{root}/"
    return [*readback.command_line(base), *readback.kernel(base), *readback.settings(base)]


def test_a_machine_as_asked_for_passes(machine):
    assert problems(machine) == []


def test_the_console_of_a_debug_boot_passes(machine):
    write(machine, "proc/cmdline", f"{SEALED} {HASH} {DEBUG}\n")
    assert problems(machine) == []


@pytest.mark.parametrize(
    "line",
    [
        f"{SEALED} {HASH} systemd.debug_shell",
        f"{SEALED} {HASH} {DEBUG} systemd.debug_shell",
        f"{SEALED} {HASH} {DEBUG.split()[0]}",
        f"init=/x {SEALED} {HASH}",
        f"{SEALED} {HASH} {HASH}",
        f"{SEALED}",
        f"{SEALED} roothash=5a",
        f"{SEALED} roothash={'g' * 64}",
        f"{SEALED.removesuffix(' panic=1')} {HASH}",
        f"{HASH} {SEALED}",
        "",
    ],
)
def test_any_other_command_line_is_refused(machine, line):
    write(machine, "proc/cmdline", line + "\n")
    (problem,) = problems(machine)
    assert "command line" in problem


def test_what_the_host_added_is_named(machine):
    write(machine, "proc/cmdline", f"{SEALED} {HASH} systemd.debug_shell\n")
    assert "systemd.debug_shell" in problems(machine)[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
        ("sys/module/module/parameters/sig_enforce", "N\n"),
    ],
)
def test_an_unlocked_kernel_is_refused(machine, path, text):
    write(machine, path, text)
    assert len(problems(machine)) == 1
    (machine / path).unlink()
    assert len(problems(machine)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kernel/sysrq", "438\n"),
        ("kernel/modprobe", "/sbin/modprobe\n"),
        ("kernel/usermodehelper/bset", "0 1\n"),
        ("net/ipv4/conf/eth0/rp_filter", "0\n"),
    ],
)
def test_another_value_is_refused_and_named(machine, path, text):
    write(machine, f"proc/sys/{path}", text)
    (problem,) = problems(machine)
    assert path in problem and repr(text.strip()) in problem


def test_a_setting_that_the_kernel_does_not_have_is_refused(machine):
    (machine / "proc/sys/kernel/sysrq").unlink()
    (problem,) = problems(machine)
    assert "kernel.sysrq" in problem


def test_a_setting_that_cannot_be_read_is_refused(machine):
    (machine / "proc/sys/kernel/sysrq").unlink()
    (machine / "proc/sys/kernel/sysrq").mkdir()
    (problem,) = problems(machine)
    assert "kernel/sysrq" in problem


def test_an_interface_that_is_renamed_meanwhile_is_read_under_its_name(machine, monkeypatch):
    """udev renames interfaces while settings are read; a name that has gone is no failure, its setting would be."""
    real, calls = readback.read, []

    def renaming(path):
        if path.endswith("eth0/rp_filter") and not calls:
            calls.append(path)
            os.rename(machine / "proc/sys/net/ipv4/conf/eth0", machine / "proc/sys/net/ipv4/conf/enp0s3")
        return real(path)

    monkeypatch.setattr(readback, "read", renaming)
    assert problems(machine) == []
    assert calls
    write(machine, "proc/sys/net/ipv4/conf/enp0s3/rp_filter", "0\n")
    assert len(problems(machine)) == 1


def test_the_last_file_of_sysctl_d_counts(machine):
    write(machine, "usr/lib/sysctl.d/60-b.conf", "kernel.sysrq=1\n")
    (problem,) = problems(machine)
    assert "expected '1', got '0'" in problem


#: Lines of a booted image (proc_pid_mountinfo(5)).
MOUNTS = """\
46 1 254:0 / / ro,relatime shared:1 - erofs /dev/mapper/root ro,user_xattr
33 46 0:6 / /dev rw,nosuid,noexec shared:2 - devtmpfs devtmpfs rw,size=4096k
35 33 0:22 / /dev/pts rw,nosuid,noexec,relatime shared:4 - devpts devpts rw,gid=5
43 46 0:23 / /run rw,nosuid,nodev,noexec shared:12 - tmpfs tmpfs rw,mode=755
"""


def test_mounts_as_asked_for_pass():
    assert readback.mount_options(MOUNTS) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (" / / ro,", " / / rw,", "/ is mounted without ro"),
        ("/dev rw,nosuid,noexec", "/dev rw,nosuid", "/dev is mounted without noexec"),
        ("/dev/pts rw,nosuid,noexec", "/dev/pts rw,noexec", "/dev/pts is mounted without nosuid"),
        ("/run rw,nosuid,nodev,noexec", "/run rw,nosuid,noexec", "/run is mounted without nodev"),
    ],
)
def test_a_mount_that_allows_more_is_refused(old, new, named):
    assert old in MOUNTS
    assert readback.mount_options(MOUNTS.replace(old, new)) == [named]


def test_no_mounts_at_all_are_no_proof():
    assert readback.mount_options("") != []


@pytest.mark.parametrize(
    ("mounts", "status"), [(MOUNTS, 0), (MOUNTS.replace("/run rw,nosuid", "/run rw"), 1)]
)
def test_the_program_fails_where_one_thing_does(machine, mounts, status, monkeypatch, capfd):
    """From the descriptor that systemd passes (LISTEN_FDNAMES) to the exit status and its reason."""
    monkeypatch.setenv("LISTEN_FDNAMES", "other:mountinfo")
    for name in ("command_line", "kernel", "settings"):
        real = getattr(readback, name)
        monkeypatch.setattr(readback, name, lambda _root, real=real: real(f"{machine}/"))
    real_read = readback.read_descriptor
    monkeypatch.setattr(readback, "_FIRST_DESCRIPTOR", 1000)  # as systemd counts: 1000 other, 1001 mountinfo
    monkeypatch.setattr(readback, "read_descriptor", lambda fd: mounts if fd == 1001 else real_read(fd))
    assert readback.main() == status
    assert ("/run is mounted without nosuid" in capfd.readouterr().err) == bool(status)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ro=h 5ag\n", max_size=200))
def test_no_command_line_but_the_sealed_one_passes(tmp_path_factory, line):
    root = tmp_path_factory.mktemp("m")
    write(root, "usr/lib/goldsmith/hardening/command-line", f"{SEALED}\n{DEBUG}\n")
    write(root, "proc/cmdline", f"{SEALED} {HASH} {line}")
    assert bool(readback.command_line(f"{root}/")) == bool(line.split())


def test_it_imports_only_what_the_interpreter_has_built_in():
    """The image holds no standard library beyond os (recipes/common/evidence.yaml)."""
    imported = {
        line.split()[1] for line in SOURCE.read_text().splitlines() if line.startswith(("import ", "from "))
    }
    assert imported == {"os", "sys"}
    assert "sys" in sys.builtin_module_names
