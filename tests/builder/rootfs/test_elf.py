from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rootfs_samples import elf, module

from builder.elf import MAX_PROGRAM_HEADERS, is_elf, parse_elf, section
from measurements.errors import FormatError, LimitError

NOTE = json.dumps(
    [{"feature": "tpm", "description": "d", "priority": "suggested", "soname": ["libtss2-esys.so.0"]}]
).encode()
SAMPLE = elf(
    needed=["libc.so.6", "libm.so.6"], runpath="/usr/lib/systemd:$ORIGIN/../lib", soname="libx.so.1",
    interpreter="/lib64/ld-linux-x86-64.so.2", notes=[NOTE],
)  # fmt: skip
MODULE = module(name="dm_verity", depends="dm-mod,dm-bufio", firmware=["a.bin", "b.bin"])


def test_the_dynamic_section_and_notes():
    found = parse_elf(SAMPLE)
    assert found.needed == ("libc.so.6", "libm.so.6")
    assert found.runpath == ("/usr/lib/systemd", "$ORIGIN/../lib")
    assert (found.soname, found.interpreter) == ("libx.so.1", "/lib64/ld-linux-x86-64.so.2")
    assert [(d.feature, d.priority, d.sonames) for d in found.dlopen] == [
        ("tpm", "suggested", ("libtss2-esys.so.0",))
    ]
    assert (found.type, found.machine) == (3, 62)


def test_runpath_hides_rpath():
    assert parse_elf(elf(rpath="/old")).runpath == ("/old",)
    assert parse_elf(elf(rpath="/old", runpath="/new")).runpath == ("/new",)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils are not installed")
@pytest.mark.parametrize("program", ["/bin/ls", "/bin/bash", sys.executable])
def test_it_agrees_with_readelf(program):
    path = Path(program).resolve()
    if not path.exists() or not is_elf(path.read_bytes()):
        pytest.skip(f"{program} is no ELF file here")
    listing = subprocess.run(
        ["readelf", "-W", "-d", "-l", path], capture_output=True, text=True, env={"LC_ALL": "C"}, check=True
    ).stdout
    found = parse_elf(path.read_bytes())
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", listing)
    assert [found.interpreter] == re.findall(r"program interpreter: (.*)\]", listing)


def test_a_section_by_name():
    modinfo = section(MODULE, ".modinfo")
    assert modinfo is not None
    assert bytes(modinfo).split(b"\0")[:2] == [b"name=dm_verity", b"depends=dm-mod,dm-bufio"]
    assert section(MODULE, ".modinf") is None
    assert section(MODULE, ".text") is None


def test_other_classes_are_refused():
    damaged = bytearray(SAMPLE)
    damaged[4] = 1  # ELFCLASS32
    with pytest.raises(FormatError, match="class 64"):
        parse_elf(damaged)
    with pytest.raises(FormatError, match="expected an ELF file"):
        parse_elf(b"#!/bin/sh\n")


def test_too_many_program_headers():
    damaged = bytearray(SAMPLE)
    damaged[56:58] = (MAX_PROGRAM_HEADERS + 1).to_bytes(2, "little")
    with pytest.raises(LimitError):
        parse_elf(bytes(damaged) + bytes(56 * MAX_PROGRAM_HEADERS))


@pytest.mark.parametrize(
    "note",
    [b"{", b"{}", b"[1]", b'[{"soname": "x"}]', b'[{"soname": ["x"], "priority": "vital"}]', b"[" * 60_000],
)
def test_dlopen_notes_that_are_none(note):
    with pytest.raises(FormatError):
        parse_elf(elf(notes=[note]))


def parse_all(data):
    for parse in (parse_elf, lambda raw: section(raw, ".modinfo")):
        with contextlib.suppress(FormatError):
            parse(data)


@given(st.binary(max_size=512), st.booleans())
def test_random_bytes_end_in_a_format_error(data, starts_well):
    parse_all(SAMPLE[:64] + data if starts_well else data)


@given(
    sample=st.sampled_from([SAMPLE, MODULE]),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 1 << 16),
)
@settings(max_examples=200)
def test_damaged_files_end_in_a_format_error(sample, changes, length):
    damaged = bytearray(sample)
    for offset, value in changes:
        damaged[offset % len(damaged)] = value
    parse_all(bytes(damaged[: len(damaged) - length % 64]))
    parse_all(bytes(damaged[: length % (len(damaged) + 1)]))
