"""The table at the end of OVMF; entries of Debian's builds as sev-snp-measure reads them."""

import contextlib
import struct
from uuid import UUID

import firmware_files
import pytest
import sev_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure.ovmf import OVMF

from measurements.errors import FormatError, LimitError
from measurements.formats import guidtable


def with_table(table):
    return bytes(4096 - 32 - len(table)) + table + bytes(32)


def test_entries_are_found_backwards():
    table = guidtable.parse(samples.firmware())
    assert table.integers(guidtable.SEV_ES_RESET_BLOCK, 1, "reset block") == (samples.AP_EIP,)
    assert table.integers(guidtable.SEV_HASH_TABLE, 2, "hash table") == samples.HASH_TABLE
    assert table.get(guidtable.TDX_METADATA, 4, "TDX metadata") is None


def test_firmware_without_a_table():
    assert guidtable.parse(bytes(4096)).entries == {}
    assert guidtable.parse(b"").entries == {}


@pytest.mark.parametrize("release", firmware_files.RELEASES)
def test_debians_builds(release):
    code = firmware_files.ovmf_code(release)
    with firmware_files.as_file(code) as path:
        theirs = OVMF(path)._table
    assert {str(guid): data for guid, data in guidtable.parse(code).entries.items()} == theirs


def test_short_entry():
    table = guidtable.parse(with_table(samples.table([(guidtable.SEV_METADATA, b"\1\2")])))
    with pytest.raises(FormatError, match=r"SEV metadata .* has 2 bytes, expected 4"):
        table.integers(guidtable.SEV_METADATA, 1, "SEV metadata")


def test_entry_longer_than_the_table():
    table = bytearray(samples.table([(guidtable.SEV_METADATA, bytes(4))]))
    struct.pack_into("<H", table, 4, 4000)
    with pytest.raises(FormatError, match="claims 4000 bytes, expected 18 to 22"):
        guidtable.parse(with_table(bytes(table)))


def test_entry_shorter_than_its_header():
    table = bytearray(samples.table([(guidtable.SEV_METADATA, bytes(4))]))
    struct.pack_into("<H", table, 4, 0)
    with pytest.raises(FormatError, match="claims 0 bytes"):
        guidtable.parse(with_table(bytes(table)))


def test_rest_before_the_first_entry():
    table = b"\0\0" + samples.table([(guidtable.SEV_METADATA, bytes(4))])
    size = struct.pack("<H", len(table))
    with pytest.raises(FormatError, match="2 bytes before its first entry"):
        guidtable.parse(with_table(table[:-18] + size + table[-16:]))


def test_repeated_entry():
    with pytest.raises(FormatError, match="occurs twice"):
        guidtable.parse(with_table(samples.table([(guidtable.SEV_METADATA, bytes(4))] * 2)))


def test_limits():
    entries = [(UUID(int=number), b"") for number in range(65)]
    with pytest.raises(LimitError, match="more than 64 entries"):
        guidtable.parse(with_table(samples.table(entries)))
    with pytest.raises(LimitError, match="the limit is 4096"):
        guidtable.parse(bytes(8192) + samples.table([(UUID(int=1), bytes(4097))]) + bytes(32))


def test_table_longer_than_the_file():
    with pytest.raises(FormatError, match="table claims 1000 bytes"):
        guidtable.parse(struct.pack("<H", 1000) + samples.FOOTER.bytes_le + bytes(32))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_table_raises_nothing_else(body, size):
    footer = struct.pack("<H", size) + samples.FOOTER.bytes_le + bytes(32)
    with contextlib.suppress(FormatError):
        guidtable.parse(body + footer)
