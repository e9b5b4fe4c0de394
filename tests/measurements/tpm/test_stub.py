"""The stub's command line and cpio archives, against systemd 257's source and a real kernel's reading of them."""

import launch_samples as samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.formats import uki
from measurements.tpm import stub, stub_cpio


def command_line(data):
    return stub.command_line(uki.parse(samples.uki([(".linux", b"k"), (".cmdline", data)])))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (b"quiet", "quiet"),
        (b" \t quiet  splash\n", "quiet  splash"),
        (b"a\tb\x7fc\nd", "a b c d"),
        (b"end\0beyond", "end"),
        (b" \n", ""),
        ("grün €".encode(), "grün €"),
        ("no \U0001f600 pair".encode(), "no  pair"),  # beyond one UTF-16 unit: dropped
        (b"over\xc1\x81long", "overAlong"),  # decoded without a check
        (b"broken\xe2\x28xyz", "brokenyz"),  # a broken sequence costs the length that it claims
        (b"stray\x80byte", "straybyte"),
        (b"cut\xe2\x82", "cut"),
    ],
)
def test_command_line(section, expected):
    # src/boot/efi-string.c xstrn8_to_16, src/boot/util.c mangle_stub_cmdline
    assert command_line(section) == (expected + "\0").encode("utf-16-le")


def test_no_command_line():
    assert stub.command_line(uki.parse(samples.uki([(".linux", b"k")]))) is None


@given(
    st.text(
        st.characters(min_codepoint=0x21, max_codepoint=0xD7FF, exclude_characters="\x7f"),
        min_size=1,
        max_size=40,
    )
)
def test_plain_text_is_taken_as_it_is(text):
    assert command_line(text.encode()) == (text + "\0").encode("utf-16-le")


def test_archive_bytes():
    # Field by field as src/boot/cpio.c writes them.
    def entry(inode, mode, size, name):
        head = f"070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:032x}{len(name) + 1:08x}{0:08x}"
        data = head.encode() + name.encode() + b"\0"
        return data + bytes(-len(data) % 4)

    trailer = (
        b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!" + bytes(4)
    )
    assert len(trailer) == 124
    assert stub_cpio.archive(
        ".extra/a", {"f": b"12345", "g": b""}, directory_mode=0o500, file_mode=0o400
    ) == (
        entry(1, 0o40555, 0, ".extra")
        + entry(2, 0o40500, 0, ".extra/a")
        + entry(3, 0o100400, 5, ".extra/a/f")
        + b"12345\0\0\0"
        + entry(4, 0o100400, 0, ".extra/a/g")
        + trailer
    )


def test_one_piece_is_passed_unpadded_and_several_are_padded():
    def initrd(*sections):
        return b"".join(stub.initrd_chunks(uki.parse(samples.uki([(".linux", b"k"), *sections]))))

    assert initrd((".initrd", b"12345")) == b"12345"
    assert initrd((".initrd", b"12345"), (".ucode", b"u")) == b"u\0\0\x0012345\0\0\0"
    assert initrd() == b""
