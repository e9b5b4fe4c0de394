from uuid import UUID

import pytest

from measurements.errors import FormatError
from measurements.formats.reader import Reader


def test_reads_little_endian_in_order():
    reader = Reader(bytes(range(1, 16)) + b"rest", "thing")
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (
        0x01,
        0x0302,
        0x07060504,
        0x0F0E0D0C0B0A0908,
    )
    assert (reader.offset, reader.remaining) == (15, 4)
    assert reader.peek(2) == b"re"
    assert reader.peek(99) == b"rest"
    assert reader.peek(-1) == b""
    assert reader.rest() == b"rest"
    assert reader.remaining == 0


def test_guid_has_mixed_byte_order():
    # UEFI 2.10, appendix A.
    data = bytes.fromhex("33221100554477668899aabbccddeeff")
    assert Reader(data, "thing").guid() == UUID("00112233-4455-6677-8899-aabbccddeeff")


def test_part_is_confined_and_names_offsets_of_the_whole():
    reader = Reader(bytes(10), "whole")
    reader.skip(3)
    part = reader.part(4, "part")
    assert (reader.offset, part.offset, part.remaining) == (7, 3, 4)
    part.skip(4)
    with pytest.raises(FormatError, match="part at offset 7: u8 needs 1 bytes, 0 remain"):
        part.u8()


@pytest.mark.parametrize("length", [-1, 6, 1 << 70])
def test_never_reads_past_the_end(length):
    reader = Reader(b"12345", "thing", base=100)
    for read in (reader.take, reader.view, reader.skip):
        with pytest.raises(FormatError, match=r"thing at offset 100: \w+ needs"):
            read(length)
    assert reader.remaining == 5


def test_takes_any_buffer():
    for data in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert Reader(data, "thing").take(2) == b"ab"
