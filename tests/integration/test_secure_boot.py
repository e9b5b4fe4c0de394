"""Sealed releases: they boot as predicted, what the host adds has no effect, and everything else is refused."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from running import BootRun, Goldsmith, private_temporary

from builder.boot.client import request_evidence
from builder.boot.debug import COMMAND_LINE
from builder.boot.qemu import Wiring
from builder.boot.session import RunningMachine, running_machine
from builder.errors import BootError
from builder.launches import Launch, enrolled_firmware, launches
from builder.release import manifest as manifests
from builder.toolbox import firmware, unpack_toolbox
from builder.tools import Tools
from measurements import golden
from measurements.events import DEFAULT_BANKS
from measurements.evidence import document
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration

OLD, NEW = "ovmf-2025.02-secboot", "ovmf-2026.08-secboot"
_BOOT_LIMIT = 240.0
_REFUSAL_LIMIT = 90.0  # seconds until firmware has tried everything
_REFUSED = ("Access Denied", "Security Violation")  # BdsDxe, by edk2's release
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Bench:
    """Machines whose firmware verifies, with the keys of the sealed release or with others."""

    def __init__(self, tools: Tools, known: tuple[Launch, ...]) -> None:
        self._tools, self.known = tools, known

    @contextmanager
    def running(
        self,
        name: str,
        boot: BootPath,
        *,
        variables: Path | None = None,
        log: Path | None = None,
        **wiring: Path | str | None,
    ) -> Iterator[tuple[RunningMachine, Path]]:
        """Power a machine on; yield it and the socket of its evidence port."""
        launch = next(each for each in self.known if (each.firmware.name, each.boot) == (name, boot))
        build = launch.firmware if variables is None else replace(launch.firmware, variables=variables)
        with private_temporary() as folder:
            socket = folder / "evidence.sock"
            wired = Wiring(tpm=folder, variables=folder, evidence=socket, **wiring)
            with running_machine(
                self._tools, build, launch.machine, boot, wired, folder, console_log=log
            ) as machine:
                yield machine, socket

    def refusal(
        self, name: str, boot: BootPath, *, variables: Path | None = None, **wiring: Path | str | None
    ) -> str:
        """Return what firmware says until it gives up; fails if it starts anything."""
        with self.running(name, boot, variables=variables, **wiring) as (machine, _):
            deadline = time.monotonic() + _REFUSAL_LIMIT
            while time.monotonic() < deadline:
                said = machine.console.tail(200)
                if "No bootable option" in said:
                    return said
                assert machine.console.phase == "firmware", said
                machine.check()
                time.sleep(0.2)
            pytest.fail(f"firmware did not give up within {_REFUSAL_LIMIT:.0f} s:\n{machine.console.tail()}")


@pytest.fixture(scope="module")
def bench(sealed, lock, store) -> Bench:
    manifest = manifests.load(sealed)
    builds = enrolled_firmware(manifest.platforms, firmware(manifest.firmware, lock, store), sealed)
    known = tuple(launches(manifest.platforms, builds, secure_boot=True))
    return Bench(unpack_toolbox(lock, store), known)


def assert_as_published(run: BootRun) -> None:
    assert run.report["verdict"] == "pass", run.reasons
    assert run.code == 0 and run.report["published"]
    assert run.report["shape"].endswith("/secure-boot")
    for bank in DEFAULT_BANKS:
        for index in range(16):
            register = run.register(bank, index)
            assert register["equal"] is (index != 10), (bank, index)
        for index in (0, 7):  # nothing measured would be equal to nothing predicted
            assert int(run.register(bank, index)["observed"], 16)
    assert run.leftovers == ()


def test_a_sealed_disk_boots_as_predicted(goldsmith: Goldsmith, sealed: Path, tmp_path: Path):
    assert_as_published(goldsmith.boot(sealed, "--secure-boot", "--firmware", OLD, folder=tmp_path))


def test_an_add_on_that_nobody_signed_has_no_effect(goldsmith: Goldsmith, sealed: Path, tmp_path: Path):
    """systemd-stub 257 loads add-ons as images, so firmware verifies them; it goes on without."""
    log = tmp_path / "console"
    run = goldsmith.boot(
        sealed, "--firmware", NEW, "--debug", "--console-log", log, folder=tmp_path
    )  # fmt: skip
    assert_as_published(run)
    assert not int(run.register("sha256", 12)["observed"], 16)
    console = log.read_text(errors="replace")
    assert "Failed to read 'debug.addon.efi'" in console and "Access denied" in console
    assert "systemd" not in console.partition("EFI stub:")[2], "the add-on's console"


def test_a_direct_boot_is_verified_and_measured_too(goldsmith: Goldsmith, sealed: Path, tmp_path: Path):
    run = goldsmith.boot(sealed, "--secure-boot", "--direct", "--firmware", NEW, folder=tmp_path)
    assert_as_published(run)


def test_append_is_ignored(bench: Bench, sealed: Path):
    """systemd-stub takes load options from outside only where Secure Boot is off or nothing is sealed."""
    with bench.running(
        OLD, BootPath.DIRECT, disk=sealed / "disk.raw", uki=sealed / "uki.efi",
        append="console=ttyS0 systemd.debug_shell=1",
    ) as (machine, socket):  # fmt: skip
        evidence = request_evidence(
            socket, secrets.token_bytes(32), deadline=time.monotonic() + _BOOT_LIMIT, check=machine.check
        )
        said = machine.console.tail(200)
    assert "systemd" not in said.partition("EFI stub:")[2], said
    observed = {quote.bank: quote.registers for quote in document.parse(evidence).quotes}
    shape = golden.parse((sealed / "golden.json").read_bytes()).prediction(
        f"qemu-vtpm/{OLD}/direct/2-vcpus/2048-mib/secure-boot"
    )
    for bank in DEFAULT_BANKS:
        for register in shape.registers:
            if register.index != 10:
                assert observed[bank][register.index] in register.values(bank), (bank, register.index)


def test_a_command_line_by_smbios_stops_the_machine(bench: Bench, sealed: Path, tmp_path: Path):
    """systemd-stub 257 appends it with Secure Boot on as well; the image sees PCR 12, and goes no further."""
    log = tmp_path / "console"
    with (
        bench.running(
            OLD, BootPath.DISK, disk=sealed / "disk.raw", log=log,
            smbios_string=f"io.systemd.stub.kernel-cmdline-extra={COMMAND_LINE} systemd.debug_shell=1",
        ) as (machine, socket),
        pytest.raises(BootError, match="switched itself off"),
    ):  # fmt: skip
        request_evidence(
            socket, secrets.token_bytes(32), deadline=time.monotonic() + _BOOT_LIMIT, check=machine.check
        )
    console = _ESCAPES.sub("", log.read_text(errors="replace"))
    assert "Powering off" in console and "Switching root" not in console


def test_what_is_not_signed_is_refused(bench: Bench, release: Path):
    said = bench.refusal(NEW, BootPath.DISK, disk=release / "disk.raw")
    assert any(word in said for word in _REFUSED), said


@pytest.mark.parametrize("name", [OLD, NEW])
def test_what_is_not_signed_is_refused_by_kernel_too(bench: Bench, release: Path, name: str):
    """OVMF 2025.02 then tries its own loader for kernels, which has no use for a UKI."""
    said = bench.refusal(
        name, BootPath.DIRECT, disk=release / "disk.raw", uki=release / "uki.efi"
    )  # fmt: skip
    assert "Secure boot image verification failed" in said, said


def test_what_another_key_signed_is_refused(
    bench: Bench, goldsmith: Goldsmith, release: Path, tmp_path: Path
):
    make_keys(goldsmith, tmp_path / "others")
    done = goldsmith(
        "seal", release, "--keys", tmp_path / "others", "--out", tmp_path / "sealed", timeout=120
    )
    assert done.code == 0, done.stderr
    said = bench.refusal(OLD, BootPath.DISK, disk=tmp_path / "sealed/disk.raw")
    assert any(word in said for word in _REFUSED), said


def test_what_dbx_forbids_is_refused(
    bench: Bench, goldsmith: Goldsmith, secure_boot_keys: Path, release: Path, sealed: Path, tmp_path: Path
):
    """Allowed by db, forbidden by dbx: firmware refuses it, and so does a sealing for such machines."""
    keys, enrolled = tmp_path / "forbidding", tmp_path / "enrolled.fd"
    make_keys(goldsmith, keys, "--forbid", release / "uki.efi")
    done = goldsmith("seal", release, "--keys", keys, "--out", tmp_path / "sealed", timeout=120)
    assert (done.code, "dbx lists its digest" in done.stderr) == (3, True), done.stderr
    for path in secure_boot_keys.glob("db.*"):
        shutil.copyfile(path, keys / path.name)
    blank = next(each.firmware for each in bench.known).code.with_name("OVMF_VARS_4M.fd")
    done = goldsmith("keys", "enrol", keys, blank, "--out", enrolled, timeout=60)
    assert done.code == 0, done.stderr
    said = bench.refusal(OLD, BootPath.DISK, variables=enrolled, disk=sealed / "disk.raw")
    assert any(word in said for word in _REFUSED), said


def make_keys(goldsmith: Goldsmith, folder: Path, *options: str | Path) -> None:
    done = goldsmith("keys", "make", folder, "--name", "Other keys", *options, timeout=60)
    assert done.code == 0, done.stderr
