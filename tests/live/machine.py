"""Boots a release's disk together with the test extension, and keeps the machine running."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from channel import Channel, connect
from extension import extension
from guest import agent

from builder.boot.addons import extended_disk
from builder.boot.client import request_evidence
from builder.boot.qemu import FREE_SLOT, Wiring
from builder.boot.session import RunningMachine, running_machine
from builder.launches import Launch
from builder.tools import Tools

#: Seconds from power-on until the agent must have greeted.
BOOT_LIMIT = 240.0
#: QEMU's devices for teaching (docs/specs/edu.rst), which the stand-in dresses up as a switch and as a GPU.
EDU = tuple(f"edu,addr=0x{FREE_SLOT + number:02x}" for number in range(2))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMachine:
    """A machine under power whose agent answers.

    Attributes:
        running: the machine.
        channel: commands run over it.
        nonce: fresh bytes, in the evidence.
        evidence: what the machine's evidence service said, unverified.
        launch: how it was started.
    """

    running: RunningMachine
    channel: Channel
    nonce: bytes
    evidence: bytes
    launch: Launch


@contextlib.contextmanager
def live_machine(
    tools: Tools,
    launch: Launch,
    disk: Path,
    folder: Path,
    *,
    companions: Sequence[Path] = (),
    smbios_string: str | None = None,
    standin: bytes | None = None,
    drop_ins: Mapping[str, str] = MappingProxyType({}),
    console_log: Path | None = None,
) -> Iterator[LiveMachine]:
    """Boot a copy of ``disk`` with the extension on it; the machine is off when the block is left.

    Args:
        tools: the toolbox.
        launch: a disk boot.
        disk: a release's disk; only read.
        folder: private and empty, with a path that is short enough for sockets.
        companions: what else lies beside the UKI.
        smbios_string: SMBIOS type 11 string of the host.
        drop_ins: unit -> what the extension adds to it.
        standin: a kernel module for the initrd, with the devices that it looks for on the machine.
        console_log: where the console's bytes go.
    """
    addon = extension(tools, folder, standin=standin, drop_ins=drop_ins)
    machine = launch.machine if standin is None else replace(launch.machine, devices=EDU)
    with powered_machine(
        tools, replace(launch, machine=machine), disk, folder, companions=[addon, *companions],
        smbios_string=smbios_string, console_log=console_log,
    ) as (running, channel):  # fmt: skip
        nonce = secrets.token_bytes(32)
        evidence = request_evidence(
            folder / "evidence.sock", nonce, deadline=running.started + BOOT_LIMIT, check=running.check
        )
        yield LiveMachine(running=running, channel=channel, nonce=nonce, evidence=evidence, launch=launch)


@contextlib.contextmanager
def powered_machine(
    tools: Tools,
    launch: Launch,
    disk: Path,
    folder: Path,
    *,
    companions: Sequence[Path],
    smbios_string: str | None = None,
    console_log: Path | None = None,
) -> Iterator[tuple[RunningMachine, Channel]]:
    """Boot a copy of ``disk`` until the agent of the extension among its companions answers, wherever the boot is then.

    Arguments as `live_machine`; evidence is at the socket ``evidence.sock`` of ``folder``.
    """
    copy = extended_disk(tools, disk, folder / "live.raw", companions)
    wiring = Wiring(
        tpm=folder,
        variables=folder,
        disk=copy,
        evidence=folder / "evidence.sock",
        channel=folder / "live.sock",
        smbios_string=smbios_string,
    )
    with (
        running_machine(
            tools, launch.firmware, launch.machine, launch.boot, wiring, folder, console_log=console_log
        ) as running,
        contextlib.closing(connect_when_there(folder / "live.sock", running)) as connection,
    ):
        channel = Channel(connection, running.check)
        channel.await_greeting(running.started + BOOT_LIMIT)
        equip(channel, tools)
        yield running, channel


def connect_when_there(path: Path, running: RunningMachine):
    """Connect to a socket that QEMU is about to make."""
    while True:
        try:
            return connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            running.check()
            time.sleep(0.05)


def equip(channel: Channel, tools: Tools) -> None:
    """Bring tools into the guest, which has none: busybox from the toolbox, systemctl from the image's own initrd."""
    channel.put(tools.path("usr/bin/busybox").read_bytes(), f"{agent.PROGRAMS}/busybox")
    for command in (
        (f"{agent.PROGRAMS}/busybox", "--install", "-s", agent.PROGRAMS),
        (f"{agent.PROGRAMS}/cp", f"{agent.FOLDER}/systemctl", f"{agent.PROGRAMS}/systemctl"),
    ):
        ran = channel.run(*command)
        assert ran.status == 0, f"{command}: {ran.stderr.decode()}"
