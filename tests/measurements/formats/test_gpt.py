import lzma
import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import EventType, HashAlgorithm, digests_of
from measurements.formats import eventlog, gpt

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"

#: First 34 blocks of the disk that the recorded boots had; partitioned by sgdisk 1.0.9.
DISK = lzma.decompress((EVENTLOG / "disk-prefix.xz").read_bytes())


def table(
    entries, *, sector=512, count=128, entry_size=128, my_lba=1, revision=0x10000, entries_lba=2, header=92
):
    """A disk prefix, written without the module under test."""
    body = b"".join(entries).ljust(min(count * entry_size, 1 << 21), b"\0")

    def head(crc):
        return struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", revision, header, crc, 0, my_lba, 999, 34, 990,
            UUID(int=5).bytes_le, entries_lba, count, entry_size, zlib.crc32(body),
        )  # fmt: skip

    block = head(zlib.crc32(head(0).ljust(header, b"\0")[:header]) if header <= sector else 0)
    return bytes(sector) + block.ljust(sector, b"\0") + body


def entry(number, *, size=128, first=40, last=50, name="x"):
    head = struct.pack(
        "<16s16sQQQ", UUID(int=number).bytes_le, UUID(int=100 + number).bytes_le, first, last, 0
    )
    return (head + name.encode("utf-16-le").ljust(72, b"\0")).ljust(size, b"\0")


def test_partitions_are_those_that_sgdisk_wrote():
    parsed = gpt.parse(DISK)
    assert parsed.disk_guid == UUID("11111111-2222-3333-4444-555555555555")
    assert (parsed.alternate_lba, parsed.first_usable_lba, parsed.last_usable_lba) == (131071, 34, 131038)
    esp, root = parsed.partitions
    assert (esp.number, esp.name, esp.first_lba, esp.last_lba) == (1, "ESP", 2048, 67583)
    assert esp.type == UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    assert esp.unique == UUID("aaaaaaaa-2222-3333-4444-555555555555")
    assert (root.number, root.name, root.first_lba, root.last_lba) == (2, "root-x86-64", 67584, 131038)


@pytest.mark.parametrize("name", ["qemu-ovmf-2025.02", "qemu-ovmf-2026.08"])
def test_measured_bytes_are_what_firmware_measured(name):
    log = eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes())
    (event,) = [record for record in log.records if record.type == EventType.EFI_GPT_EVENT]
    measured = gpt.parse(DISK).measured_bytes()
    assert measured == event.data
    assert len(measured) == 356  # two partitions
    assert digests_of(measured, tuple(HashAlgorithm)) == event.digests


def test_event_parses_as_the_disk_does():
    disk, event = gpt.parse(DISK), gpt.parse_event(gpt.parse(DISK).measured_bytes())
    assert event.partitions == disk.partitions
    assert (event.disk_guid, event.alternate_lba) == (disk.disk_guid, disk.alternate_lba)
    assert event.last_usable_lba == disk.last_usable_lba


@pytest.mark.parametrize("sector", [512, 4096])
def test_sector_size(sector):
    disk = table([entry(1)], sector=sector)
    assert gpt.detect_sector_size(disk) == sector
    parsed = gpt.parse(disk, sector_size=sector)
    assert parsed.sector_size == sector
    assert len(parsed.partitions) == 1


def test_no_table():
    with pytest.raises(FormatError, match="no GPT"):
        gpt.detect_sector_size(bytes(8192))
    with pytest.raises(FormatError, match="signature"):
        gpt.parse(bytes(8192))
    with pytest.raises(FormatError, match="sector size 1024"):
        gpt.parse(DISK, sector_size=1024)


def test_unused_entries_are_neither_counted_nor_measured():
    used, empty = [entry(1), entry(3, name="third")], bytes(128)
    parsed = gpt.parse(table([used[0], empty, used[1]]))
    assert [p.number for p in parsed.partitions] == [1, 3]
    assert parsed.measured_bytes()[92:] == struct.pack("<Q", 2) + b"".join(used)


def test_entries_keep_their_own_size():
    parsed = gpt.parse(table([entry(1, size=256)], entry_size=256, count=4))
    assert len(parsed.measured_bytes()) == 92 + 8 + 256


def test_name_without_terminator_fills_its_field():
    assert gpt.parse(table([entry(1, name="n" * 36)])).partitions[0].name == "n" * 36


@pytest.mark.parametrize("offset", [512 + 8, 512 + 24, 512 + 40, 512 + 56, 512 + 91])
def test_flipped_header_byte_is_named(offset):
    data = bytearray(DISK)
    data[offset] ^= 1
    with pytest.raises(FormatError, match="header CRC32"):
        gpt.parse(bytes(data))


@pytest.mark.parametrize("offset", [1024, 1024 + 128, 17407])
def test_flipped_table_byte_is_named(offset):
    data = bytearray(DISK)
    data[offset] ^= 1
    with pytest.raises(FormatError, match="table CRC32"):
        gpt.parse(bytes(data))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"my_lba": 2}, "MyLBA"),
        ({"revision": 0x20000}, "revision"),
        ({"entries_lba": 1}, "block 1"),
        ({"entry_size": 64}, "power of two"),
        ({"entry_size": 384}, "power of two"),
        ({"header": 91}, "header size"),
        ({"header": 513}, "header size"),
        ({"entries_lba": 1 << 63}, "pass more of the disk"),
    ],
)
def test_forbidden_field(arguments, message):
    with pytest.raises(FormatError, match=message):
        gpt.parse(table([], **arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": gpt.MAX_ENTRIES + 1},
        {"entry_size": 2 * gpt.MAX_ENTRY_SIZE, "count": 1},
        {"entry_size": gpt.MAX_ENTRY_SIZE, "count": gpt.MAX_ENTRIES},
        {"count": 0xFFFFFFFF, "entry_size": 1 << 31},
    ],
)
def test_limits(arguments):
    with pytest.raises(LimitError):
        gpt.parse(table([], **arguments))


def test_partition_that_ends_before_it_starts():
    with pytest.raises(FormatError, match="lies before"):
        gpt.parse(table([entry(1, first=9, last=8)]))


def test_prefix_that_ends_inside_the_table():
    with pytest.raises(FormatError, match="pass more"):
        gpt.parse(DISK[:-1])


def test_event_with_too_many_or_too_few_bytes():
    data = gpt.parse(DISK).measured_bytes()
    for wrong in (data[:-1], data + b"\0", data[:92], b"", data[:92] + struct.pack("<Q", 1) + bytes(128)):
        with pytest.raises(FormatError):
            gpt.parse_event(wrong)
    with pytest.raises(LimitError):
        gpt.parse_event(data[:92] + b"\xff" * 8)


@given(st.binary(max_size=3000), st.sampled_from([512, 4096]))
def test_random_bytes_never_escape(data, sector):
    for parse in (lambda: gpt.parse(data, sector_size=sector), lambda: gpt.parse_event(data)):
        with pytest.raises(FormatError):
            parse()


@settings(max_examples=200)
@given(st.integers(512, 512 + 95), st.integers(0, 255), st.integers(600, len(DISK)))
def test_mutations_never_escape(offset, value, length):
    data = bytearray(DISK)
    data[offset] = value
    data[528:532] = struct.pack("<I", zlib.crc32(bytes(data[512:528]) + bytes(4) + bytes(data[532:604])))
    try:
        parsed = gpt.parse(bytes(data[:length]))
        assert gpt.parse_event(parsed.measured_bytes()).disk_guid == parsed.disk_guid
    except FormatError:
        pass
