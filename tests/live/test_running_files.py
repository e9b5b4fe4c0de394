"""The running machine's file systems: what is mounted how, and what lies there."""

from __future__ import annotations

import re

import pytest

OPTIONS = {"noexec", "nosuid", "nodev"}
#: Where device nodes belong.
DEVICES = {"/dev", "/dev/pts"}


@pytest.fixture(scope="module")
def mounts(host) -> dict[str, tuple[set[str], str]]:
    """Path -> (options, file system) as PID 1 sees it: the command channel has a mount namespace of its own."""
    found = {}
    for line in host.check_output("cat /proc/1/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        assert left.split()[4] not in found, "two mounts on one place"
        found[left.split()[4]] = (set(left.split()[5].split(",")), right.split()[0])
    return found


def test_the_root_is_read_only_erofs(mounts):
    options, kind = mounts["/"]
    assert "ro" in options and kind == "erofs"


def test_nothing_else_starts_programs(mounts):
    assert {"/dev", "/dev/shm", "/proc", "/run", "/sys", "/tmp", "/var"} <= set(mounts)
    for place, (options, _) in mounts.items():
        if place != "/":
            assert options >= (OPTIONS - {"nodev"} if place in DEVICES else OPTIONS), place


def test_mounted_are_the_kernels_own_and_memory(mounts):
    """No disk but the root's: nothing that is written outlives the machine."""
    kinds = {kind for place, (_, kind) in mounts.items() if place != "/"}
    assert kinds <= {
        "bpf", "cgroup2", "devpts", "devtmpfs", "mqueue", "proc", "pstore", "securityfs", "sysfs", "tmpfs",
    }  # fmt: skip


def test_the_machine_id_cannot_be_written(mounts):
    assert "ro" in mounts["/etc/machine-id"][0]


def test_testinfra_reads_the_same(host):
    """As the agent sees it."""
    assert host.mount_point("/").filesystem == "erofs"
    assert set(host.mount_point("/tmp").options) >= OPTIONS


def test_the_root_device_is_verity(host):
    """dm-verity's target, its root hash that of the command line, read only; corruption panics."""
    (root_hash,) = re.findall(r"roothash=([0-9a-f]{64})", host.file("/proc/cmdline").content_string)
    uuid = host.file("/sys/block/dm-0/dm/uuid").content_string
    assert uuid.startswith("CRYPT-VERITY-") and uuid.endswith("-root\n")
    assert host.file("/sys/block/dm-0/ro").content_string == "1\n"
    holders = host.check_output("ls /sys/block/dm-0/slaves").split()
    assert len(holders) == 2
    # Discoverable Partitions Specification: the two halves of the root hash are the partitions' uuids.
    links = host.check_output(
        "cd /dev/disk/by-partuuid && for link in *; do readlink -f $link; echo $link; done"
    )
    words = links.split()
    names = dict(zip(words[::2], words[1::2], strict=True))
    uuids = {names[f"/dev/{holder}"].replace("-", "") for holder in holders}
    assert uuids == {root_hash[:32], root_hash[32:]}


def test_no_swap(host):
    assert len(host.file("/proc/swaps").content_string.splitlines()) == 1


def test_no_privilege_lies_on_a_file(host):
    """Every mounted file system of the machine, walked from its own root."""
    found = host.check_output("cd /proc/1/root && find . -path ./proc -prune -o -type f -perm /6000 -print")
    assert found == ""


def test_who_may_write_where(host):
    """Folders that everybody may write to: sticky, and each on a file system that starts nothing."""
    walk = "cd /proc/1/root && find . \\( -path ./proc -o -path ./sys \\) -prune -o"
    assert set(host.check_output(f"{walk} -type d -perm -0002 -print").split()) == {
        "./dev/mqueue", "./dev/shm", "./run/lock", "./tmp", "./var/tmp",
    } & set(host.check_output(f"{walk} -type d -perm -0002 -perm -1000 -print").split())  # fmt: skip
    # Devices that are made for everyone, and sockets that check who speaks.
    files = host.check_output(f"{walk} ! -type l ! -type d ! -type s -perm -0002 -print").split()
    assert set(files) <= {
        f"./dev/{name}"
        for name in ("full", "fuse", "null", "ptmx", "pts/ptmx", "random", "tty", "urandom", "zero")
    }


def test_devices_that_only_root_opens(host):
    for name in ("tpm0", "tpmrm0", "mapper/control", "hwrng", "snapshot"):
        file = host.file(f"/dev/{name}")
        assert (file.user, file.mode) == ("root", 0o600), name


def test_no_credential_of_the_host_arrived(host):
    """systemd would keep them here (system.credentials(7))."""
    assert not host.file("/run/credentials/@system").exists
    assert not host.file("/run/credentials/@encrypted").exists
    for folder in host.check_output("ls /run/credentials").split():
        assert host.check_output(f"ls -A /run/credentials/{folder}") == "", folder


def test_accounts_have_no_password_and_no_shell(host):
    for line in host.file("/etc/passwd").content_string.splitlines():
        assert line.split(":")[1] in ("x", "!*") and line.split(":")[6] in ("/usr/sbin/nologin", "")
    shadow = host.file("/etc/shadow")
    if shadow.exists:
        assert all(line.split(":")[1].startswith("!") for line in shadow.content_string.splitlines())
