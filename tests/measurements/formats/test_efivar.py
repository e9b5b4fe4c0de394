import contextlib
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import EventType, HashAlgorithm, digests_of
from measurements.formats import efivar, eventlog, varstore

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"
SECURE_BOOT_LOG = eventlog.parse((EVENTLOG / "qemu-ovmf-2026.08-secure-boot.bin").read_bytes())
OWNER = UUID("a0baa8a3-041d-48a8-bc87-c36d121b5e3d")  # Debian's snakeoil keys
LIST = efivar.SignatureList(
    type=efivar.CERT_SHA256, signatures=(efivar.Signature(owner=OWNER, data=bytes(32)),) * 2
)


def events(kind):
    return [record for record in SECURE_BOOT_LOG.records if record.type == kind]


# Digests: measured-boot facts, 1.6 (recomputed there from real logs).
@pytest.mark.parametrize(
    ("guid", "name", "data", "sha256", "sha384"),
    [
        (efivar.GLOBAL_VARIABLE, "SecureBoot", b"", "ce9ce386b52e099f", "9dc3a1f80bcec915"),
        (efivar.GLOBAL_VARIABLE, "SecureBoot", b"\0", "115aa827dbccfb44", "cfa4e2c606f57262"),
        (efivar.GLOBAL_VARIABLE, "SecureBoot", b"\1", "ccfc4bb32888a345", "2cded0c6f453d4c6"),
        (efivar.GLOBAL_VARIABLE, "PK", b"", "dea7b80ab53a3daa", "6f2e3cbc14f9def8"),
        (efivar.GLOBAL_VARIABLE, "KEK", b"", "e670e121fcebd473", "d607c0efb41c0d75"),
        (efivar.IMAGE_SECURITY_DATABASE, "db", b"", "baf89a3ccace5275", "08a74f8963b337ac"),
        (efivar.IMAGE_SECURITY_DATABASE, "dbx", b"", "9f75b6823bff6af1", "18cc6e01f0c6ea99"),
    ],
)
def test_measured_variable(guid, name, data, sha256, sha384):
    digests = digests_of(efivar.Variable(guid=guid, name=name, data=data).encode())
    assert digests[HashAlgorithm.SHA256].hex().startswith(sha256)
    assert digests[HashAlgorithm.SHA384].hex().startswith(sha384)


def test_variables_of_a_recorded_secure_boot():
    measured = [efivar.parse_variable(record.data) for record in events(EventType.EFI_VARIABLE_DRIVER_CONFIG)]
    assert [(v.guid, v.name) for v in measured] == [
        (efivar.GLOBAL_VARIABLE, "SecureBoot"),
        (efivar.GLOBAL_VARIABLE, "PK"),
        (efivar.GLOBAL_VARIABLE, "KEK"),
        (efivar.IMAGE_SECURITY_DATABASE, "db"),
        (efivar.IMAGE_SECURITY_DATABASE, "dbx"),
    ]
    assert measured[0].data == b"\1"
    for record, value in zip(events(EventType.EFI_VARIABLE_DRIVER_CONFIG), measured, strict=True):
        assert value.encode() == record.data
        assert digests_of(value.encode(), tuple(HashAlgorithm)) == record.digests


def test_authority_is_one_signature_of_the_database():
    (record,) = events(EventType.EFI_VARIABLE_AUTHORITY)
    authority = efivar.parse_variable(record.data)
    store = varstore.parse(lzma.decompress((EVENTLOG / "ovmf-2026.08-snakeoil.vars.fd.xz").read_bytes()))
    (entry,) = efivar.parse_signature_lists(store[efivar.IMAGE_SECURITY_DATABASE, "db"])
    assert entry.type == efivar.CERT_X509
    (signature,) = entry.signatures
    assert signature.owner == OWNER
    assert (authority.name, authority.data) == ("db", signature.encode())


def test_lists_of_several_sizes_stay_inside_their_boundaries():
    certificates = [
        efivar.SignatureList(
            type=efivar.CERT_X509, signatures=(efivar.Signature(owner=OWNER, data=b"\x30" * size),)
        )
        for size in (700, 900)
    ]
    data = efivar.encode_signature_lists([certificates[0], LIST, certificates[1]])
    assert efivar.parse_signature_lists(data) == (certificates[0], LIST, certificates[1])
    assert efivar.parse_signature_lists(b"") == ()


def test_signature_list_layout():
    # UEFI 2.10, 32.4.1, by hand: type, list size, header size, entry size, then owner and hash twice.
    by_hand = (
        efivar.CERT_SHA256.bytes_le + struct.pack("<III", 28 + 96, 0, 48) + (OWNER.bytes_le + bytes(32)) * 2
    )
    assert LIST.encode() == by_hand
    with_header = efivar.CERT_SHA256.bytes_le + struct.pack("<III", 28 + 4, 4, 16) + b"head"
    (parsed,) = efivar.parse_signature_lists(with_header)
    assert (parsed.header, parsed.signatures) == (b"head", ())
    assert parsed.encode() == with_header


def test_signatures_of_one_list_have_one_size():
    with pytest.raises(FormatError, match="differ in size"):
        efivar.SignatureList(
            type=efivar.CERT_X509,
            signatures=(efivar.Signature(owner=OWNER, data=b"a"), efivar.Signature(owner=OWNER, data=b"bb")),
        )


@pytest.mark.parametrize(
    ("size", "header", "entry"),
    [
        (27, 0, 48),
        (28 + 96, 97, 48),
        (28 + 96, 0, 47),
        (28 + 96, 0, 0),
        (28 + 96, 0, 15),
        (1000, 0, 48),
        (0, 0, 0),
    ],
)
def test_corrupt_signature_list(size, header, entry):
    data = efivar.CERT_SHA256.bytes_le + struct.pack("<III", size, header, entry) + bytes(96)
    with pytest.raises(FormatError):
        efivar.parse_signature_lists(data)


def test_signature_limits():
    many = efivar.MAX_SIGNATURES + 1
    one_list = efivar.CERT_SHA256.bytes_le + struct.pack("<III", 28 + 16 * many, 0, 16) + bytes(16 * many)
    many_lists = (efivar.CERT_SHA256.bytes_le + struct.pack("<III", 28, 0, 16)) * many
    for data in (one_list, many_lists):
        with pytest.raises(LimitError):
            efivar.parse_signature_lists(data)


def test_corrupt_variable():
    good = efivar.Variable(guid=OWNER, name="Name", data=b"data").encode()
    assert efivar.parse_variable(good).name == "Name"
    for wrong in (b"", good[:-1], good + b"\0", good[:31]):
        with pytest.raises(FormatError):
            efivar.parse_variable(wrong)
    for lengths in (
        (1 << 63, 0),
        (0, 1 << 63),
        (efivar.MAX_NAME_LENGTH + 1, 0),
        (0, efivar.MAX_DATA_SIZE + 1),
    ):
        with pytest.raises(LimitError):
            efivar.parse_variable(bytes(16) + struct.pack("<QQ", *lengths))


@given(st.text(max_size=50), st.binary(max_size=200))
def test_variable_round_trip(name, data):
    value = efivar.Variable(guid=OWNER, name=name, data=data)
    assert efivar.parse_variable(value.encode()) == value


@given(st.binary(max_size=300))
def test_random_bytes_never_escape(data):
    for parse in (efivar.parse_variable, efivar.parse_signature_lists):
        with contextlib.suppress(FormatError):
            parse(data)


@settings(max_examples=200)
@given(st.integers(0, 123), st.integers(0, 255), st.integers(0, 124))
def test_mutated_lists_never_escape(offset, value, length):
    data = bytearray(LIST.encode())
    data[offset] = value
    with contextlib.suppress(FormatError):
        lists = efivar.parse_signature_lists(bytes(data[:length]))
        assert efivar.encode_signature_lists(lists) == data[:length]
