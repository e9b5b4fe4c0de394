"""IGVM files: layout after igvm_defs, limits, and hostile bytes."""

import contextlib
import struct

import igvm_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.formats import igvm
from measurements.formats.igvmheaders import (
    IdBlock,
    Other,
    PageData,
    SupportedPlatform,
    VpContext,
    header_name,
    runs,
)

SMALL = samples.small().build()


def test_headers_in_order():
    file = igvm.parse(SMALL)
    assert [header_name(header) for header in file.headers] == [
        "supported-platform", "guest-policy", "page-data", "page-data", "page-data", "page-data", "page-data",
        "parameter-area", "parameter-insert", "vp-context",
    ]  # fmt: skip
    first, *_, third = [header for header in file.headers if isinstance(header, PageData)][:3]
    assert (first.address, bytes(first.data)) == (0x1000, b"\1" * 4096)
    assert third.data is None
    (platform,) = file.platforms()
    assert platform == SupportedPlatform(mask=1, platform=2, version=1, highest_vtl=0, shared_boundary=0)
    assert isinstance(file.headers[-1], VpContext) and file.headers[-1].address == samples.VMSA_ADDRESS


def test_version_2():
    file = igvm.parse(samples.File(version=2).add(samples.platform()).page(0x1000, bytes(4096)).build())
    assert file.version == 2 and len(file.headers) == 2


def test_pages_in_a_row_are_one_run():
    counts = [(header_name(header), count) for header, count in runs(igvm.parse(SMALL).headers)]
    assert counts[2:4] == [("page-data", 2), ("page-data", 1)]


def test_large_pages():
    data = samples.File().add(samples.platform()).page(2 << 20, bytes(2 << 20), flags=1).build()
    page = igvm.parse(data).headers[-1]
    assert page.size == 2 << 20 and len(page.data) == 2 << 20


def test_id_block():
    data = samples.File().add(samples.platform()).id_block(b"d" * 48).build()
    block = igvm.parse(data).headers[-1]
    assert isinstance(block, IdBlock) and block.launch_digest == b"d" * 48
    assert (block.guest_svn, block.author_key_enabled) == (3, True)


def test_unknown_headers_are_listed():
    data = samples.File().add(samples.header(0x80000777, b"abcd")).build()
    assert igvm.parse(data).headers == (Other(type=0x777, size=4, ignorable=True),)


def changed(offset, data):
    return samples.seal(SMALL[:offset] + data + SMALL[offset + len(data) :])


HEADERS = 24
FIRST_PAGE = HEADERS + 2 * 24


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "magic needs 4 bytes"),
        (b"IGVN" + SMALL[4:], "begins with b'IGVN'"),
        (changed(4, struct.pack("<I", 3))[:-1] + b"\0", "version 3"),
        (SMALL[:-1], "it is cut or padded"),
        (SMALL + b"\0", "it is cut or padded"),
        (SMALL[:HEADERS] + b"\2" + SMALL[HEADERS + 1 :], "checksum"),
        (changed(8, struct.pack("<I", 20)), "leave the file or overlap its start"),
        (changed(12, struct.pack("<I", 1 << 30)), "leave the file or overlap its start"),
        (changed(HEADERS + 8, struct.pack("<I", 3)), "has not exactly one bit"),
        (changed(FIRST_PAGE + 4, struct.pack("<I", 20)), "page-data at offset"),
        (changed(FIRST_PAGE + 8, struct.pack("<Q", 0x1001)), "no multiple of 0x1000"),
        (changed(FIRST_PAGE + 20, struct.pack("<I", 1 << 31)), "refers to 4096 bytes at 2147483648"),
        (changed(FIRST_PAGE + 20, struct.pack("<I", 8)), "refers to 4096 bytes at 8"),
        (changed(FIRST_PAGE + 24, struct.pack("<I", 8)), "reserved bits are set"),
        (
            samples.File().page(0x1000).add(samples.platform()).build(),
            "come after those of a later one",
        ),
        (samples.File().parameter(0x1000, 0x1001).build(), "expected a multiple of 4096"),
        (samples.File().add(struct.pack("<II", 0x30E, 4) + b"abcd" + b"\1" * 4).build(), "padding"),
        (samples.File().add(struct.pack("<II", 0x30E, 400)).build(), "needs 400 bytes"),
    ],
)
def test_malformed_files(data, message):
    with pytest.raises(FormatError, match=message):
        igvm.parse(data)


def test_limits(monkeypatch):
    monkeypatch.setattr(igvm, "MAX_HEADERS", 3)
    with pytest.raises(LimitError, match="more than 3 headers"):
        igvm.parse(SMALL)
    monkeypatch.setattr(igvm, "MAX_FILE_SIZE", 100)
    with pytest.raises(LimitError, match="the limit is 100"):
        igvm.parse(SMALL)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_files_raise_nothing_else(data):
    mutated = bytearray(SMALL)
    end = 24 + struct.unpack_from("<I", SMALL, 12)[0]
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(4, end - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError, struct.error):
        mutated = bytearray(samples.seal(bytes(mutated)))
    with contextlib.suppress(FormatError):
        igvm.parse(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))
    with contextlib.suppress(FormatError):
        igvm.parse(bytes(mutated))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_headers_raise_nothing_else(body):
    raw = struct.pack("<4sIIIII", b"IGVM", 1, 24, len(body), 24 + len(body), 0) + body
    with contextlib.suppress(FormatError):
        igvm.parse(samples.seal(raw))
