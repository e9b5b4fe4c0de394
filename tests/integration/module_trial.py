"""Loads modules of every kind inside a booting guest, and notes what the kernel says.

The test extension of tests/live stops the boot twice: between the last module and lockdown, and between lockdown and
the latch. A machine without a GPU says which module the kernel took: NVIDIA's driver starts, finds nothing and goes
(ENODEV); the second module then lacks the first one's symbols (ENOENT); one that is loaded already is there (EEXIST).
The kernel comes to all of these once it has accepted the signature (kernel/module/main.c, load_module).

With a stand-in for an NVIDIA device (tests/live/standin), which is a module too and signed like the driver, the driver
then stays: from the moment it is loaded, which is after lockdown.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from running import ROOT, private_temporary

sys.path.insert(0, str(ROOT / "tests/live"))

from channel import Channel
from extension import extension
from guest import agent
from holds import Hold
from machine import BOOT_LIMIT, EDU, powered_machine
from standin import Workshop
from syscalls import Result, answers, call

from builder.boot.addons import Sign
from builder.boot.client import request_evidence
from builder.image.secureboot.modules import attach_module_signature
from builder.launches import Launch
from builder.release import manifest as manifests
from builder.tools import Tools

__all__ = ["CHANGED", "DEBIAN", "FOREIGN", "KINDS", "MISPLACED", "RELEASE", "SECOND", "UNSIGNED", "State", "Trial",
           "Workshop", "trial"]  # fmt: skip

#: Kinds of modules; the first three are the image's own files, "Debian" one that is loaded already.
RELEASE, SECOND, DEBIAN, UNSIGNED, FOREIGN, MISPLACED, CHANGED = (
    "signed by the release", "the release's second", "signed by Debian", "unsigned", "signed by a stranger",
    "with the second's signature", "with one byte changed",
)  # fmt: skip
KINDS = (RELEASE, SECOND, DEBIAN, UNSIGNED, FOREIGN, MISPLACED, CHANGED)

_BEFORE_LOCKDOWN = Hold(
    name="lockdown",
    after=("systemd-modules-load.service",),
    before=("goldsmith-lockdown.service", "systemd-sysctl.service"),
)
_BEFORE_LATCH = Hold(name="latch", after=("goldsmith-lockdown.service",), before=("systemd-sysctl.service",))
#: finit_module(2): MODULE_INIT_COMPRESSED_FILE.
_COMPRESSED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The kernel at one point of the boot.

    Attributes:
        lockdown: the chosen word of /sys/kernel/security/lockdown.
        enforced: /sys/module/module/parameters/sig_enforce.
        latched: /proc/sys/kernel/modules_disabled.
        answers: kind of module -> what loading it gave.
        log: what the kernel logged since the last point.
    """

    lockdown: str
    enforced: str
    latched: str
    answers: Mapping[str, str]
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One boot.

    Attributes:
        boot_log: what the kernel logged before anything was tried; the image's own loading is in it.
        keys: /proc/keys.
        early: before goldsmith-lockdown.
        late: after it, before the latch.
        with_device: what loading the stand-in gave, unsigned and signed, then the driver's two modules, before the
            latch; empty without a stand-in.
        up: once the machine has come up, and answered for evidence.
        modules: /proc/modules then.
        taint: /proc/sys/kernel/tainted at the end.
    """

    boot_log: str
    keys: str
    early: State
    late: State
    with_device: tuple[str, ...]
    up: State
    modules: str
    taint: int


def trial(
    release: Path,
    launch: Launch,
    tools: Tools,
    foreign: bytes,
    *,
    early: Sequence[str],
    sign: Sign | None = None,
    standins: Sequence[bytes] = (),
) -> Trial:
    """Boot the disk of a release whose modules are signed.

    Args:
        release: its folder.
        launch: a disk boot.
        tools: the toolbox.
        foreign: signature of nvidia.ko by a key that nobody enrolled.
        early: kinds to try before lockdown.
        sign: signs the extension for firmware that verifies.
        standins: modules that put a stand-in for NVIDIA devices in place; the last of them must.
    """
    machine = replace(launch.machine, devices=EDU) if standins else launch.machine
    with private_temporary() as folder:
        addon = extension(tools, folder, holds=(_BEFORE_LOCKDOWN, _BEFORE_LATCH), sign=sign)
        launch = replace(launch, machine=machine)
        with powered_machine(tools, launch, release / "disk.raw", folder, companions=[addon]) as (
            running,
            channel,
        ):
            guest = _Guest(channel)
            deadline = running.started + BOOT_LIMIT
            _BEFORE_LOCKDOWN.reach(channel, deadline)
            boot_log, keys = guest.said("dmesg"), guest.said("cat", "/proc/keys")
            guest.prepare(release, foreign)
            first = guest.look(early)
            _BEFORE_LOCKDOWN.release(channel)
            _BEFORE_LATCH.reach(channel, deadline)
            second = guest.look(KINDS)
            with_device = guest.add_device(standins)
            _BEFORE_LATCH.release(channel)
            # The evidence service is the last to start: the read-back before it found nothing amiss.
            evidence = folder / "evidence.sock"
            request_evidence(evidence, bytes(32), deadline=time.monotonic() + BOOT_LIMIT, check=running.check)
            return Trial(
                boot_log=boot_log, keys=keys, early=first, late=second, with_device=with_device,
                up=guest.look(KINDS), modules=guest.said("cat", "/proc/modules"),
                taint=int(guest.said("cat", "/proc/sys/kernel/tainted")),
            )  # fmt: skip


class _Guest:
    def __init__(self, channel: Channel) -> None:
        self._channel, self._paths, self._seen = channel, {}, 0

    def said(self, *command: str) -> str:
        ran = self._channel.run(*command)
        assert ran.status == 0, f"{command}: {ran.stderr.decode()}"
        return ran.stdout.decode("utf-8", "replace")

    def prepare(self, release: Path, foreign: bytes) -> None:
        """Make the kinds that the image does not have out of its own module, in /run."""
        module = (release / "nvidia.ko").read_bytes()
        second = (release / "nvidia_uvm.ko.p7s").read_bytes()
        for name, signature in (("foreign", foreign), ("misplaced", second)):
            self._channel.put(attach_module_signature(b"", signature), f"{agent.FOLDER}/{name}.tail")
        folder = f"/usr/lib/modules/{_kernel_release(release)}"
        signed, half = f"{folder}/updates/nvidia.ko", len(module) // 2
        self.said(
            "sh", "-ec",
            f"cd {agent.FOLDER}; head -c {len(module)} {signed} > unsigned.ko;"
            "cat unsigned.ko foreign.tail > foreign.ko; cat unsigned.ko misplaced.tail > misplaced.ko;"
            f"head -c {half} {signed} > changed.ko; printf '\\{module[half] ^ 1:03o}' >> changed.ko;"
            f"tail -c +{half + 2} {signed} >> changed.ko",
        )  # fmt: skip
        self._paths = {
            RELEASE: signed,
            SECOND: f"{folder}/updates/nvidia_uvm.ko",
            DEBIAN: self.said("find", folder, "-name", "failover.ko.xz").strip(),
            UNSIGNED: f"{agent.FOLDER}/unsigned.ko",
            FOREIGN: f"{agent.FOLDER}/foreign.ko",
            MISPLACED: f"{agent.FOLDER}/misplaced.ko",
            CHANGED: f"{agent.FOLDER}/changed.ko",
        }

    def add_device(self, standins: Sequence[bytes]) -> tuple[str, ...]:
        """Put the stand-in in place, and load the driver for it."""
        found = []
        for module in standins:
            path = f"{agent.FOLDER}/standin.ko"
            self._channel.put(module, path)
            found.append(self._load(path))
        return (*found, *(self._load(self._paths[kind]) for kind in (RELEASE, SECOND) if standins))

    def look(self, kinds: Sequence[str]) -> State:
        found = {kind: self._load(self._paths[kind]) for kind in kinds}
        log = self.said("dmesg")
        new, self._seen = log[self._seen :], len(log)
        (chosen,) = re.findall(r"\[(\w+)\]", self.said("cat", "/sys/kernel/security/lockdown"))
        return State(
            lockdown=chosen,
            enforced=self.said("cat", "/sys/module/module/parameters/sig_enforce").strip(),
            latched=self.said("cat", "/proc/sys/kernel/modules_disabled").strip(),
            answers=found,
            log=new,
        )

    def _load(self, path: str) -> str:
        flags = _COMPRESSED if path.endswith(".xz") else 0
        opened, loaded = answers(
            self._channel,
            call("open", f"{path}\0".encode(), 0, 0),
            call("finit_module", Result(0), b"\0", flags),
        )
        assert opened.isdecimal(), f"{path}: {opened}"
        return loaded


def _kernel_release(release: Path) -> str:
    (place,) = [
        part for part in manifests.load(release).parts if (part.file, part.name) == ("uki.efi", "uki .uname")
    ]
    with (release / place.file).open("rb") as file:
        file.seek(place.offset)
        return file.read(place.size).rstrip(b"\0\n").decode()
