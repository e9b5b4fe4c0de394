import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, PredictionError
from measurements.events import EventType, HashAlgorithm
from measurements.formats import eventlog, smbios

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"
TABLE = (EVENTLOG / "qemu-ovmf-2026.08.smbios.bin").read_bytes()
FIRMWARE = ("Debian distribution of EDK II", "2026.08+ds-2", "09/26/2026")
END = bytes.fromhex("7f04fffe0000")


def structure(kind, body=b"", *strings, handle=0x100):
    head = bytes([kind, 4 + len(body)]) + handle.to_bytes(2, "little") + body
    return head + (b"".join(s + b"\0" for s in strings) if strings else b"\0") + b"\0"


def test_filtered_table_is_what_firmware_measured():
    log = eventlog.parse((EVENTLOG / "qemu-ovmf-2026.08.bin").read_bytes())
    (event,) = [record for record in log.records if record.type == EventType.EFI_HANDOFF_TABLES]
    filtered = smbios.filter_for_measurement(TABLE)
    assert len(filtered) == len(TABLE)
    for bank in HashAlgorithm:
        assert hashlib.new(bank.value, filtered).digest() == event.digests[bank].value


def test_composed_table_is_what_lay_in_memory():
    from_qemu = [s for s in smbios.structures(TABLE) if s.type not in (0, smbios.END_OF_TABLE)]
    assert [s.type for s in from_qemu] == [1, 3, 4, 16, 17, 19, 32]
    for end in (b"", structure(127, handle=0x7F00)):
        assert smbios.ovmf_table(smbios.encode(from_qemu) + end, type0_strings=FIRMWARE) == TABLE


def test_type_0_of_qemu_is_kept():
    own = structure(0, bytes(20), b"vendor")
    assert smbios.ovmf_table(own + structure(127)) == own + END


def test_type_0_needs_its_strings():
    with pytest.raises(PredictionError, match="vendor"):
        smbios.ovmf_table(structure(1, bytes(23)))
    for wrong in (("", "a", "b"), ("a\0", "b", "c"), ("é", "b", "c")):
        with pytest.raises(PredictionError, match="ASCII"):
            smbios.ovmf_table(b"", type0_strings=wrong)


def test_type_0_takes_the_first_free_handle():
    table = smbios.ovmf_table(structure(1, handle=0) + structure(2, handle=1), type0_strings=FIRMWARE)
    assert [s.handle for s in smbios.structures(table)] == [0, 1, 2, 0xFEFF]


def test_structures():
    first, second = smbios.structures(structure(1, b"\1\2", b"one", b"two") + structure(9) + END)[:2]
    assert (first.type, first.handle, first.strings) == (1, 0x100, (b"one", b"two"))
    assert first.formatted == b"\1\6\0\1\1\2"
    assert second.strings == ()
    assert smbios.encode((first, second)) == structure(1, b"\1\2", b"one", b"two") + structure(9)


# Rules: edk2 SmbiosMeasurementDxe; bodies by hand. Offsets count from the structure's start, so -4 in the body.
def body(size, **values):
    data = bytearray(b"\xee" * size)
    for offset, value in values.items():
        data[int(offset[1:], 16) - 4] = value
    return bytes(data)


@pytest.mark.parametrize("kind", [11, 15, 18, 31, 33, 128, 255])
def test_whole_structure_is_cleared(kind):
    data = structure(kind, b"\1\2\3", b"OEM")
    assert smbios.filter_for_measurement(data) == data[:4] + bytes(len(data) - 4)


@pytest.mark.parametrize(
    ("kind", "size", "strings", "plain"),
    [
        (1, 23, [0x07], [(0x08, 16), (0x18, 1)]),
        (2, 11, [0x07, 0x0A], []),
        (3, 18, [0x07, 0x08], []),
        (4, 44, [0x20, 0x21, 0x22], [(0x11, 1), (0x16, 2), (0x23, 3), (0x2A, 6)]),
        (17, 36, [0x18, 0x19, 0x1A], []),
        (22, 22, [0x07], [(0x10, 4)]),
        (23, 9, [], [(0x07, 2)]),
        (27, 11, [], [(0x0C, 2)]),
        (39, 18, [0x08, 0x09, 0x0A], []),
        (0, 22, [], []),
        (16, 19, [], []),
        (32, 7, [], []),
    ],
)
def test_fields_of_single_machines_are_blanked(kind, size, strings, plain):
    texts = [b"keep", *(b"secret%d" % i for i in range(len(strings)))]
    source = bytearray(structure(kind, body(size), *texts))
    expected = bytearray(source)
    for number, offset in enumerate(strings, start=2):
        source[offset], expected[offset] = number, 0
    for offset, length in plain:
        expected[offset : offset + length] = bytes(length)
    for text in texts[1:]:
        expected = expected.replace(text, b" " * len(text))
    assert smbios.filter_for_measurement(bytes(source)) == bytes(expected)


def test_field_beyond_the_formatted_area_is_left_alone():
    data = structure(1, body(4, x07=0), b"text")  # ends before the UUID at 0x08
    assert smbios.filter_for_measurement(data) == data


def test_reference_to_no_string_stays():
    data = structure(2, body(7, x07=0, x0a=0), b"text")
    assert smbios.filter_for_measurement(data) == data


CORRUPT = {
    "length-below-header": b"\1\3\0\0\0\0",
    "formatted-area-cut": b"\1\x20\0\0\0\0",
    "strings-without-end": structure(1, b"", b"text")[:-1],
    "header-cut": b"\1",
    "data-after-end": END + b"\1",
}


@pytest.mark.parametrize("name", sorted(CORRUPT))
def test_corrupt_table(name):
    for parse in (smbios.structures, smbios.filter_for_measurement):
        with pytest.raises(FormatError):
            parse(CORRUPT[name])


def test_padding_after_the_end_is_allowed():
    assert len(smbios.structures(END + bytes(10))) == 1


def test_reference_to_a_missing_string():
    with pytest.raises(FormatError, match="refers to string 2"):
        smbios.filter_for_measurement(structure(2, body(7, x07=2, x0a=0), b"only one"))


@pytest.mark.parametrize(
    "data",
    [
        bytes(smbios.MAX_TABLE_SIZE + 1),
        structure(9) * (smbios.MAX_STRUCTURES + 1),
        structure(1, b"", *[b"s"] * (smbios.MAX_STRINGS + 1)),
    ],
)
def test_limits(data):
    with pytest.raises(LimitError):
        smbios.structures(data)


@given(st.binary(max_size=300))
def test_random_bytes_never_escape(data):
    with contextlib.suppress(FormatError):
        smbios.filter_for_measurement(data)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 389), st.integers(0, 255)), max_size=5), st.integers(0, 390))
def test_mutations_never_escape(changes, length):
    data = bytearray(TABLE)
    for offset, value in changes:
        data[offset] = value
    with contextlib.suppress(FormatError):
        parsed = smbios.structures(bytes(data[:length]))
        assert bytes(data[:length]).startswith(smbios.encode(parsed))
        smbios.filter_for_measurement(bytes(data[:length]))
