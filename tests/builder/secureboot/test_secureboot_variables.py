"""Signature lists and signed updates, against what efitools writes."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import struct
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ImageError
from builder.image.secureboot import signeddata
from builder.image.secureboot.variables import (
    MAX_UPDATE_SIZE,
    NOTHING,
    VENDORS,
    AuthenticatedVariable,
    Enrolment,
    efi_time,
    owner_of,
    read_update,
)
from measurements.errors import FormatError, LimitError
from measurements.formats import efivar

OWNER = UUID("8be4df61-0000-4000-8000-00e098032b8c")
DAY = datetime.date(2026, 11, 22)
SIGNATURE_SIZE = 256  # RSA-2048


class Recorded:
    """A signer that can only say what another tool's signer said."""

    def __init__(self, certificate, update):
        self.certificate = certificate
        end = 16 + int.from_bytes(update[16:20], "little")  # the signature is the last of SignerInfo
        self.signature = update[end - SIGNATURE_SIZE : end]

    def sign(self, digest):
        return self.signature


@pytest.fixture(scope="module")
def recorded(vector):
    certificates = {
        name: x509.load_pem_x509_certificate(vector(f"{name}.pem")) for name in ("PK", "KEK", "db")
    }
    return Enrolment(
        owner=OWNER,
        platform_key=certificates["PK"],
        key_exchange_key=certificates["KEK"],
        allowed=(certificates["db"],),
        day=DAY,
    )


@pytest.mark.parametrize(
    ("file", "name", "signer"),
    [("PK", "PK", "PK"), ("KEK", "KEK", "PK"), ("db", "db", "KEK"), ("db-append", "db", "KEK")],
)
def test_updates_are_those_of_efitools(vector, recorded, file, name, signer):
    expected = vector(f"{file}.auth")
    certificate = recorded.platform_key if signer == "PK" else recorded.key_exchange_key
    variable = next(each for each in recorded.variables() if each.name == name)
    made = variable.update(Recorded(certificate, expected), append=file == "db-append")
    assert made == expected


def test_a_signature_over_other_content_is_noticed(vector, recorded):
    """The very check that makes the comparison above one of the signed bytes as well."""
    variable = recorded.variables()[1]
    signer = Recorded(recorded.platform_key, vector("KEK.auth"))
    with pytest.raises(ImageError, match="does not verify"):
        replace(variable, data=variable.data + b"x").update(signer)
    with pytest.raises(ImageError, match="does not verify"):
        variable.update(signer, append=True)


def test_each_variable_is_signed_by_the_key_above(keys, enrolment):
    updates = enrolment.updates(keys.platform_key, keys.key_exchange_key)
    assert list(updates) == ["PK", "KEK", "db", "dbx"]
    for variable in enrolment.variables():
        signer = keys.platform_key if variable.name in ("PK", "KEK") else keys.key_exchange_key
        update = updates[variable.name]
        end = 16 + struct.unpack_from("<I", update, 16)[0]
        signed = variable.name.encode("utf-16-le") + VENDORS[variable.name].bytes_le
        signed += (0x27).to_bytes(4, "little") + update[:16] + variable.data
        signer.certificate.public_key().verify(
            update[end - SIGNATURE_SIZE : end], signed, padding.PKCS1v15(), SHA256()
        )
        assert read_update(variable.name, update) == variable


def test_the_same_input_gives_the_same_bytes(keys, enrolment):
    first, second = (enrolment.updates(keys.platform_key, keys.key_exchange_key) for _ in range(2))
    assert first == second


def test_updates_by_another_key_are_refused(keys, other_keys, enrolment):
    with pytest.raises(ImageError, match="is enrolled for that"):
        enrolment.updates(other_keys.platform_key, keys.key_exchange_key)
    with pytest.raises(ImageError, match="is enrolled for that"):
        enrolment.updates(keys.platform_key, keys.image_key)


def test_openssl_verifies_an_update(tool, tmp_path, keys, enrolment):
    update = enrolment.updates(keys.platform_key, keys.key_exchange_key)["db"]
    end = 16 + struct.unpack_from("<I", update, 16)[0]
    variable = enrolment.variables()[2]
    content = "db".encode("utf-16-le") + variable.guid.bytes_le + (0x27).to_bytes(4, "little")
    (tmp_path / "content").write_bytes(content + update[:16] + variable.data)
    (tmp_path / "signature").write_bytes(signeddata.content_info(update[40:end]))
    (tmp_path / "kek.pem").write_bytes(
        keys.key_exchange_key.certificate.public_bytes(signeddata.Encoding.PEM)
    )
    arguments = (
        "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-content", "content",
        "-CAfile", "kek.pem", "-partial_chain", "-purpose", "any", "-no_check_time", "-out", "verified",
    )  # fmt: skip
    tool("openssl", *arguments)
    (tmp_path / "content").write_bytes(content + update[:16] + variable.data[:-1] + b"\0")
    assert tool("openssl", *arguments, check=False).returncode != 0


def test_contents_of_the_databases(keys, enrolment):
    contents = {each.name: efivar.parse_signature_lists(each.data) for each in enrolment.variables()}
    for name, signer in keys.signers():
        (found,) = contents[name]
        (entry,) = found.signatures
        assert found.type == efivar.CERT_X509 and entry.owner == enrolment.owner
        assert x509.load_der_x509_certificate(entry.data) == signer.certificate
    (forbidden,) = contents["dbx"]
    assert forbidden.type == efivar.CERT_SHA256
    assert [entry.data for entry in forbidden.signatures] == [b"\x55" * 32]


def test_dbx_of_nothing_forbids_no_image():
    # As in edk2's OvmfPkg/EnrollDefaultKeys/AuthData.c.
    assert NOTHING.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_time_stamps():
    # Year 07ea, month, day; the other twelve bytes are zero at midnight UTC.
    assert efi_time(DAY).hex() == "ea070b16" + 24 * "0"


def test_owners_follow_from_the_platform_key(keys, other_keys):
    first, second = (owner_of(each.platform_key.certificate) for each in (keys, other_keys))
    assert first != second and first == owner_of(keys.platform_key.certificate)
    assert first.version == 8 and first.variant == "specified in RFC 4122"


@pytest.mark.parametrize(
    "change",
    [{"allowed": ()}, {"forbidden": ()}, {"forbidden": (b"short",)}, {"forbidden": (NOTHING, NOTHING)}],
)
def test_enrolments_that_make_no_sense(enrolment, change):
    with pytest.raises(ImageError):
        replace(enrolment, **change)


def test_only_updates_are_read(vector):
    update = vector("db.auth")
    assert hashlib.sha256(read_update("db", update).data).digest() == hashlib.sha256(update[-825:]).digest()
    kind = bytearray(update)
    kind[22] ^= 1
    end = 16 + int.from_bytes(update[16:20], "little")
    for bad in (
        b"",
        update[:30],
        bytes(kind),
        update[:-1],
        update[:end],
        update[:16] + bytes(4) + update[20:],
    ):
        with pytest.raises(FormatError):
            read_update("db", bad)
    with pytest.raises(LimitError):
        read_update("db", update + bytes(MAX_UPDATE_SIZE))


@settings(max_examples=150)
@given(st.data())
def test_mutated_updates_never_escape(vector, data):
    update = bytearray(vector("db.auth"))
    for _ in range(data.draw(st.integers(0, 4))):
        update[data.draw(st.integers(0, len(update) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(update)))
    with contextlib.suppress(FormatError):
        assert isinstance(read_update("db", bytes(update[:length])), AuthenticatedVariable)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_update(data):
    with contextlib.suppress(FormatError):
        read_update("PK", data)
