"""What is in the base image, and above all what is not: looked up in the bytes that boot."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

trees = pytest.mark.parametrize("tree", ["root", "initrd"])

#: Nothing of these may be anywhere, under any folder: ways to a prompt, to a login, or to other software.
# fmt: off
ABSENT = {
    "shells": {
        "sh", "bash", "dash", "ash", "ksh", "zsh", "fish", "busybox", "toybox", "klibc",
    },
    "coreutils and text tools": {
        "cat", "cp", "ls", "mv", "rm", "dd", "echo", "env", "chmod", "chown", "chroot", "head",
        "tail", "sed", "awk", "gawk", "mawk", "grep", "find", "xargs", "tar", "gzip", "vi", "vim",
        "nano", "coreutils", "uutils",
    },
    "interpreters, compilers and debuggers": {
        "perl", "python", "python3", "lua", "ruby", "gdb", "strace", "ld", "objdump", "gcc", "cc",
        "make",
    },
    "package managers": {
        "dpkg", "dpkg-deb", "apt", "apt-get", "apt-key", "snap", "rpm",
    },
    "remote access and transfer": {
        "ssh", "sshd", "ssh-keygen", "dropbear", "telnet", "nc", "ncat", "socat", "curl", "wget",
    },
    "logins": {
        "getty", "agetty", "login", "su", "sudo", "doas", "pkexec", "runuser", "sulogin", "chsh",
        "newgrp", "unix_chkpwd",
    },
    "systemd's own ways in": {
        "systemd-nspawn", "systemd-run", "run0", "machinectl", "homectl", "userdbctl", "bootctl",
        "systemd-sysext", "systemd-confext", "systemd-sulogin-shell", "systemd-debug-generator",
        "systemd-run-generator", "systemd-getty-generator", "systemd-ssh-generator",
        "systemd-ssh-proxy", "debug-shell.service",
    },
    "what starts programs for others": {
        "cron", "crond", "atd", "dbus-daemon", "dbus-broker",
    },
}
# fmt: on

PROGRAMS = {
    "root": ["mount", "nft", "python3.13", "systemd-tmpfiles", "udevadm", "umount"],
    "initrd": ["dmsetup", "kmod", "modprobe", "mount", "systemctl", "systemd-tmpfiles", "udevadm", "umount"],
}

#: With what modules.dep of Debian's linux-image-6.12-cloud-amd64 says they need.
MODULES = {
    "root": {
        "failover", "libcrc32c", "net_failover", "nf_tables", "nfnetlink", "virtio_net", "virtio-rng",
    },
    "initrd": {
        "dm-bufio", "dm-mod", "dm-verity", "erofs", "libcrc32c", "reed_solomon", "virtio_blk",
    },
}  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


@trees
def test_there_is_no_way_to_a_prompt(image, tree):
    found = names(image.tree(tree))
    assert len(found) > 100, "the tree was not read"
    assert {kind: sorted(found & absent) for kind, absent in ABSENT.items() if found & absent} == {}


@trees
def test_programs_are_the_listed_ones(image, tree):
    folders = [
        image.tree(tree) / "usr" / name for name in ("bin", "sbin", "local/bin", "local/sbin", "games")
    ]
    found = sorted(path.name for folder in folders if folder.is_dir() for path in folder.iterdir())
    assert found == PROGRAMS[tree]


@trees
def test_no_file_starts_an_interpreter(image, tree):
    """A script needs a line that names who runs it; nothing here has one."""
    scripts = []
    for path in image.tree(tree).rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(2) == b"#!" and path.stat().st_mode & 0o111:
                    scripts.append(path)
    assert scripts == []


@trees
def test_no_privilege_beyond_the_owner(image, tree):
    """No set-user-id or set-group-id bit, no device node, nothing that everyone may write but /tmp."""
    for path in image.tree(tree).rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), path
        if not stat.S_ISLNK(mode) and path != image.tree(tree) / "tmp":
            assert not mode & stat.S_IWOTH, path
    assert (image.tree(tree) / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_everything_belongs_to_root(image):
    assert image.initrd_owners == {(0, 0)}
    for path in ("/", "/etc/shadow", "/usr/bin/mount", "/usr/lib/goldsmith/evidence/evidence.py"):
        assert re.search(r"Uid: 0 +Gid: 0 ", image.erofs_entry(path)), path


def test_no_program_carries_capabilities(image):
    """File capabilities are extended attributes; no program has any."""
    programs = [
        path
        for folder in ("usr/bin", "usr/lib/systemd")
        for path in (image.root / folder).iterdir()
        if path.is_file() and not path.is_symlink()
    ]
    assert len(programs) > 10
    for path in programs:
        assert "Xattr size: 0" in image.erofs_entry(f"/{path.relative_to(image.root)}"), path


@trees
def test_modules_are_the_listed_ones(image, tree):
    found = {path.name.partition(".ko")[0] for path in image.tree(tree).rglob("*.ko*")}
    assert found == MODULES[tree]
    (folder,) = (image.tree(tree) / "usr/lib/modules").iterdir()
    index = (folder / "modules.dep").read_text()
    assert {Path(line.partition(":")[0]).name.partition(".ko")[0] for line in index.splitlines()} == found


@trees
def test_machine_id_is_empty(host, image, tree):
    """systemd makes one up at every boot (machine-id(5)); a fixed one would be shared by all machines."""
    file = host.file(f"{image.tree(tree)}/etc/machine-id")
    assert file.is_file and file.size == 0 and file.mode == 0o444


def test_accounts(host, image):
    passwd = host.file(f"{image.root}/etc/passwd").content_string.splitlines()
    accounts = {line.split(":")[0]: line.split(":") for line in passwd}
    assert {name: int(fields[2]) for name, fields in accounts.items()} == {
        "root": 0,
        "goldsmith-evidence": 980,
        "goldsmith-firewall": 981,
        "systemd-network": 998,
        "nobody": 65534,
    }
    assert {fields[6] for fields in accounts.values()} == {"/usr/sbin/nologin"}
    assert {fields[1] for fields in accounts.values()} == {"x"}
    shadow = [line.split(":") for line in host.file(f"{image.root}/etc/shadow").content_string.splitlines()]
    assert {fields[0]: fields[1] for fields in shadow} == dict.fromkeys(accounts, "!*")
    assert {fields[2] for fields in shadow} == {""}, "a day of the last change would depend on the build's"


@trees
@pytest.mark.parametrize("name", ["shadow", "gshadow"])
def test_passwords_are_closed_to_others(host, image, tree, name):
    assert host.file(f"{image.tree(tree)}/etc/{name}").mode == 0o600


def test_units_that_start(host, image):
    """The default target, and what is enabled beside what systemd itself wants."""
    etc = f"{image.root}/etc/systemd/system"
    assert host.file(f"{etc}/default.target").linked_to.endswith("/usr/lib/systemd/system/multi-user.target")
    found = {
        f"{path.parent.name}/{path.name}"
        for path in (image.root / "etc/systemd/system").glob("*.wants/*")
    }  # fmt: skip
    assert found == {
        "local-fs.target.wants/var.mount",
        "multi-user.target.wants/systemd-networkd.service",
        "sockets.target.wants/goldsmith-evidence.socket",
        "sockets.target.wants/systemd-networkd.socket",
    }
    required = {
        f"{path.parent.name}/{path.name}"
        for path in (image.root / "etc/systemd/system").glob("*.requires/*")
    }  # fmt: skip
    assert required == {
        f"sysinit.target.requires/goldsmith-{name}.service" for name in ("firewall", "readback")
    }
    initrd = host.file(f"{image.initrd}/etc/systemd/system/default.target")
    assert initrd.linked_to.endswith("/usr/lib/systemd/system/initrd.target")


@pytest.mark.parametrize(
    ("tree", "unit"),
    [("root", "systemd-pcrmachine.service"), ("root", "rescue.target"), ("initrd", "rescue.target")],
)
def test_masked_units(image, tree, unit):
    # Not through testinfra: it would follow the link to the null device of this host.
    assert (image.tree(tree) / "etc/systemd/system" / unit).readlink() == Path("/dev/null")


@trees
@pytest.mark.parametrize("unit", ["emergency.service", "rescue.service"])
def test_emergency_stops_the_machine(host, image, tree, unit):
    file = host.file(f"{image.tree(tree)}/etc/systemd/system/{unit}")
    assert file.contains("^SuccessAction=poweroff-force$")
    assert not file.contains("^ExecStart")


@trees
def test_every_unit_starts_a_program_that_is_there(image, tree):
    """Each Exec line of each unit file names a file of the same tree."""
    folder, seen = image.tree(tree), 0
    for unit in [*folder.glob("usr/lib/systemd/system/*.*"), *folder.glob("etc/systemd/system/*.service")]:
        if not unit.is_file() or unit.is_symlink() or unit.suffix not in (".service", ".socket", ".mount"):
            continue
        shadowed = folder / "etc/systemd/system" / unit.name
        if shadowed != unit and (shadowed.exists() or shadowed.is_symlink()):
            continue  # what lies in /etc wins
        for line in unit.read_text().splitlines():
            if matched := re.match(r"Exec\w+=[-@:+!|]*(/?\S+)", line):
                seen += 1
                program = matched[1]
                places = [program.lstrip("/")] if program.startswith("/") else [f"usr/bin/{program}"]
                assert any((folder / place).exists() for place in places), f"{unit.name}: {line}"
    assert seen > 5


def test_evidence_service_is_boxed_in(host, image):
    for name in ("goldsmith-evidence@.service", "goldsmith-evidence-serial.service"):
        unit = host.file(f"{image.root}/usr/lib/systemd/system/{name}")
        for line in (
            "User=goldsmith-evidence",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            "MemoryDenyWriteExecute=yes",
            "DevicePolicy=closed",
        ):
            assert unit.contains(f"^{line}$"), f"{name}: {line}"
        assert unit.contains("^SystemCallFilter=")


def test_root_is_mounted_through_verity_and_nothing_else(image):
    uki = (image.release / "uki.efi").read_bytes()
    words = re.search(rb"root=/dev/mapper/root[^\0]*", uki)[0].decode().split()
    assert "ro" in words and "systemd.verity=yes" in words
    assert "systemd.verity_root_options=panic-on-corruption" in words
    (root_hash,) = [word.partition("=")[2] for word in words if word.startswith("roothash=")]
    assert re.fullmatch("[0-9a-f]{64}", root_hash)
    assert not any(word.startswith(("console=", "init=", "systemd.debug", "rd.break")) for word in words)


def test_readme_tells_the_truth_about_the_image(image):
    """README, "What is in the base image": packages, files and MiB."""
    readme = (ROOT / "README.md").read_text()
    manifest = json.loads((image.release / "manifest.json").read_bytes())
    for tree, label in (("root", "root file system"), ("initrd", "initrd")):
        told = re.search(rf"^\| {label} \| (\d+)[^|]*\| (\d+) \| (\d+) MiB \|$", readme, re.MULTILINE)
        assert told, f"README has no row for the {label}"
        content = manifest["contents"][tree]
        packages = sum(1 for item in content["origins"] if item["version"] and item["files"])
        assert [int(item) for item in told.groups()] == [
            packages,
            content["files"],
            round(content["bytes"] / 2**20),
        ]
        regular = [path for path in image.tree(tree).rglob("*") if path.is_file() and not path.is_symlink()]
        assert sum(path.stat().st_size for path in regular) <= content["bytes"]
    disk = round((image.release / "disk.raw").stat().st_size / 2**20)
    uki = round((image.release / "uki.efi").stat().st_size / 2**20)
    assert f"`disk.raw` has {disk} MiB, of which `uki.efi` is {uki}" in readme
