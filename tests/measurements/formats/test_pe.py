import json
from pathlib import Path

import pe_images
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import ALL_BANKS, Digest, HashAlgorithm, digests_of
from measurements.formats import pe

VECTORS = Path(__file__).parents[2] / "vectors"

#: What OVMF measured when it booted each image (tests/vectors/README.md, "pe").
MEASURED = json.loads((VECTORS / "pe" / "ovmf-authenticode.json").read_text())

#: `pesign -h -d sha256 -i FILE` (pesign 0.112) on the same image; it agrees with edk2 where the size is a
#: multiple of 8 and the sections are plain.
PESIGN = {
    "pe32-plus": "7342e245adde3648038d7a221843b8d8e249b089bf24ba10dbccce1f1b11553f",
    "pe32": "e5e4a7f54c9745039134cbf1e501b26c2ba4ff54c9553c2166655704b59dc5da",
    "certificate": "7342e245adde3648038d7a221843b8d8e249b089bf24ba10dbccce1f1b11553f",
}


@pytest.mark.parametrize("name", sorted(pe_images.ACCEPTED))
def test_authenticode_is_what_firmware_measured(name):
    digests = pe.parse(pe_images.ACCEPTED[name]).authenticode_digests()
    assert {bank.value: digest.hex() for bank, digest in digests.items()} == MEASURED[name]


def test_every_measured_image_is_tested():
    assert set(MEASURED) == set(pe_images.ACCEPTED)


@pytest.mark.parametrize("name", sorted(PESIGN))
def test_authenticode_agrees_with_pesign(name):
    assert pe.parse(pe_images.ACCEPTED[name]).authenticode(HashAlgorithm.SHA256).hex() == PESIGN[name]


@pytest.mark.parametrize("name", sorted(pe_images.REFUSED))
def test_image_that_firmware_refuses(name):
    with pytest.raises(FormatError):
        pe.parse(pe_images.REFUSED[name])


def test_one_image_with_and_without_signature_has_one_digest():
    plain, signed = pe_images.ACCEPTED["pe32-plus"], pe_images.ACCEPTED["certificate"]
    assert pe.parse(plain).authenticode_digests() == pe.parse(signed).authenticode_digests()


def test_checksum_field_is_not_hashed():
    data = bytearray(pe_images.image())
    data[pe_images.PE_OFFSET + 24 + 64] ^= 0xFF
    assert pe.parse(bytes(data)).authenticode_digests() == pe.parse(pe_images.image()).authenticode_digests()


@pytest.mark.parametrize("offset", [0, 0x70, 0x3FF, 0x400, 0x5FF, 0x600, 0x9FF])
def test_any_other_byte_changes_the_digest(offset):
    data = bytearray(pe_images.image())
    data[offset] ^= 0x20 if offset else 0
    changed = pe.parse(bytes(data)).authenticode(HashAlgorithm.SHA256)
    original = pe.parse(pe_images.image()).authenticode(HashAlgorithm.SHA256)
    assert (changed == original) == (offset == 0)


def test_image_without_dos_header_starts_with_its_pe_header():
    image = pe.parse(pe_images.image(dos=False))
    assert image.section(".text").raw_offset == 0x400


def test_sections_keep_the_order_of_the_table():
    image = pe.parse(pe_images.ACCEPTED["unsorted"])
    assert [section.name for section in image.sections] == [".text", ".one", ".two"]
    assert image.machine == 0x8664


def test_first_section_of_a_name_wins():
    image = pe.parse(
        pe_images.image(
            pe_images.part(".a", 0x1000, 0x400, b"first"), pe_images.part(".a", 0x2000, 0x600, b"second")
        )
    )
    assert image.section_data(image.section(".a")) == b"first"
    assert image.section(".b") is None


@pytest.mark.parametrize(
    ("virtual_size", "expected"),
    [(0, b""), (3, b"abc"), (6, b"abcdef"), (0x200, b"abcdef" + bytes(506)), (0x205, b"abcdef" + bytes(511))],
)
def test_section_data_is_as_in_memory(virtual_size, expected):
    section = pe_images.part(".cmd", 0x1000, 0x400, b"abcdef", virtual_size=virtual_size)
    image = pe.parse(pe_images.image(section))
    assert image.section_data(image.section(".cmd")) == expected


def test_section_without_raw_data_is_zeros():
    image = pe.parse(pe_images.ACCEPTED["no-raw-data"])
    assert image.section_data(image.section(".bss")) == bytes(0x1000)


def test_section_data_limit():
    image = pe.parse(pe_images.image(pe_images.Part(".bss", 0x1000, 0, 0, pe.MAX_ZERO_FILL + 1, None)))
    with pytest.raises(LimitError, match="claims"):
        image.section_data(image.section(".bss"))


def test_section_name_that_is_no_ascii_is_readable():
    data = pe_images.image().replace(b".text\0\0\0", b"\xff\x01text\0\0")
    assert pe.parse(data).sections[0].name == "\\xff\x01text"


def test_too_many_sections():
    count = pe.MAX_SECTIONS + 1
    header = pe_images.Part(".s", 0x20000, 0x20000, 0, 0, None)
    data = pe_images.image(*[header] * count, headers=0x10000, image_size=0x100000, fill=bytes(0x10000))
    with pytest.raises(LimitError, match="sections"):
        pe.parse(data)


def test_overlaps_that_would_take_for_ever_to_hash():
    whole = pe_images.Part(".all", 0x1000, 0x400, 0x600, 0x600, None)
    data = pe_images.image(pe_images.TEXT, pe_images.DATA, *[whole] * 8, headers=0x400)
    with pytest.raises(LimitError, match="overlaps"):
        pe.parse(data)


def test_too_large_a_file(monkeypatch):
    monkeypatch.setattr(pe, "MAX_FILE_SIZE", 100)
    with pytest.raises(LimitError, match="the limit is 100"):
        pe.parse(bytes(101))


@pytest.mark.parametrize("data", [b"", b"MZ", bytes(64), b"MZ" + bytes(500), b"\x7fELF" + bytes(500)])
def test_no_pe_image(data):
    with pytest.raises(FormatError):
        pe.parse(data)


def test_digests_per_bank():
    image = pe.parse(pe_images.image())
    assert set(image.authenticode_digests()) == set(ALL_BANKS)
    assert set(image.authenticode_digests([HashAlgorithm.SHA512])) == {HashAlgorithm.SHA512}


@given(st.binary(max_size=2000))
def test_random_bytes_never_escape(data):
    with pytest.raises(FormatError):
        pe.parse(data)


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(pe_images.ACCEPTED)),
    st.lists(st.tuples(st.integers(0, 0x3FF), st.integers(0, 255)), max_size=6),
    st.integers(0, 0x1000),
)
def test_mutations_never_escape(name, changes, length):
    data = bytearray(pe_images.ACCEPTED[name])
    for offset, value in changes:
        data[offset] = value
    try:
        image = pe.parse(bytes(data[: length or None]))
        image.authenticode_digests()
        for section in image.sections:
            if section.virtual_size < 1 << 20:
                assert len(image.section_data(section)) == section.virtual_size
    except FormatError:
        pass


def test_hash_covers_exactly_the_ranges():
    # Independent of the firmware's log: the definition, spelled out for the plainest image.
    data = pe_images.image()
    optional = pe_images.PE_OFFSET + 24
    checksum, certificates = optional + 64, optional + 112 + 32
    covered = data[:checksum] + data[checksum + 4 : certificates] + data[certificates + 8 :]
    assert pe.parse(data).authenticode_digests() == digests_of(covered)
    assert isinstance(pe.parse(data).authenticode(HashAlgorithm.SHA1), Digest)
