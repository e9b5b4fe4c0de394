"""MRTD against values of two other programs, and against a page-by-page reading of the specification."""

import hashlib
import struct

import pytest
import tdx_samples as samples
from firmware_files import ovmf, ovmf_inteltdx
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import NotPredictableError
from measurements.formats import tdvf
from measurements.formats.tdvf import SectionAttribute
from measurements.tdx import mrtd
from measurements.tdx.mrtd import PageOrder

#: By aleph-im/aleph-vm's src/aleph/vm/vprogram/tdx_measurement.py (revision 2496873), which knows one order. On Debian
#: 12's OVMF.fd 2022.11-6+deb12u2 it, ours and google/gce-tcb-verifier (revision 74582c0) agree on 4c7206f0f483c524....
OTHERS = {
    ovmf_inteltdx: "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c"
    "59aefecce725b0d08a5e9d3d3183bd08",
    ovmf: "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
}


#: By edgelesssys/contrast's tools/tdx-measure (tdvf/tdvf.go at revision 057ad2d, mrtd/mrtd.go at 3dba937), built with
#: Go 1.27.3: what their verifier expected of TDs while QEMU 8 with TDX patches built them, which knows the other order.
TWO_PASS = {
    ovmf_inteltdx: "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3"
    "ebf82d4f5974e933798f65d7a279b9a9",
    ovmf: "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2",
}


@pytest.mark.parametrize("build", OTHERS, ids=["inteltdx-2026.08", "ovmf-2025.02"])
def test_other_programs_values_for_debians_firmware(build):
    metadata = tdvf.parse(build("2025.02") if build is ovmf else build())
    assert mrtd.measure(metadata, PageOrder.ONE_PASS).hex() == OTHERS[build]
    assert mrtd.measure(metadata, PageOrder.TWO_PASS).hex() == TWO_PASS[build]


def by_the_specification(firmware, sections, *, two_pass):
    """The extension buffers of the TDX module specification, written out for each page."""
    state = hashlib.sha384()

    def add(address):
        state.update(b"MEM.PAGE.ADD" + bytes(4) + struct.pack("<Q", address) + bytes(104))

    def extend(address, content):
        for at in range(0, 4096, 256):
            state.update(b"MR.EXTEND" + bytes(7) + struct.pack("<Q", address + at) + bytes(104))
            state.update(content[at : at + 256])

    for offset, raw, address, size, _, attributes in sections:
        later = []
        for page in range(0, size, 4096):
            content = firmware[offset + page : offset + page + 4096] if raw else bytes(4096)
            if not attributes & 2:
                add(address + page)
            if attributes & 1:
                later.append((address + page, content))
                if not two_pass:
                    extend(*later.pop())
        for item in later:
            extend(*item)
    return state.hexdigest()


layouts = st.lists(
    st.tuples(st.sampled_from([2, 3, 4]), st.integers(1, 3), st.sampled_from([0, 1, 2])), max_size=5
)


@settings(max_examples=100)
@given(layouts, st.binary(max_size=4), st.integers(1, 4))
def test_random_layouts(kinds, seed, code_pages):
    code = code_pages * samples.PAGE
    sections = [(0x1000, code, 0xFFF00000, code, 0, 1), (0, 0x1000, 0xFFE00000, 0x1000, 1, 0)]
    address = 0x800000
    for kind, pages, attributes in kinds:
        if kind == 2 and attributes == 1:
            continue
        sections.append((0, 0, address, pages * samples.PAGE, kind, attributes))
        address += 8 * samples.PAGE
    firmware = samples.firmware(tuple(sections), seed=seed)
    for order in PageOrder:
        expected = by_the_specification(firmware, sections, two_pass=order is PageOrder.TWO_PASS)
        assert mrtd.measure(tdvf.parse(firmware), order).hex() == expected


@pytest.mark.parametrize("order", PageOrder)
def test_the_explanation_ends_with_the_value(order):
    metadata = tdvf.parse(samples.firmware())
    steps = tuple(mrtd.explain(metadata, order))
    assert steps[-1].value == mrtd.measure(metadata, order)
    assert len({step.value for step in steps}) == len(steps)
    assert sum(step.added for step in steps) == 5 and sum(step.extended for step in steps) == 2
    assert len(steps) == (5 if order is PageOrder.ONE_PASS else 7)
    assert [hex(step.address) for step in steps if step.extended] == ["0xffffe000", "0xfffff000"]


def test_only_measured_bytes_move_it():
    firmware = samples.firmware()
    value = mrtd.measure(tdvf.parse(firmware), PageOrder.ONE_PASS)
    for place, moves in ((0x10, False), (0x1010, True), (0x2FFF, True)):
        other = bytearray(firmware)
        other[place] ^= 1
        assert (mrtd.measure(tdvf.parse(bytes(other)), PageOrder.ONE_PASS) != value) is moves


@pytest.mark.parametrize(
    ("index", "attributes", "words"),
    [
        (3, SectionAttribute.MR_EXTEND, "measure the TD HOB into MRTD"),
        (0, SectionAttribute.MR_EXTEND | SectionAttribute.PAGE_AUG, "only after MRTD is final"),
    ],
)
def test_what_no_firmware_decides_has_no_value(index, attributes, words):
    sections = list(samples.SMALL)
    sections[index] = (*sections[index][:5], int(attributes))
    with pytest.raises(NotPredictableError, match=words):
        mrtd.measure(tdvf.parse(samples.firmware(tuple(sections))), PageOrder.ONE_PASS)
