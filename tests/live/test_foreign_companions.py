"""What a host puts beside the UKI for systemd to merge or to read: measured, and otherwise without any effect."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend import live_host
from channel import ChannelError
from machine import LiveMachine, live_machine
from test_never_production import MOVED, judge
from testinfra.host import Host

from builder.errors import BootError

#: What systemd-sysctl would take from a credential (sysctl.d(5)); it would show in a setting.
CREDENTIAL = b"kernel.sysrq = 1\nkernel.dmesg_restrict = 0\n"
FOREIGN = "came-by-smbios"


@pytest.fixture(scope="module")
def foreign(release, tools, launch, tmp_path_factory) -> Iterator[LiveMachine]:
    """A machine of its own: extension images for system and configuration, and a credential, on its ESP; a credential
    among its SMBIOS strings (systemd-stub(7), systemd.system-credentials(7))."""
    folder = tmp_path_factory.mktemp("companions")
    companions = [folder / name for name in ("foreign.raw", "foreign.confext.raw", "sysctl.extra.cred")]
    for companion, content in zip(companions, (b"squash?" * 700, b"squash?" * 600, CREDENTIAL), strict=True):
        companion.write_bytes(content)
    with (
        tempfile.TemporaryDirectory(prefix="gs-live-", dir="/tmp") as name,
        live_machine(
            tools,
            launch,
            release / "disk.raw",
            Path(name),
            companions=companions,
            smbios_string=f"io.systemd.credential:tmpfiles.extra=f /run/foreign - - - - {FOREIGN}",
        ) as machine,
    ):
        yield machine


@pytest.fixture(scope="module")
def guest(foreign: LiveMachine) -> Host:
    return live_host(foreign.channel)


def test_the_verdict_names_them(foreign, release):
    """PCR 13 is extension images' alone (systemd-stub(7))."""
    verdict = judge(foreign, release)
    moved = {each.index for each in verdict.registers if each.pinned and not each.equal}
    assert moved == MOVED | {13}
    assert any("PCR 4, 9, 12, 13 differ" in failure for failure in verdict.failures)


def test_nothing_is_merged(guest):
    assert (
        guest.check_output("systemctl list-units --all --plain --no-legend --no-pager '*ext.service'") == ""
    )
    for path in ("/.extra", "/run/extensions", "/run/confexts", "/var/lib/extensions", "/etc/extensions"):
        assert not guest.file(path).exists
    kinds = {
        line.split(" - ")[1].split()[0] for line in guest.check_output("cat /proc/1/mountinfo").splitlines()
    }
    assert not kinds & {"overlay", "squashfs"}


def test_no_credential_is_read(guest):
    """PID 1 would keep every one of them there, from the ESP as from SMBIOS, in the initrd and in the root."""
    assert not guest.file("/run/credentials/@system").exists
    assert guest.run(f"grep -r {FOREIGN} /run/credentials /run/foreign").stdout == ""
    assert guest.sysctl("kernel.sysrq") == 0
    assert guest.sysctl("kernel.dmesg_restrict") == 1


def test_what_root_writes_below_verity_stops_the_machine(foreign, guest):
    """Last, since nothing of this machine is left: dm-verity holds the disk and does not lock it, so root may write to
    it. What it wrote is never used: the first block of it that is read panics (systemd.verity_root_options)."""
    # QEMU throws away what a guest writes; the release's disk stays as it is.
    guest.run("dd if=/dev/zero of=/dev/vda2 bs=64k seek=1; sync")
    with pytest.raises((BootError, ChannelError)):
        guest.run("echo 3 > /proc/sys/vm/drop_caches; find /usr -type f -exec cat {} + > /dev/null")
    assert foreign.running.process.wait(timeout=30) == 0
