"""The TD HOB against the digests in logs of trust domains, and against gce-tcb-verifier's memory layout."""

import hashlib
import json
import struct

import launch_samples
import pytest
import tdx_samples as samples

from measurements.errors import FormatError, NotPredictableError
from measurements.formats import eventlog, tdvf
from measurements.tdx import td_hob
from measurements.tdx.td_hob import GIB, Vmm

LOGS = json.loads((launch_samples.VECTORS / "tdx/logs.json").read_text())


def sections_of(log):
    address, size = (int(text, 16) for text in log["temporary_memory"])
    return (*samples.OVMF[:2], (0, 0, address, size, 3, 0), *samples.COMMON)


def digest(sections, memory, vmm):
    return hashlib.sha384(td_hob.build(tdvf.parse(samples.firmware(sections)), memory, vmm)).hexdigest()


@pytest.mark.parametrize("name", [name for name, log in LOGS.items() if "td_hob" in log])
def test_trust_domains_of_qemu(name):
    log = LOGS[name]
    assert digest(sections_of(log), log["memory_mib"] << 20, Vmm.QEMU) == log["td_hob"]


@pytest.mark.parametrize(
    ("name", "sections", "memory", "vmm"),
    [
        ("qemu-direct", samples.INTEL_TDX, 8 * GIB, Vmm.QEMU),
        ("cos-113-intel-tdx", samples.GCE, 16 * GIB, Vmm.GCE),
        ("cos-113-intel-tdx-dupe-separator", samples.GCE, 16 * GIB, Vmm.GCE),
    ],
)
def test_recorded_event_logs(name, sections, memory, vmm):
    log = eventlog.parse(launch_samples.vector(f"tdx/{name}.ccel.xz"))
    assert digest(sections, memory, vmm) == log.records[1].digests["sha384"].hex()


def resources(hob):
    """Return (type, attributes, start, length) of each resource descriptor."""
    return [
        struct.unpack_from("<IIQQ", hob, at + 24)
        for at in range(56, len(hob), 48)
        if hob[at : at + 2] == b"\3\0"
    ]


def test_nodes_of_the_largest_c3_machine():
    # google/gce-tcb-verifier tdx/tdx_test.go TestNumaBanks: RAM banks of c3-standard-176, 704 GiB.
    hob = td_hob.build(tdvf.parse(samples.firmware(samples.GCE)), 704 * GIB, Vmm.GCE)
    unaccepted = [(start, length) for kind, _, start, length in resources(hob) if kind == 7]
    assert unaccepted[-4:] == [
        (0x100000000, 0x2B40000000),
        (0x2C40000000, 0x2C00000000),
        (0x5840000000, 0x2C00000000),
        (0x8440000000, 0x2C00000000),
    ]
    below = [(start, length) for start, length in unaccepted if start < 4 * GIB]
    private = [(address, size) for _, _, address, size, *_ in samples.GCE if address < 3 * GIB]
    assert sum(length for _, length in [*below, *private]) == 0xC0000000


def test_memory_around_the_hole():
    firmware = tdvf.parse(samples.firmware(samples.OVMF))

    def total(mib):
        return sum(length for *_, length in resources(td_hob.build(firmware, mib << 20, Vmm.QEMU)))

    def highest(mib):
        *_, start, length = resources(td_hob.build(firmware, mib << 20, Vmm.QEMU))[-1]
        return start + length

    # hw/i386/pc_q35.c: 0xb0000000 bytes, 2816 MiB, split at 2 GiB.
    assert highest(2815) == 2815 << 20 and highest(2816) == (4096 + 2816 - 2048) << 20
    assert all(total(mib) == mib << 20 for mib in (16, 2048, 2815, 2816, 4096))


@pytest.mark.parametrize(
    ("memory", "vmm", "words"),
    [
        (8 << 20, Vmm.QEMU, "8 MiB of memory do not hold the firmware's TempMem section"),
        (0, Vmm.QEMU, "0 bytes of memory"),
        (1 << 47, Vmm.QEMU, "expected 1 to"),
        (3 * GIB, Vmm.GCE, "3 GiB is not known"),
        (200 * GIB, Vmm.GCE, "a multiple of 176 GiB"),
    ],
)
def test_machines_that_cannot_be(memory, vmm, words):
    with pytest.raises(NotPredictableError, match=words):
        td_hob.build(tdvf.parse(samples.firmware(samples.GCE)), memory, vmm)


def test_firmware_without_a_place_for_it():
    with pytest.raises(FormatError, match="0 sections of type TD_HOB"):
        td_hob.build(tdvf.parse(samples.firmware(samples.SMALL[:3])), GIB, Vmm.QEMU)
