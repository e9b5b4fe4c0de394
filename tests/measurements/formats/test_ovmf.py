"""Firmware files: the layout is that of the UEFI PI specification, built by hand in launch_samples."""

import contextlib
import struct
from uuid import UUID

import launch_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.formats import ovmf

SMBIOS_DRIVER = UUID("4110465d-5ff3-4f4b-b580-24ed0d06747a")
# The body that spec and real logs show for OVMF's type 0 structure.
TYPE0 = bytes.fromhex("001a0000010200e80300080000000000000000" + "1c0000ffff0000")


def utf16(text):
    return text.encode("utf-16-le") + b"\0\0"


def aligned(*parts, padding):
    out = b""
    for part in parts:
        out += part
        out += padding[: -len(out) % 8]
    return out


def with_smbios(image):
    driver = (SMBIOS_DRIVER, 7, samples.section(0x10, image))
    return samples.firmware(dxefv=samples.volume(ovmf.DXEFV, driver))


def test_volumes_are_found_inside_the_compressed_volume():
    parsed = ovmf.parse(samples.FIRMWARE)
    assert parsed.peifv == samples.volume(ovmf.PEIFV, (UUID(int=1), 4, samples.section(0x19, b"pei")))
    assert len(parsed.dxefv) == 0x10000
    assert parsed.drivers == {samples.SHELL}
    assert parsed.named_kernel_blobs
    assert not parsed.verifies_images
    assert parsed.smbios is None


def test_smbios_strings_are_those_behind_the_default_structure():
    # Compilers pad with no-ops; "0f1f4000" before a string reads like "\x1f@" and must not become a part of it.
    image = aligned(
        utf16("02/02/2022"),
        TYPE0,
        utf16("11/08/2025"),
        utf16("1.2-3"),
        utf16("Some vendor"),
        padding=b"\x0f\x1f@\0\x0f\x1f@\0",
    )
    assert ovmf.parse(with_smbios(image)).smbios == ovmf.SmbiosStrings(
        vendor="Some vendor", version="1.2-3", release_date="11/08/2025"
    )


@pytest.mark.parametrize(
    "strings",
    [
        ("1.2-3", "Some vendor"),
        ("11/08/2025", "1.2-3"),
        ("11/08/2025", "1.2-3", "Some vendor", "one more"),
        ("2025-11-08", "1.2-3", "V 1"),
    ],
)
def test_other_smbios_layouts_are_not_guessed_at(strings):
    image = aligned(TYPE0, *map(utf16, strings), padding=bytes(8))
    assert ovmf.parse(with_smbios(image)).smbios is None


def test_a_build_without_pei_has_no_peifv():
    without = samples.firmware(peifv=samples.volume(UUID(int=5)))
    with pytest.raises(FormatError, match="no PEIFV volume"):
        ovmf.parse(without)


def test_not_a_firmware():
    with pytest.raises(FormatError, match="no PEIFV"):
        ovmf.parse(bytes(0x20000))


def test_a_cut_stream_is_named():
    firmware = bytearray(samples.FIRMWARE)
    at = firmware.find(b"\x5d\x00\x00\x80\x00")  # the header that LZMA "alone" streams begin with
    firmware[at + 13 : at + 64] = bytes(51)
    with pytest.raises(FormatError):
        ovmf.parse(bytes(firmware))


def test_a_volume_longer_than_the_file_is_refused():
    firmware = bytearray(samples.FIRMWARE)
    struct.pack_into("<Q", firmware, 0x1000 + 32, 1 << 40)
    with pytest.raises(FormatError, match="claims"):
        ovmf.parse(bytes(firmware))


def test_size_limit(monkeypatch):
    monkeypatch.setattr(ovmf, "MAX_FIRMWARE_SIZE", 100)
    with pytest.raises(LimitError, match="limit is 100"):
        ovmf.parse(samples.FIRMWARE)


def test_decompressed_size_limit(monkeypatch):
    monkeypatch.setattr(ovmf, "MAX_DECOMPRESSED_SIZE", 1 << 16)
    with pytest.raises(FormatError):
        ovmf.parse(samples.FIRMWARE)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_firmware_raises_nothing_else(data):
    firmware = bytearray(samples.FIRMWARE)
    for _ in range(data.draw(st.integers(1, 6))):
        firmware[data.draw(st.integers(0, len(firmware) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        ovmf.parse(bytes(firmware[: data.draw(st.integers(0, len(firmware)))]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_volumes_raise_nothing_else(data):
    volume = bytearray(
        samples.volume(ovmf.DXEFV, (SMBIOS_DRIVER, 7, samples.section(0x10, TYPE0)), size=0x400)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        volume[data.draw(st.integers(0, 0x100))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        ovmf.parse(samples.firmware(dxefv=bytes(volume)))
