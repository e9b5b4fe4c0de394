"""SEV metadata; the sections of Debian's builds as sev-snp-measure reads them."""

import contextlib
import struct

import firmware_files
import pytest
import sev_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure.ovmf import OVMF

from measurements.errors import FormatError, LimitError
from measurements.formats import guidtable, sevmetadata


def parse(image):
    return sevmetadata.parse(image, guidtable.parse(image))


def triples(sections):
    return [(section.address, section.size, section.type) for section in sections]


def test_sections_keep_the_order_of_the_table():
    assert triples(parse(samples.firmware())) == list(samples.OVMF_SECTIONS)


@pytest.mark.parametrize("build", [*firmware_files.RELEASES, "amdsev"])
def test_debians_builds(build):
    image = firmware_files.ovmf_amdsev() if build == "amdsev" else firmware_files.ovmf(build)
    with firmware_files.as_file(image) as path:
        theirs = [(item.gpa, item.size, item.section_type_int) for item in OVMF(path).metadata_items()]
    assert len(theirs) >= 6 and triples(parse(image)) == theirs


def test_firmware_without_metadata():
    assert parse(samples.firmware(sections=None)) is None


def test_names():
    (known, other) = parse(samples.firmware(sections=[(0x800000, 0x1000, 0x10), (0, 0, 0x77)]))
    assert (known.name, other.name) == ("kernel-hashes", "0x77")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (samples.metadata([], magic=b"ASEX"), "begins with b'ASEX'"),
        (samples.metadata([], version=2), "version 2; expected"),
        (struct.pack("<4sIII", b"ASEV", 16, 1, 3), "16 bytes cannot hold 3 sections"),
    ],
)
def test_malformed(meta, message):
    with pytest.raises(FormatError, match=message):
        parse(samples.firmware(meta=meta))


def test_too_many_sections():
    with pytest.raises(LimitError, match="lists 65 sections; the limit is 64"):
        parse(samples.firmware(sections=[(0, 0, 1)] * 65))


@pytest.mark.parametrize("offset", [0, 15, 0x10000])
def test_metadata_outside_of_the_file(offset):
    table = samples.table([(guidtable.SEV_METADATA, struct.pack("<I", offset))])
    with pytest.raises(FormatError, match="bytes before the end"):
        parse(bytes(4096 - 32 - len(table)) + table + bytes(32))


def test_metadata_that_leaves_the_file():
    table = samples.table([(guidtable.SEV_METADATA, struct.pack("<I", 20))])
    image = bytearray(bytes(4096 - 32 - len(table)) + table + bytes(32))
    image[-20:] = struct.pack("<4sIII", b"ASEV", 28, 1, 1) + bytes(4)
    with pytest.raises(FormatError, match="the input is cut"):
        parse(bytes(image))


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=16, max_size=200))
def test_any_metadata_raises_nothing_else(meta):
    with contextlib.suppress(FormatError):
        parse(samples.firmware(meta=meta))
