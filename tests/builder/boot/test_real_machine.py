"""QEMU, swtpm and the pinned firmware themselves: what is computed without a guest equals what a guest measures."""

import hashlib
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.artifacts import Machine
from builder.boot import accelerator, qtest
from builder.boot.calibrate import calibrate
from builder.boot.qtest import machine_tables
from builder.boot.swtpm import manufacture
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from builder.tools import HOST, PIPE
from measurements.evidence.document import parse as parse_evidence
from measurements.formats import eventlog, ovmf
from measurements.platforms.calibration import derive_profile
from measurements.platforms.firmware import find_profile
from measurements.platforms.qemu_kernel import patched_kernel
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration
SERVICE = Path(__file__).parents[3] / "recipes/common/evidence"


@pytest.fixture(scope="module")
def locked():
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    return unpack_toolbox(lock, store), firmware(recipe.firmware, lock, store)


def observed(tools, build, machine):
    """Boot a build alone; return what it measured of ACPI, what QEMU was read to say, and the profile of both."""
    log = eventlog.parse(calibrate(tools, build, machine))
    tables = machine_tables(tools, machine, build, BootPath.DISK, bare=True)
    measured = [record.digests["sha256"].value for record in log.records if record.data[:9] == b"ACPI DATA"]
    code = build.code.read_bytes()
    derived = derive_profile(
        code,
        log,
        name=find_profile(code).name,
        memory_mib=machine.memory_mib,
        vcpus=machine.vcpus,
        acpi={0xE0000000: tables.acpi},
        smbios_tables=tables.smbios,
    )
    return measured, [hashlib.sha256(blob).digest() for _, blob in tables.acpi.measured()], derived


@pytest.mark.parametrize(("memory", "vcpus"), [(1024, 1), (4096, 4)])
def test_tables_and_profile_of_every_pinned_firmware(locked, memory, vcpus):
    tools, builds = locked
    machine = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=memory, vcpus=vcpus)
    for build in builds:
        if not ovmf.needs_smm(code := build.code.read_bytes()):
            measured, read, derived = observed(tools, build, machine)
            assert measured == read
            assert derived == find_profile(code)


def test_tables_and_profile_of_firmware_that_verifies(locked):
    """Its PEI volume is an observation of each machine: that of this one must be what the table has."""
    tools, builds = locked
    machine = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=2048, vcpus=2, smm=True)
    names = []
    for build in builds:
        if ovmf.needs_smm(code := build.code.read_bytes()):
            names.append(build.name)
            measured, read, derived = observed(tools, build, machine)
            known = find_profile(code)
            assert measured == read
            assert replace(derived, observations=()) == replace(known, observations=())
            assert derived.observations
            assert all(seen in known.observations for seen in derived.observations)
    assert len(names) == 2


def test_tables_survive_their_cache(locked, tmp_path):
    tools, builds = locked
    machine = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=1024, vcpus=1)
    tables = machine_tables(tools, machine, builds[0], BootPath.DIRECT)
    tables.save(tmp_path / "tables")
    assert type(tables).load(tmp_path / "tables") == tables
    assert tables.bootorder == b"/rom@genroms/linuxboot_dma.bin\0"


def test_the_probe_believes_tcg_and_no_impossible_processor(locked):
    tools, _ = locked
    assert accelerator._runs(tools, "tcg", "qemu64")
    assert not accelerator._runs(tools, "tcg", "qemu64,+sgx")
    assert accelerator.probe(tools, "qemu64") in (accelerator.KVM, accelerator.TCG)


def test_host_and_guest_make_the_same_key(locked, tmp_path):
    """The host's key comes through tpm2-tss, the guest's through the service's own TPM client."""
    tools, _ = locked
    sys.path.insert(0, str(SERVICE))
    import evidence

    pinned = manufacture(tools, tmp_path)
    path = tmp_path / "guest.sock"
    arguments = (
        "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--server", f"type=unixio,path={path}",
        "--flags", "not-need-init,startup-clear",
    )  # fmt: skip
    (tmp_path / "log").write_bytes(b"log")
    with tools.spawn("swtpm", *arguments) as process, socket.socket(socket.AF_UNIX) as connection:
        while not path.is_socket() and process.poll() is None:
            os.sched_yield()
        connection.connect(str(path))
        log = os.open(tmp_path / "log", os.O_RDONLY)
        document = evidence.document(bytes(16), {"tpm": connection.fileno(), "eventlog": log})
        os.close(log)
    parsed = parse_evidence(document.encode())
    assert parsed.attestation_key == pinned
    assert {value.value for value in parsed.quotes[0].registers.values()} == {bytes(20)}, "as after reset"


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="no systemd-analyze on this host")
@pytest.mark.parametrize("unit", ["goldsmith-evidence@.service", "goldsmith-evidence-serial.service"])
def test_the_sandbox_is_rated_safe(unit, tmp_path):
    (tmp_path / unit).write_bytes((SERVICE / unit).read_bytes())
    HOST.run(
        "systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", str(tmp_path / unit)
    )  # 20 is an exposure of 2.0 of 10


@pytest.mark.parametrize(
    ("memory", "command_line", "initrd_size"),
    [(512, "quiet", 70_000), (3072, "vga=ask quiet", 1), (1024, "", 0)],
)
def test_the_setup_header_that_qemu_writes(locked, tmp_path, memory, command_line, initrd_size):
    """QEMU's legacy fw_cfg blobs of a kernel, as it hands them to firmware, against the prediction of them."""
    tools, _ = locked
    kernel = bytearray(hashlib.shake_128(b"kernel").digest(40_000))
    kernel[0x1F1] = 4  # sectors of setup code
    kernel[0x202:0x208] = b"HdrS" + (0x20F).to_bytes(2, "little")
    kernel[0x211] = 1  # loaded high
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    kernel[0x236:0x238] = (0x3F).to_bytes(2, "little")
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "initrd").write_bytes(bytes(initrd_size))
    arguments = [
        "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc-q35-10.0", "-accel", "tcg",
        "-m", f"{memory}M", "-S", "-qtest", "stdio", "-qtest-log", "none", "-kernel", str(tmp_path / "kernel"),
        "-append", command_line, *(("-initrd", str(tmp_path / "initrd")) if initrd_size else ()),
    ]  # fmt: skip
    with tools.spawn("qemu-system-x86_64", *arguments, stdin=PIPE, stdout=PIPE) as process:
        session = qtest._Qtest(process)
        # docs/specs/fw_cfg: FW_CFG_SETUP_DATA, FW_CFG_KERNEL_DATA.
        setup = qtest._read_file(session, 0x18, 5 * 512)
        rest = qtest._read_file(session, 0x11, len(kernel) - len(setup))
    expected = patched_kernel(
        bytes(kernel), memory=memory << 20, command_line=command_line, initrd_size=initrd_size
    )
    assert setup + rest == expected and expected != bytes(kernel)
