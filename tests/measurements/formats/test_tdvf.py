"""TDVF metadata: Debian's builds, and whatever a hostile file may say."""

import contextlib
import struct

import pytest
import tdx_samples as samples
from firmware_files import ovmf, ovmf_inteltdx
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.formats import tdvf
from measurements.formats.tdvf import SectionAttribute, SectionType


def described(firmware):
    return tuple(
        (section.address, section.size, int(section.type), int(section.attributes))
        for section in tdvf.parse(firmware).sections
    )


def wanted(sections):
    return tuple((address, size, kind, attributes) for _, _, address, size, kind, attributes in sections)


def test_debians_builds():
    # The sections as edk2's OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm lists them.
    assert described(ovmf("2025.02")) == wanted(samples.OVMF)
    assert described(ovmf_inteltdx()) == wanted(samples.INTEL_TDX)


def test_contents_come_from_the_file():
    firmware = samples.firmware()
    code, variables, memory, hob = tdvf.parse(firmware).sections
    assert bytes(code.data) == firmware[0x1000:0x3000] and bytes(variables.data) == firmware[:0x1000]
    assert not memory.data and not hob.data
    assert (code.type, code.attributes) == (SectionType.BFV, SectionAttribute.MR_EXTEND)
    assert tdvf.parse(firmware).only(SectionType.TD_HOB) == hob
    with pytest.raises(FormatError, match="0 sections of type PermMem; expected one"):
        tdvf.parse(firmware).only(SectionType.PERM_MEM)


def test_firmware_for_other_machines_is_refused():
    with pytest.raises(FormatError, match="no TDVF metadata"):
        tdvf.parse(bytes(0x10000))


def changed(index, **fields):
    names = ("offset", "raw", "address", "size", "kind", "attributes")
    sections = list(samples.SMALL)
    sections[index] = tuple(
        fields.get(name, value) for name, value in zip(names, sections[index], strict=True)
    )
    return samples.firmware(tuple(sections), size=0x3000)


@pytest.mark.parametrize(
    ("firmware", "words"),
    [
        (samples.firmware(distance=0), "0 bytes before the end"),
        (samples.firmware(distance=0x3001), "12289 bytes before the end"),
        (samples.firmware(distance=0x20), "signature"),
        (samples.firmware(meta=samples.metadata((), magic=b"TDVG")), "no signature"),
        (samples.firmware(meta=samples.metadata((), version=2)), "version 2; expected 1"),
        (samples.firmware(meta=samples.metadata(())), "no section"),
        (samples.firmware(meta=samples.metadata(samples.SMALL, length=15)), "length 15 for 4 sections"),
        (changed(0, kind=7), "unknown section type 7"),
        (changed(0, attributes=4), "unknown section attributes 0x4"),
        (changed(0, address=0xFFFFE001), "whole pages"),
        (changed(2, size=0), "whole pages"),
        (changed(2, size=0x800), "whole pages"),
        (changed(2, address=(1 << 64) - 0x1000), "beyond 52 address bits"),
        (changed(0, raw=0x1000), "4096 bytes in the file and 8192 in memory"),
        (changed(0, offset=0x2000), "beyond the firmware file"),
        (changed(2, raw=0x1000), "TempMem has data in the file"),
        (changed(2, address=0x809000), "overlap"),
    ],
)
def test_malformed_metadata(firmware, words):
    with pytest.raises(FormatError, match=words):
        tdvf.parse(firmware)


def test_limits():
    with pytest.raises(LimitError, match="65 sections; the limit is 64"):
        tdvf.parse(samples.firmware(meta=struct.pack("<4sIII", b"TDVF", 16 + 65 * 32, 1, 65)))
    huge = (*samples.SMALL[:2], (0, 0, 0x1000000, (tdvf.MAX_PAGES + 1) * samples.PAGE, 3, 0))
    with pytest.raises(LimitError, match="more than 65536 pages"):
        tdvf.parse(samples.firmware(huge))
    with pytest.raises(LimitError, match="firmware has 67108865 bytes"):
        tdvf.parse(bytes(tdvf.MAX_FIRMWARE_SIZE + 1))


@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF))
def test_hostile_metadata(junk, distance):
    with contextlib.suppress(FormatError):
        tdvf.parse(samples.firmware(meta=junk, distance=distance))


@given(st.integers(0, 16 + 4 * 32 - 4), st.integers(0, 0xFFFFFFFF))
def test_hostile_fields(place, value):
    meta = bytearray(samples.metadata(samples.SMALL))
    struct.pack_into("<I", meta, place, value)
    with contextlib.suppress(FormatError):
        tdvf.parse(samples.firmware(meta=bytes(meta)))
