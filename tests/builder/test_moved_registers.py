"""One input at a time, on Debian's firmware and the toolbox's QEMU: which registers move, as ``goldsmith diff`` says.

Which ones must move is the specifications' word: TCG PC Client Platform Firmware Profile 1.06, 3.3.4 (what belongs into
which PCR), AMD 56860, 8.17 (launch digest), Intel 344991 (MRTD and RTMRs). That the values are those of machines is
what the integration tests show.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builder.artifacts import Machine
from builder.boot.calibrate import complete_log
from builder.boot.qemu import Wiring
from builder.boot.qtest import PCIEXBAR, machine_tables, read_fw_cfg_tables
from builder.boot.session import running_machine
from builder.boot.td import PROCESSOR, td_arguments, td_tables
from builder.cli import run
from builder.confidential import sev_snp_references, tdx_references
from builder.emulators import emulators
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.launches import Launch, predict_launch
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.recipe.platforms import PassedThrough, SevSnpPlatform, TdxPlatform
from builder.store import Store
from builder.toolbox import firmware, single_file_firmware, unpack_toolbox
from measurements import golden
from measurements.events import HashAlgorithm
from measurements.formats import eventlog
from measurements.prediction import BootPath

sys.path.insert(0, str(Path(__file__).parents[1] / "measurements"))

import launch_samples as samples
from attester import document
from firmware_files import ovmf

pytestmark = pytest.mark.integration
BOOTS = (BootPath.DISK, BootPath.DIRECT)


@pytest.fixture(scope="module")
def locked():
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    builds = {build.name: build for build in firmware(recipe.firmware, lock, store)}
    tools = unpack_toolbox(lock, store)
    single = single_file_firmware(recipe.firmware, lock, store)
    return tools, store, builds, single, emulators(lock, tools, store)


class Release:
    """An image with its launches, of which a test changes one input."""

    def __init__(self, locked):
        self.tools, self.store, self.builds, self.single, self.emulators = locked
        self.command_line = samples.CMDLINE
        self.machine = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=2048, vcpus=2)
        self.firmware = self.builds["ovmf-2026.08"]
        self.snp = self.single["ovmf-amdsev-2026.08"]
        self.tdx = self.single["ovmf-single-2025.02"]

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
        domain = TdxPlatform(
            name="qemu-tdx",
            machine=self.machine.type,
            firmware=("ovmf",),
            memory_mib=(self.machine.memory_mib,),
            vcpus=(self.machine.vcpus,),
            gpus=PassedThrough(
                counts=(len(self.machine.gpus),),
                bars_mib=tuple(size >> 20 for size in self.machine.gpus[0]) if self.machine.gpus else (1,),
            ),
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
            tdx=tdx_references(
                (domain,), {"ovmf": self.tdx}, uki=uki, disk=samples.disk(), tables=self.tables
            ),
        )

    def tables(self, machine, boot, pciexbar):
        return td_tables(self.tools, machine, boot, pciexbar=PCIEXBAR if pciexbar is None else pciexbar)


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
                platform, _, boot, *_ = shape.split("/")
                boot = {"qemu-vtpm": boot, "qemu-snp": "snp"}.get(platform, f"td-{boot}")
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
    for old, new in zip(before.tdx, after.tdx, strict=True):
        told = found.get(f"td-{old.boot.value}", {})
        assert (old.mrtd != new.mrtd) is ("MRTD" in told)
        for left, right in zip(old.registers, new.registers, strict=True):
            if not (left.alternatives and right.alternatives):
                continue  # no value moved: there is none
            differ = left.values(HashAlgorithm.SHA384) != right.values(HashAlgorithm.SHA384)
            assert differ is (f"RTMR{left.index}" in told), (old.name, left.index)
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


def domains(**registers):
    """Return the same for trust domains."""
    return {f"td-{boot.value}": {name: set(causes) for name, causes in registers.items()} for boot in BOOTS}


def test_another_command_line(release, told):
    """The UKI holds it: PCR 4 and RTMR1 are its digest, PCR 9, 11 and RTMR2 the line; under SNP the UKI's hash."""
    release.command_line += " debug"
    moved_ones, inputs = told()
    tpm = both(PCR_4={"uki"}, PCR_9={"uki .cmdline"}, PCR_11={"uki .cmdline"})
    td = domains(RTMR1={"image"}, RTMR2={"uki .cmdline"})
    assert moved_ones == tpm | td | {"snp": {"launch digest": {"kernel hashes"}}}
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


def test_another_firmware_of_a_trust_domain(release, capfd, tmp_path):
    """MRTD is the file. RTMR0 of 2026.08 has the SMBIOS table, which shows the host's processor: nothing pins it."""
    before = release.document()
    release.tdx = tmp_path / "ovmf.fd"
    release.tdx.write_bytes(ovmf("2026.08"))
    after = release.document()
    moved_ones, inputs = moved(before, after, capfd, tmp_path)
    # The TD HOB lists the memory that the file's metadata name, too.
    assert moved_ones == domains(MRTD={"firmware"}) and inputs == {"firmware sha384", "TD HOB"}
    told = {(item.register, item.new) for item in golden.compare(before, after) if item.what == "stability"}
    assert told == {("RTMR0", "not-pinned")}


def test_more_vcpus(release, told):
    """The MADT lists them, and SNP measures the state of each; TDX none."""
    release.machine = replace(release.machine, vcpus=4)
    moved_ones, inputs = told()
    assert moved_ones == both(PCR_1=ACPI) | domains(RTMR0=ACPI) | {"snp": {"launch digest": {"vCPU 2 to 4"}}}
    assert inputs == {"vcpus"}


def test_more_memory(release, told):
    """Beyond 2 GiB no ACPI table tells it; SMBIOS and the TD HOB do. SNP measures what firmware needs and no more."""
    release.machine = replace(release.machine, memory_mib=4096)
    moved_ones, inputs = told()
    tpm, td = both(PCR_1={"smbios etc/smbios/smbios-tables"}), domains(RTMR0={"memory size"})
    assert moved_ones == tpm | td and inputs == {"memory_mib", "TD HOB"}


def test_more_memory_on_firmware_that_measures_no_smbios(release, capfd, tmp_path):
    release.firmware = release.builds["ovmf-2025.02"]
    before = release.document()
    release.machine = replace(release.machine, memory_mib=4096)
    found, inputs = moved(before, release.document(), capfd, tmp_path)
    assert found == domains(RTMR0={"memory size"}) and inputs == {"memory_mib", "TD HOB"}


# GPUs passed through: a stand-in with the BARs that one would have is on the bus.
SMALL_GPU = (1 << 24, 1 << 30, 1 << 25)  # bytes, by index of the BAR
#: An H100 with 80 GB: `lspci -vv` shows regions of 16 MiB, 128 GiB and 32 MiB, all of 64 bits.
H100 = (1 << 24, 1 << 37, 1 << 25)


def test_more_gpus(release, told):
    """Each is a device in the DSDT, and widens the window of its root bridge."""
    release.machine = replace(release.machine, gpus=(SMALL_GPU,))
    moved_ones, inputs = told()
    assert moved_ones == both(PCR_1=ACPI) | domains(RTMR0=ACPI) and inputs == {"gpus"}


def test_one_gpu_more(release, capfd, tmp_path):
    release.machine = replace(release.machine, gpus=(SMALL_GPU,))
    before = release.document()
    assert before.predictions[0].shape.name.endswith("/2048-mib/1-gpus")
    release.machine = replace(release.machine, gpus=(SMALL_GPU,) * 2)
    moved_ones, inputs = moved(before, release.document(), capfd, tmp_path)
    assert moved_ones == both(PCR_1=ACPI) | domains(RTMR0=ACPI) and inputs == {"gpus"}


def test_gpus_that_firmware_has_no_room_for(release):
    """OVMF gives 128 GiB to BARs on a processor with 40 address bits: one H100 does not fit, and nothing is claimed."""
    release.machine = replace(release.machine, gpus=(H100,))
    for prediction in release.document().predictions:
        (reason,) = {each.reason for each in prediction.registers if each.index == 1}
        assert "reach beyond the 128 GiB that OVMF has for them" in reason
        assert [each.index for each in prediction.registers if not each.alternatives] == [1, 10]


def test_tables_show_a_functions_place_and_bars_and_not_what_it_is(release):
    """Another device with a 64-bit BAR of this size, in this slot, has the same tables: so a stand-in serves."""
    gpu = replace(release.machine, gpus=((1 << 30,),))
    other = replace(
        release.machine,
        devices=("ivshmem-plain,addr=0x10,memdev=shared",),
    )
    arguments = td_arguments(other, None)
    arguments[:0] = ["-object", "memory-backend-ram,id=shared,size=1G"]
    tables = read_fw_cfg_tables(release.tools, arguments, processor=PROCESSOR)
    assert tables.acpi == td_tables(release.tools, gpu, BootPath.DISK).acpi
    assert tables.acpi != td_tables(release.tools, release.machine, BootPath.DISK).acpi


def test_eight_gpus_of_a_trust_domain(release):
    """A processor with TDX has room; the DSDT's window ends where the smallest BAR behind all of theirs does."""
    # OVMF: 46 address bits, the window is the last eighth; BARs by size, so those of 128 GiB come first.
    base = 7 << 43
    asked = [(each, count) for each in release.emulators.values() for count in (1, 8)]
    assert len(release.emulators) > 1
    for emulator, count in asked:
        machine = replace(
            release.machine, type="pc-q35-{}.{}".format(*emulator.release), gpus=(H100,) * count
        )
        table = td_tables(emulator.tools(), machine, BootPath.DISK).acpi.tables
        end = base + count * (1 << 37) + count * (1 << 25) + count * (1 << 24)
        # QWordMemory (ACPI 6.5, 6.4.3.5.1): minimum, then maximum; three virtio BARs of 16 KiB lie behind.
        assert struct.pack("<QQ", base, end + 3 * 0x4000 - 1) in table


def test_firmware_measures_the_tables_of_a_machine_with_gpus(release, tmp_path):
    """OVMF itself, booted with two stand-ins: it places their BARs, and measures these ACPI blobs."""
    machine = replace(release.machine, memory_mib=512, gpus=((1 << 30,), (1 << 28,)))
    memory = tmp_path / "memory"
    wiring = Wiring(tpm=tmp_path, variables=tmp_path, memory=memory)
    log = None
    with running_machine(
        release.tools, release.firmware, machine, BootPath.DISK, wiring, tmp_path
    ) as running:
        while log is None and time.monotonic() < running.started + 180:
            running.check()
            time.sleep(1)
            log = complete_log(memory)
    records = eventlog.parse(log, kind=eventlog.LogKind.CRYPTO_AGILE).records
    measured = [record.digests["sha256"].value for record in records if record.data[:9] == b"ACPI DATA"]
    tables = machine_tables(release.tools, machine, release.firmware, BootPath.DISK)
    assert measured == [hashlib.sha256(blob).digest() for _, blob in tables.acpi.measured()]
