"""Sections as systemd-stub selects them (systemd 257, src/boot/pe.c)."""

import launch_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, MeasurementError, PredictionError
from measurements.formats import uki
from measurements.formats.uki import ImageKind


def test_kind_stub_and_sections():
    image = uki.parse(samples.UKI)
    assert image.kind is ImageKind.UKI
    assert image.stub == 257
    assert {name: image.data(name) for name in image.sections} == dict(samples.SECTIONS)


def test_the_first_section_of_a_name_wins_and_empty_ones_do_not_exist():
    image = uki.parse(
        samples.uki([(".linux", b"1"), (".osrel", b"a"), (".osrel", b"b"), (".uname", b""), (".uname", b"x")])
    )
    assert image.data(".osrel") == b"a"
    assert ".uname" not in image.sections


def test_the_first_profile_overrides_the_base():
    image = uki.parse(
        samples.uki(
            [
                (".linux", b"1"),
                (".cmdline", b"base"),
                (".osrel", b"o"),
                (".profile", b"p0"),
                (".cmdline", b"zero"),
                (".profile", b"p1"),
                (".cmdline", b"one"),
            ]
        )
    )
    assert image.data(".cmdline") == b"zero"
    assert image.data(".profile") == b"p0"
    assert image.data(".osrel") == b"o"


def test_bytes_beyond_the_file_are_zeros_and_padding_is_left_out():
    image = uki.parse(samples.uki([(".linux", b"1"), (".initrd", b"abc", 5000), (".osrel", b"abcdef", 2)]))
    assert image.data(".initrd") == b"abc" + bytes(4997)
    assert image.data(".osrel") == b"ab"


@pytest.mark.parametrize(
    "text", [b"#### LoaderInfo: systemd-boot 257 ####", b"#### LoaderInfo: systemd-stub v? ####", b""]
)
def test_other_magic_is_no_stub_release(text):
    assert uki.parse(samples.uki([(".linux", b"1"), (".sdmagic", text)], stub=None)).stub is None


@pytest.mark.parametrize("sections", [[(".osrel", b"x")], [(".cmdline", b"x")]])
def test_a_uki_without_kernel_is_an_error(sections):
    with pytest.raises(PredictionError, match=r"no \.linux section"):
        uki.parse(samples.uki(sections))


def test_a_kernel_and_another_loader():
    assert uki.parse(samples.KERNEL).kind is ImageKind.LINUX
    assert (
        uki.parse(
            samples.pe_image([(".text", b"x"), (".osrel", b"sd-boot has one"), (".sdmagic", b"systemd-boot")])
        ).kind
        is ImageKind.FOREIGN
    )


def test_kernel_facts():
    assert uki.kernel_version(samples.kernel(version=b"6.1.0-13-amd64 (x@y)")) == (6, 1)
    assert uki.kernel_version(samples.kernel(version=b"no number")) is None
    assert uki.kernel_version(samples.pe_image([(".text", b"x")])) is None
    assert uki.takes_initrd_from_stub(uki.parse_kernel(samples.KERNEL))
    assert not uki.takes_initrd_from_stub(uki.parse_kernel(samples.kernel(major_image_version=0)))


def test_a_kernel_without_efi_stub_is_an_error():
    with pytest.raises(PredictionError, match="CONFIG_EFI_STUB"):
        uki.parse_kernel(b"\x7fELF" + bytes(1000))


def test_no_image():
    with pytest.raises(FormatError):
        uki.parse(b"MZ")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_ukis_raise_nothing_else(data):
    image = bytearray(samples.UKI)
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, 0x500))] = data.draw(st.integers(0, 255))
    try:
        parsed = uki.parse(bytes(image[: data.draw(st.integers(0, len(image)))]))
        for name in parsed.sections:
            if parsed.sections[name].virtual_size < 1 << 20:
                parsed.data(name)
        if parsed.kind is ImageKind.UKI and parsed.sections[".linux"].virtual_size < 1 << 20:
            uki.takes_initrd_from_stub(uki.parse_kernel(parsed.data(".linux")))
    except MeasurementError:
        pass
