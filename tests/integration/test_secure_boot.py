"""Secure Boot with keys of our own: what is signed boots and measures as predicted, everything else is refused."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from running import Goldsmith, private_temporary

from builder.artifacts import Firmware, Machine
from builder.boot.qemu import Wiring
from builder.boot.session import boot_session, running_machine
from builder.launches import Launch, launches, predict_launch
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware as unpack_firmware
from builder.toolbox import unpack_toolbox
from builder.tools import Tools
from measurements.events import HashAlgorithm
from measurements.evidence import document
from measurements.formats import gpt
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration

_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_GPT_PREFIX = 1 << 20
_BOOT_LIMIT = 240.0
_REFUSAL_LIMIT = 90.0  # seconds until firmware has tried the disk
_REFUSED = ("Access Denied", "Security Violation")  # BdsDxe, by edk2's release


class Bench:
    """A release, its key set, and machines whose firmware verifies with these keys."""

    def __init__(
        self, goldsmith: Goldsmith, release: Path, tools: Tools, builds: tuple[Firmware, ...], folder: Path
    ) -> None:
        self.goldsmith, self.release, self.tools, self.folder = goldsmith, release, tools, folder
        self.run("make", "keys", "--name", "Integration test")
        self._builds = {build.name: build for build in builds}
        self._machines: dict[str, Machine] = {
            item.firmware.name: replace(item.machine, smm=True)
            for item in launches(manifests.load(release).platforms, builds)
        }

    def run(self, verb: str, *arguments: str | Path) -> None:
        done = self.goldsmith("keys", verb, *arguments, timeout=60, cwd=self.folder)
        assert done.code == 0, done.stderr

    def launch(self, name: str, keys: str = "keys") -> Launch:
        """Return the machine with the build that verifies, and these keys enrolled."""
        build = self._builds[name]
        enrolled = self.folder / f"{name}-{keys}.fd"
        self.run("enrol", keys, build.variables, "--out", enrolled)
        code = build.code.with_name("OVMF_CODE_4M.secboot.fd")
        return Launch(
            machine=self._machines[name],
            firmware=replace(build, code=code, variables=enrolled),
            boot=BootPath.DISK,
        )

    def signed(self, keys: str = "keys") -> Path:
        """Return the release's UKI signed by a key set."""
        target = self.folder / f"{keys}.efi"
        self.run("sign", keys, self.release / "uki.efi", "--out", target)
        return target

    def disk(self, uki: Path) -> Path:
        """Return a copy of the release's disk that starts this UKI."""
        target = self.folder / f"{uki.stem}.raw"
        shutil.copyfile(self.release / "disk.raw", target)
        table = self.table(target)
        start = next(each.first_lba for each in table.partitions if each.type == _ESP) * table.sector_size
        self.tools.run(
            "mcopy", "-o", "-i", f"{target}@@{start}", uki, "::/EFI/BOOT/BOOTX64.EFI",
            env={"MTOOLS_SKIP_CHECK": "1"},
        )  # fmt: skip
        return target

    @staticmethod
    def table(disk: Path) -> gpt.Gpt:
        with disk.open("rb") as file:
            return gpt.parse(file.read(_GPT_PREFIX))


@pytest.fixture(scope="module")
def bench(goldsmith, release, lock, store, tmp_path_factory) -> Bench:
    builds = unpack_firmware(manifests.load(release).firmware, lock, store)
    return Bench(goldsmith, release, unpack_toolbox(lock, store), builds, tmp_path_factory.mktemp("secure"))


@pytest.mark.parametrize("name", ["ovmf-2025.02", "ovmf-2026.08"])
def test_signed_image_boots_as_predicted(bench: Bench, store: Store, name: str):
    launch, uki = bench.launch(name), bench.signed()
    disk = bench.disk(uki)
    predicted = predict_launch(
        launch, uki=uki.read_bytes(), disk=bench.table(disk), tools=bench.tools, store=store
    )
    result = boot_session(
        bench.tools, launch.firmware, launch.machine, launch.boot, disk, None,
        nonce=secrets.token_bytes(32), timeout=_BOOT_LIMIT,
    )  # fmt: skip
    observed = {quote.bank: quote.registers for quote in document.parse(result.evidence).quotes}
    unpredicted = set()
    for bank in (HashAlgorithm.SHA256, HashAlgorithm.SHA384):
        for register in predicted.registers:
            acceptable = register.values(bank)
            if acceptable:
                assert observed[bank][register.index] in acceptable, f"PCR {register.index}, {bank}"
            else:
                unpredicted.add(register.index)
    # This build hashes what it has in memory, so PCR 0 needs a calibration of the same machine; 10 is IMA's.
    assert unpredicted <= {0, 10}


def test_what_is_not_signed_is_refused(bench: Bench):
    assert refusal(bench, bench.launch("ovmf-2026.08"), bench.release / "disk.raw")


def test_what_another_key_signed_is_refused(bench: Bench):
    bench.run("make", "others", "--name", "Other keys")
    assert refusal(bench, bench.launch("ovmf-2025.02"), bench.disk(bench.signed("others")))


def test_what_dbx_forbids_is_refused(bench: Bench):
    keys = bench.folder / "keys"
    bench.run("make", "forbidding", "--forbid", bench.release / "uki.efi")
    for path in keys.glob("db.*"):
        shutil.copyfile(path, bench.folder / "forbidding" / path.name)  # allowed by db, forbidden by dbx
    launch = bench.launch("ovmf-2025.02", "forbidding")
    assert refusal(bench, launch, bench.disk(bench.signed()))


def refusal(bench: Bench, launch: Launch, disk: Path) -> str:
    """Return the line with which firmware refuses the disk; fails if it starts anything."""
    with private_temporary() as folder:
        wiring = Wiring(tpm=folder, variables=folder, disk=disk)
        with running_machine(
            bench.tools, launch.firmware, launch.machine, launch.boot, wiring, folder
        ) as machine:
            deadline = time.monotonic() + _REFUSAL_LIMIT
            while time.monotonic() < deadline:
                for line in machine.console.tail(200).splitlines():
                    if "failed to load" in line and any(word in line for word in _REFUSED):
                        return line
                assert machine.console.phase == "firmware", machine.console.tail()
                machine.check()
                time.sleep(0.2)
            pytest.fail(f"firmware refused nothing within {_REFUSAL_LIMIT:.0f} s:\n{machine.console.tail()}")
