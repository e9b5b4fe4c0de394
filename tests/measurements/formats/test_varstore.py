import contextlib
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import EventType
from measurements.formats import efivar, eventlog, varstore

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"
GUID = UUID("11111111-2222-3333-4444-555555555555")
HEADER = 72


def variable(name, data, *, state=0x3F, start=0x55AA, name_size=None, data_size=None):
    text = (name + "\0").encode("utf-16-le")
    head = struct.pack("<HBBIQ16sI", start, state, 0, 7, 0, bytes(16), 0)
    head += struct.pack(
        "<II", len(text) if name_size is None else name_size, len(data) if data_size is None else data_size
    )
    body = head + GUID.bytes_le + text + data
    return body + b"\xff" * (-len(body) % 4)


def store(*variables, size=0x1000, guid=varstore.AUTHENTICATED_VARIABLE_STORE, marks=b"\x5a\xfe", **volume):
    """A variable store file, written without the module under test."""
    total = HEADER + size
    fields = {
        "fs": varstore.SYSTEM_NV_DATA_FV,
        "length": total,
        "signature": b"_FVH",
        "header": HEADER,
        "sum": None,
    }
    fields |= volume
    head = bytes(16) + fields["fs"].bytes_le + struct.pack("<Q", fields["length"]) + fields["signature"]
    head += struct.pack("<IHHHBB", 0x4FEFF, fields["header"], 0, 0, 0, 2) + struct.pack(
        "<IIII", 1, total, 0, 0
    )
    words = struct.unpack(f"<{HEADER // 2}H", head)
    checksum = -sum(words) & 0xFFFF if fields["sum"] is None else fields["sum"]
    head = head[:50] + struct.pack("<H", checksum) + head[52:]
    body = guid.bytes_le + struct.pack("<I", size) + marks + bytes(6) + b"".join(variables)
    return head + body.ljust(size, b"\xff")


def recorded(name):
    return varstore.parse(lzma.decompress((EVENTLOG / name).read_bytes()))


@pytest.mark.parametrize("name", ["PK", "KEK", "db"])
def test_keys_are_those_that_firmware_measured(name):
    log = eventlog.parse((EVENTLOG / "qemu-ovmf-2026.08-secure-boot.bin").read_bytes())
    measured = {
        (v.guid, v.name): v.data
        for record in log.records
        if record.type == EventType.EFI_VARIABLE_DRIVER_CONFIG
        for v in [efivar.parse_variable(record.data)]
    }
    guid = efivar.IMAGE_SECURITY_DATABASE if name == "db" else efivar.GLOBAL_VARIABLE
    assert recorded("ovmf-2026.08-snakeoil.vars.fd.xz")[guid, name] == measured[guid, name]


def test_boot_variables_are_those_that_firmware_measured():
    log = eventlog.parse((EVENTLOG / "qemu-ovmf-2026.08.bin").read_bytes())
    variables = recorded("qemu-ovmf-2026.08.vars.fd.xz")
    measured = [efivar.parse_variable(r.data) for r in log.records if r.type == EventType.EFI_VARIABLE_BOOT]
    assert len(measured) == 5
    for value in measured:
        assert variables[value.guid, value.name] == value.data


def test_live_variables_only():
    parsed = varstore.parse(
        store(
            variable("Live", b"1"),
            variable("Deleted", b"2", state=0x3D),
            variable("Started", b"3", state=0x7F),
            variable("Replaced", b"old", state=0x3E),
            variable("Replaced", b"new"),
            variable("Interrupted", b"kept", state=0x3E),
            variable("Empty", b""),
        )
    )
    assert parsed == {
        (GUID, "Live"): b"1",
        (GUID, "Replaced"): b"new",
        (GUID, "Interrupted"): b"kept",
        (GUID, "Empty"): b"",
    }


def test_order_of_old_and_new_does_not_matter():
    new, old = variable("X", b"new"), variable("X", b"old", state=0x3E)
    assert varstore.parse(store(new, old)) == varstore.parse(store(old, new)) == {(GUID, "X"): b"new"}


def test_empty_and_full_store():
    assert varstore.parse(store()) == {}
    one = variable("Fill", b"x" * 10)
    assert varstore.parse(store(one, size=28 + len(one))) == {(GUID, "Fill"): b"x" * 10}


CORRUPT = {
    "empty": b"",
    "no-volume": bytes(4096),
    "other-file-system": store(fs=GUID),
    "no-signature": store(signature=b"_FVX"),
    "checksum": store(sum=1),
    "header-too-long": store(header=0x7FFE, length=0x7000),
    "header-too-short": store(header=20),
    "header-odd": store(header=73),
    "other-store": store(guid=GUID),
    "not-healthy": store(marks=b"\x5a\xff"),
    "not-formatted": store(marks=b"\xff\xfe"),
    "store-larger-than-volume": store(length=HEADER + 0x800),
    "file-cut": store()[:-1],
    "garbage-between-variables": store(variable("A", b""), b"\1\2" + bytes(80)),
    "variable-cut": store(variable("A", b"", data_size=0x10000)),
    "name-odd": store(variable("A", b"xxx", name_size=3)),
    "name-without-end": store(variable("AB", b"", name_size=4)),
    "name-empty": store(variable("A", b"", name_size=0)),
    "live-twice": store(variable("A", b"1"), variable("A", b"2")),
}


@pytest.mark.parametrize("name", sorted(CORRUPT))
def test_corrupt_store(name):
    with pytest.raises(FormatError):
        varstore.parse(CORRUPT[name])


def test_limits(monkeypatch):
    with pytest.raises(LimitError, match="name of"):
        varstore.parse(store(variable("A", b"", name_size=varstore.MAX_NAME_SIZE + 2)))
    monkeypatch.setattr(varstore, "MAX_VARIABLES", 2)
    assert len(varstore.parse(store(variable("A", b""), variable("B", b"")))) == 2
    with pytest.raises(LimitError, match="more than 2"):
        varstore.parse(store(variable("A", b""), variable("B", b""), variable("C", b"")))
    monkeypatch.setattr(varstore, "MAX_FILE_SIZE", 10)
    with pytest.raises(LimitError, match="the limit is 10"):
        varstore.parse(bytes(11))


@given(st.binary(max_size=500))
def test_random_bytes_never_escape(data):
    for start in (b"", store()[: HEADER + 28]):
        with contextlib.suppress(FormatError):
            varstore.parse(start + data)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), st.integers(1, 0x1048))
def test_mutations_never_escape(changes, length):
    data = bytearray(store(variable("First", b"data"), variable("Second", b"more data")))
    for offset, value in changes:
        data[offset] = value
    with contextlib.suppress(FormatError):
        varstore.parse(bytes(data[:length]))
