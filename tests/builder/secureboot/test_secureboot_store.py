"""Enrolled variable stores, against one that firmware wrote."""

from __future__ import annotations

import lzma
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import ImageError
from builder.image.secureboot.store import enrol
from builder.image.secureboot.variables import NOTHING, VENDORS, AuthenticatedVariable
from measurements.errors import FormatError
from measurements.formats import efivar, varstore

SNAKEOIL = Path(__file__).parents[2] / "vectors" / "secureboot" / "ovmf-2025.02-snakeoil.vars.fd.xz"
HEADERS = 72 + 28


@pytest.fixture(scope="module")
def firmwares():
    """A store that edk2 enrolled itself."""
    return lzma.decompress(SNAKEOIL.read_bytes())


@pytest.fixture(scope="module")
def empty(firmwares):
    """The same store as it was before: its headers, and free space."""
    (size,) = struct.unpack_from("<I", firmwares, 72 + 16)
    return firmwares[:HEADERS] + b"\xff" * (72 + size - HEADERS) + firmwares[72 + size :]


def test_records_are_those_that_firmware_writes(firmwares, empty):
    contents = varstore.parse(firmwares)
    for name, guid in VENDORS.items():
        data = contents[guid, name]
        text = (name + "\0").encode("utf-16-le")
        at = firmwares.rindex(guid.bytes_le + text + data) - 44
        expected = firmwares[at : at + 60 + len(text) + len(data)]
        assert expected[2] == 0x3F, "the live record"
        variable = AuthenticatedVariable(name=name, guid=guid, data=data, time=expected[16:32])
        made = enrol(empty, [variable])[HEADERS : HEADERS + len(expected)]
        assert made == expected, name


def test_dbx_is_what_firmware_enrols_where_nothing_is_forbidden(firmwares):
    (found,) = efivar.parse_signature_lists(varstore.parse(firmwares)[VENDORS["dbx"], "dbx"])
    assert [entry.data for entry in found.signatures] == [NOTHING]


def test_what_is_enrolled_is_read_back(empty, enrolment):
    variables = enrolment.variables()
    store = enrol(empty, variables)
    assert varstore.parse(store) == {(each.guid, each.name): each.data for each in variables}
    assert len(store) == len(empty) and store[:HEADERS] == empty[:HEADERS]
    assert enrol(empty, variables) == store


def test_stores_in_use_are_refused(empty, firmwares, enrolment):
    with pytest.raises(ImageError, match="expected an empty one"):
        enrol(firmwares, enrolment.variables())
    deleted = bytearray(enrol(empty, enrolment.variables()[:1]))
    deleted[HEADERS + 2] = 0x3D  # VAR_ADDED & VAR_DELETED
    assert varstore.parse(bytes(deleted)) == {}
    with pytest.raises(ImageError, match="deleted variables"):
        enrol(bytes(deleted), enrolment.variables())


def test_a_full_store(empty, enrolment):
    variable = enrolment.variables()[0]
    (size,) = struct.unpack_from("<I", empty, 72 + 16)
    room = size - 28 - 60 - len("PK\0") * 2
    fits = replace(variable, data=bytes(room))
    assert varstore.parse(enrol(empty, [fits]))[variable.guid, "PK"] == bytes(room)
    with pytest.raises(ImageError, match="no room for PK"):
        enrol(empty, [replace(variable, data=bytes(room + 1))])


@pytest.mark.parametrize("store", [b"", bytes(4096), b"\xff" * 540672])
def test_only_variable_stores_are_enrolled(store, enrolment):
    with pytest.raises(FormatError):
        enrol(store, enrolment.variables())
