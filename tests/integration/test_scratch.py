"""Scratch space on a disk of the host: mounted so that nothing runs from it, unreadable outside, closed to changes.

tests/recipes/scratch is the base image with common/scratch and a unit (files/probe.py) that uses the space and tells
the serial line, since no shell could.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from running import ROOT, Goldsmith, private_temporary

from builder.boot.client import request_evidence
from builder.boot.qemu import FREE_SLOT, Wiring
from builder.boot.session import RunningMachine, running_machine
from builder.launches import launches, predict_launch
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from measurements.events import HashAlgorithm
from measurements.evidence import document
from measurements.formats import gpt
from measurements.prediction import BootPath, Prediction

pytestmark = pytest.mark.integration

LIMIT = 240.0  # seconds, on a machine that emulates
SIZE = 256 << 20
BLOCK = 4096
SERIAL = "goldsmith-scratch"
#: What the probe writes, a hundred thousand times.
TEXT = b"goldsmith scratch text"
DEVICE = f"virtio-blk-pci,drive=scratch,serial={SERIAL},addr=0x{FREE_SLOT:02x},disable-legacy=on"


@pytest.fixture(scope="module")
def scratch_release(goldsmith: Goldsmith, signing_key: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("release") / "scratch"
    done = goldsmith("build", "tests/recipes/scratch", "--out", out, "--key", signing_key, timeout=900)
    assert done.code == 0, done.stderr
    return out


def test_scratch_space_is_closed_to_its_host(scratch_release: Path, tmp_path: Path):
    lock, store = read_lock(scratch_release / "lock.json", recipe="scratch"), Store.default()
    tools, manifest = unpack_toolbox(lock, store), manifests.load(scratch_release)
    chosen = next(
        item
        for item in launches(manifest.platforms, firmware(manifest.firmware, lock, store))
        if item.boot is BootPath.DISK
    )
    disk, log = tmp_path / "scratch.raw", tmp_path / "console"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    with private_temporary() as folder:
        wiring = Wiring(
            tpm=folder, variables=folder, disk=scratch_release / "disk.raw", evidence=folder / "evidence.sock",
            drives=(("scratch", disk),),
        )  # fmt: skip
        with running_machine(
            tools, chosen.firmware, replace(chosen.machine, devices=(DEVICE,)),
            BootPath.DISK, wiring, folder, console_log=log,
        ) as machine:  # fmt: skip
            assert told(machine, log, "read") == "equal"
            assert blocks_with_data(disk) > 900, "the text has 3.6 MiB"
            assert TEXT not in disk.read_bytes()
            flip_a_bit_of_each_block(disk)
            assert told(machine, log, "changed") == "EIO"
            evidence = request_evidence(
                folder / "evidence.sock", secrets.token_bytes(32), deadline=time.monotonic() + LIMIT,
                check=machine.check,
            )  # fmt: skip
            mount, keys, execution = (told(machine, log, what) for what in ("mount", "keys", "execution"))
    place, options = mount.split()[4:6]
    assert place == "/var/scratch"
    assert {"noexec", "nosuid", "nodev"} <= set(options.split(","))
    assert execution == "EACCES"
    assert keys == "", "the keyring ended with the service"
    with (scratch_release / "disk.raw").open("rb") as file:
        table = gpt.parse(file.read(1 << 20))
    predicted = predict_launch(
        chosen, uki=(scratch_release / "uki.efi").read_bytes(), disk=table, tools=tools, store=store
    )
    assert differing(predicted, evidence) == {1}, (
        "the disk shows in ACPI tables and boot options, and nowhere else"
    )


def test_without_a_disk_the_machine_runs_and_verifies(
    goldsmith: Goldsmith, scratch_release: Path, tmp_path: Path
):
    run = goldsmith.boot(scratch_release, "--firmware", "ovmf-2025.02", folder=tmp_path)
    assert (run.code, run.report["verdict"]) == (0, "pass"), run.stderr


def test_where_it_is_required_a_machine_without_it_stops(
    goldsmith: Goldsmith, signing_key: Path, tmp_path: Path
):
    recipes = tmp_path / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    shutil.copytree(ROOT / "tests/recipes/scratch", recipes / "scratch")
    recipe = recipes / "scratch/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("  - common/scratch\n", "  - common/scratch-required\n"))
    done = goldsmith(
        "build", recipe, "--offline", "--out", tmp_path / "out", "--key", signing_key, timeout=300
    )
    assert done.code == 0, done.stderr
    run = goldsmith.boot(tmp_path / "out", "--firmware", "ovmf-2025.02", folder=tmp_path)
    assert run.code == 1
    assert "switched itself off" in run.report["failure"]
    assert not run.evidence.exists()


def told(machine: RunningMachine, log: Path, what: str) -> str:
    """Wait for a line of the probe."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        said = log.read_bytes().decode("utf-8", "replace")
        if found := re.search(rf"^PROBE {what}: (.*?)\r?\n", said, re.MULTILINE):
            return found[1]
        assert "PROBE failure" not in said, machine.console.tail()
        machine.check()
        time.sleep(0.2)
    pytest.fail(f"the probe did not tell {what} within {LIMIT:.0f} s:\n{machine.console.tail()}")


def blocks(disk: Path):
    data = disk.read_bytes()
    return [(at, data[at : at + BLOCK]) for at in range(0, SIZE, BLOCK)]


def blocks_with_data(disk: Path) -> int:
    return sum(1 for _, block in blocks(disk) if any(block))


def flip_a_bit_of_each_block(disk: Path) -> None:
    with disk.open("r+b") as file:
        for at, block in blocks(disk)[1:]:
            if any(block):
                file.seek(at + 100)
                file.write(bytes([block[100] ^ 1]))


def differing(predicted: Prediction, evidence: bytes) -> set[int]:
    """Return the registers that do not hold what is predicted for the machine without the second disk."""
    observed = {quote.bank: quote.registers for quote in document.parse(evidence).quotes}[
        HashAlgorithm.SHA256
    ]
    return {
        register.index
        for register in predicted.registers
        if (values := register.values(HashAlgorithm.SHA256)) and observed[register.index] not in values
    }
