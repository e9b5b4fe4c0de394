"""What the host tries through its own channels, and how the machine refuses: each test boots one."""

from __future__ import annotations

import re
import secrets
import shutil
import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from running import ROOT, Goldsmith, private_temporary

from builder.artifacts import Lock
from builder.boot.addons import build_addon, extended_disk
from builder.boot.client import request_evidence
from builder.boot.debug import COMMAND_LINE
from builder.boot.qemu import Wiring
from builder.boot.session import running_machine
from builder.errors import BootError
from builder.image.secureboot.store import enrol
from builder.image.secureboot.variables import AuthenticatedVariable
from builder.launches import launches
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from measurements.formats import pe
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration

SYSTEMD_VENDOR = UUID("8cf2644b-4b0b-428f-9387-6d876050dc67")  # EFI_VENDOR_SYSTEMD, src/basic/efivars.h
LIMIT = 200.0  # seconds, on a machine that emulates
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a boot: evidence or the error, and the console."""

    evidence: bytes | None
    failure: str
    console: str

    def assert_stopped_in_the_initrd(self) -> None:
        assert self.evidence is None
        assert "switched itself off" in self.failure
        assert "Powering off" in self.console
        assert "Switching root" not in self.console


class Bench:
    """Boots the release as a host that adds something."""

    def __init__(self, release: Path, lock: Lock, store: Store, folder: Path) -> None:
        self.release, self.tools, self.folder = release, unpack_toolbox(lock, store), folder
        recipe = load_recipe(find_recipe("base", base=Path(__file__).parent))
        builds = firmware(recipe.firmware, lock, store)
        self._launches = {item.boot: item for item in reversed([*launches(recipe.platforms, builds)])}

    def __call__(
        self,
        boot: BootPath = BootPath.DISK,
        *,
        disk: Path | None = None,
        systemd_options: str = "",
        **wiring: Any,
    ) -> Trial:
        """Boot with more in the wiring, another disk, or the EFI variable SystemdOptions."""
        log = self.folder / "console"
        chosen = self._launches[boot]
        with private_temporary() as folder:
            build, socket = chosen.firmware, folder / "evidence.sock"
            if systemd_options:
                build = replace(build, variables=self.folder / "vars.fd")
                build.variables.write_bytes(
                    with_systemd_options(chosen.firmware.variables.read_bytes(), systemd_options)
                )
            wired = Wiring(
                tpm=folder,
                variables=folder,
                disk=disk or self.release / "disk.raw",
                evidence=socket,
                **wiring,
            )
            evidence, failure = None, ""
            with running_machine(
                self.tools, build, chosen.machine, boot, wired, folder, console_log=log
            ) as running:
                try:
                    evidence = request_evidence(
                        socket,
                        secrets.token_bytes(32),
                        deadline=time.monotonic() + LIMIT,
                        check=running.check,
                    )
                except BootError as error:
                    failure = str(error)
        console = _ESCAPES.sub(b"", log.read_bytes()).decode("utf-8", "replace")
        return Trial(evidence=evidence, failure=failure, console=console)


@pytest.fixture(scope="module")
def try_on(release: Path, lock: Lock, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(release, lock, store, tmp_path_factory.mktemp("host"))


#: Shows on the console what happens, and asks for a shell.
WORDS = f"{COMMAND_LINE} systemd.debug_shell=1"


def test_a_longer_command_line_stops_the_machine_before_its_root(try_on: Bench):
    """The stub appends what SMBIOS says (systemd-stub(7)); the initrd sees it in PCR 12, and goes no further."""
    try_on(smbios_string=f"io.systemd.stub.kernel-cmdline-extra={WORDS}").assert_stopped_in_the_initrd()


def test_an_addon_on_the_esp_stops_the_machine_before_its_root(try_on: Bench, tmp_path: Path):
    """The stub loads every add-on beside the UKI while Secure Boot is off."""
    addon = build_addon(try_on.tools, tmp_path, name="words", command_line=WORDS)
    disk = extended_disk(try_on.tools, try_on.release / "disk.raw", tmp_path / "disk.raw", [addon])
    try_on(disk=disk).assert_stopped_in_the_initrd()


def test_words_for_a_direct_boot_stop_the_machine_before_its_root(try_on: Bench):
    """The stub takes -append in place of what is sealed: here all of that, and more."""
    uki = try_on.release / "uki.efi"
    data = uki.read_bytes()
    (section,) = [each for each in pe.parse(data).sections if each.name == ".cmdline"]
    sealed = data[section.raw_offset : section.raw_offset + section.virtual_size].decode().strip("\0")
    assert "roothash=" in sealed
    try_on(BootPath.DIRECT, uki=uki, append=f"{sealed} {WORDS}").assert_stopped_in_the_initrd()


def test_an_efi_variable_of_the_host_changes_nothing(try_on: Bench):
    """systemd's PID 1 would take this unit from the variable (proc_cmdline_parse of systemd 257) and power off."""
    trial = try_on(systemd_options="systemd.unit=poweroff.target")
    assert trial.failure == ""
    assert trial.evidence is not None


def test_a_setting_that_does_not_take_stops_the_machine(
    goldsmith: Goldsmith, store: Store, tmp_path: Path, signing_key: Path
):
    """The kernel caps kernel.yama.ptrace_scope at 3 (Documentation/admin-guide/LSM/Yama.rst)."""
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    (recipes / "base/golden.json").unlink(missing_ok=True)
    settings = recipes / "common/hardening/sysctl.conf"
    text = settings.read_text()
    assert "kernel.yama.ptrace_scope = 3\n" in text
    settings.write_text(text.replace("kernel.yama.ptrace_scope = 3\n", "kernel.yama.ptrace_scope = 7\n"))
    build = (
        "build", recipes / "base/recipe.yaml", "--offline", "--out", tmp_path / "out", "--key", signing_key,
    )  # fmt: skip
    done = goldsmith(*build, timeout=300)
    assert done.code == 3 and "GS-KERNEL-012" in done.stderr, "the audit notices before any boot"
    recipe = recipes / "base/recipe.yaml"
    waiver = 'audit:\n  waive:\n    GS-KERNEL-012: "a value that the kernel caps, for a test"\n'
    recipe.write_text(f"{recipe.read_text()}{waiver}")
    done = goldsmith(*build, timeout=300)
    assert done.code == 0, done.stderr
    run = goldsmith.boot(tmp_path / "out", "--debug", "--firmware", "ovmf-2025.02", folder=tmp_path)
    assert run.code == 1
    assert "switched itself off" in run.report["failure"]
    assert not run.evidence.exists()


def with_systemd_options(store: bytes, options: str) -> bytes:
    """Return the variable store with what `bootctl systemd-efi-options` would write."""
    name = "SystemdOptions"
    variable = AuthenticatedVariable(
        name=name, guid=SYSTEMD_VENDOR, data=f"{options}\0".encode("utf-16-le"), time=bytes(16)
    )
    result = bytearray(enrol(store, [variable]))
    # AUTHENTICATED_VARIABLE_HEADER (60 bytes, the name follows): non-volatile, boot service and run-time access alone.
    struct.pack_into("<I", result, result.index(name.encode("utf-16-le")) - 60 + 4, 7)
    return bytes(result)
