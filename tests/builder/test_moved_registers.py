"""One input at a time, on Debian's firmware and the toolbox's QEMU: which registers move, as ``goldsmith diff`` says.

Which ones must move is the specifications' word: TCG PC Client Platform Firmware Profile 1.06, 3.3.4 (what belongs into
which PCR), AMD 56860, 8.17 (launch digest), Intel 344991 (MRTD and RTMRs). That the values are those of machines is
what the integration tests show.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.artifacts import Machine
from builder.cli import run
from builder.confidential import sev_snp_references
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.launches import Launch, predict_launch
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.recipe.model import SevSnpPlatform
from builder.store import Store
from builder.toolbox import firmware, single_file_firmware, unpack_toolbox
from measurements import golden
from measurements.prediction import BootPath

sys.path.insert(0, str(Path(__file__).parents[1] / "measurements"))

import launch_samples as samples
from attester import document

pytestmark = pytest.mark.integration
BOOTS = (BootPath.DISK, BootPath.DIRECT)


@pytest.fixture(scope="module")
def locked():
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    builds = {build.name: build for build in firmware(recipe.firmware, lock, store)}
    return unpack_toolbox(lock, store), store, builds, single_file_firmware(recipe.firmware, lock, store)


class Release:
    """An image with its launches, of which a test changes one input."""

    def __init__(self, locked):
        self.tools, self.store, self.builds, self.single = locked
        self.command_line = samples.CMDLINE
        self.machine = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=2048, vcpus=2)
        self.firmware = self.builds["ovmf-2026.08"]
        self.snp = self.single["ovmf-amdsev-2026.08"]

    def document(self):
        sections = [
            (name, self.command_line.encode() if name == ".cmdline" else data)
            for name, data in samples.SECTIONS
        ]
        uki = samples.uki(sections)
        predictions = [
            predict_launch(
                Launch(machine=self.machine, firmware=self.firmware, boot=boot),
                uki=uki,
                disk=samples.disk(),
                tools=self.tools,
                store=self.store,
            )
            for boot in BOOTS
        ]
        platform = SevSnpPlatform(
            name="qemu-snp", firmware=("ovmf",), cpu=("EPYC-Milan",), vcpus=(self.machine.vcpus,)
        )
        plain = document(predictions[0])
        return golden.document_from(
            image=plain.image,
            source_date_epoch=plain.source_date_epoch,
            validity=plain.validity,
            inputs=plain.inputs,
            outputs=plain.outputs,
            calculator=plain.calculator,
            predictions=predictions,
            sev_snp=sev_snp_references((platform,), {"ovmf": self.snp}, uki=uki),
        )


@pytest.fixture
def release(locked):
    return Release(locked)


def moved(before, after, capfd, tmp_path):
    """Return what ``goldsmith diff`` says: register -> causes, by boot path; and the inputs that changed."""
    for name, value in (("old.json", before), ("new.json", after)):
        (tmp_path / name).write_bytes(golden.to_pretty(value))
    assert run(["diff", str(tmp_path / "old.json"), str(tmp_path / "new.json"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    found = {}
    for move in told["moved"]:
        for register, shapes in move["registers"].items():
            for shape in shapes:
                boot = "snp" if shape.startswith("qemu-snp") else shape.split("/")[2]
                found.setdefault(boot, {}).setdefault(register, set()).add(move["cause"])
    inputs = {
        item["what"] for item in told["differences"] if item["cause"] is None and item["register"] is None
    }
    check_values(before, after, found)
    return found, inputs


def check_values(before, after, found):
    """Hold what diff says against the values themselves: a register is named exactly where its values differ."""
    for old, new in zip(before.predictions, after.predictions, strict=True):
        for left, right in zip(old.registers, new.registers, strict=True):
            name = f"PCR {left.index}"
            values = [each.values(bank) for each in (left, right) for bank in before.banks]
            differ = values[:2] != values[2:]
            assert differ is (name in found.get(old.shape.boot.value, {})), (old.shape.name, name)
    for old, new in zip(before.sev_snp, after.sev_snp, strict=True):
        assert (old.launch_digest != new.launch_digest) is ("launch digest" in found.get("snp", {}))


@pytest.fixture
def told(release, capfd, tmp_path):
    before = release.document()

    def after():
        return moved(before, release.document(), capfd, tmp_path)

    return after


ACPI = {"acpi etc/table-loader", "acpi etc/acpi/rsdp", "acpi etc/acpi/tables"}
OPTIONS = {"boot options BootOrder", "boot option Boot0000", "boot option Boot0001"}


def both(**registers):
    """Return the same for a boot from disk and with ``-kernel``; PCR names have a blank."""
    return {
        boot.value: {name.replace("_", " "): set(causes) for name, causes in registers.items()}
        for boot in BOOTS
    }


def test_another_command_line(release, told):
    """The UKI holds it: PCR 4 is the UKI's digest, 9 what the kernel got, 11 the section; under SNP the UKI's hash."""
    release.command_line += " debug"
    moved_ones, inputs = told()
    assert moved_ones == both(PCR_4={"uki"}, PCR_9={"uki .cmdline"}, PCR_11={"uki .cmdline"}) | {
        "snp": {"launch digest": {"kernel hashes"}}
    }
    assert inputs == set()


def test_another_firmware(release, told):
    """PCR 0 is the firmware; 2026.08 also measures SMBIOS, and has a boot option more."""
    release.firmware = replace(release.builds["ovmf-2025.02"], name=release.firmware.name)
    moved_ones, inputs = told()
    code = {"firmware version string", "firmware PEIFV", "firmware DXEFV"}
    options = OPTIONS | {"smbios etc/smbios/smbios-tables"}
    assert moved_ones == {
        "disk": {"PCR 0": code, "PCR 1": options | {"boot option Boot0002", "boot option Boot0003"}},
        "direct": {"PCR 0": code, "PCR 1": options},
    }
    assert inputs == {"firmware sha256", "firmware sha384"}


def test_another_firmware_under_snp(release, told, tmp_path):
    """One byte of the firmware that no table at its end names."""
    changed = bytearray(release.snp.read_bytes())
    changed[len(changed) // 2] ^= 1
    release.snp = tmp_path / "changed.fd"
    release.snp.write_bytes(changed)
    moved_ones, inputs = told()
    assert moved_ones == {"snp": {"launch digest": {"firmware"}}} and inputs == {"firmware sha384"}


def test_more_vcpus(release, told):
    """The MADT lists them, and SNP measures the state of each."""
    release.machine = replace(release.machine, vcpus=4)
    moved_ones, inputs = told()
    assert moved_ones == both(PCR_1=ACPI) | {"snp": {"launch digest": {"vCPU 2 to 4"}}}
    assert inputs == {"vcpus"}


def test_more_memory(release, told):
    """Beyond 2 GiB no ACPI table tells it, SMBIOS does; SNP measures no memory but what firmware needs."""
    release.machine = replace(release.machine, memory_mib=4096)
    moved_ones, inputs = told()
    assert moved_ones == both(PCR_1={"smbios etc/smbios/smbios-tables"}) and inputs == {"memory_mib"}


def test_more_memory_on_firmware_that_measures_no_smbios(release, capfd, tmp_path):
    release.firmware = release.builds["ovmf-2025.02"]
    before = release.document()
    release.machine = replace(release.machine, memory_mib=4096)
    assert moved(before, release.document(), capfd, tmp_path) == ({}, {"memory_mib"})
