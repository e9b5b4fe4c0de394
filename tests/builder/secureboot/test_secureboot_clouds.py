"""What Azure and EC2 take."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import replace

import pytest
from cryptography import x509

from builder.errors import ImageError
from builder.image.secureboot import clouds
from builder.image.secureboot.clouds import azure_security_profile, ec2_uefi_data


def test_azure_profile(keys, enrolment):
    # Shape: Azure, "Secure Boot UEFI keys"; Compute Gallery REST API, GalleryImageVersionUefiSettings.
    profile = json.loads(json.dumps(azure_security_profile(enrolment)))
    settings = profile.pop("uefiSettings")
    assert not profile and settings["signatureTemplateNames"] == ["NoSignatureTemplate"]
    found = settings["additionalSignatures"]
    assert set(found) == {"pk", "kek", "db", "dbx"}

    def certificates(value):
        assert value["type"] == "x509"
        return [x509.load_der_x509_certificate(base64.b64decode(each)) for each in value["value"]]

    assert certificates(found["pk"]) == [keys.platform_key.certificate]
    assert [certificates(each) for each in found["kek"]] == [[keys.key_exchange_key.certificate]]
    assert [certificates(each) for each in found["db"]] == [[keys.image_key.certificate]]
    assert found["dbx"] == [{"type": "sha256", "value": [base64.b64encode(b"\x55" * 32).decode()]}]


def test_crc32c():
    # RFC 3720, B.4: 32 bytes of zeros, of ones, counting up, counting down; and the usual check value.
    assert clouds._crc32c(bytes(32)) == 0x8A9136AA
    assert clouds._crc32c(b"\xff" * 32) == 0x62A8AB43
    assert clouds._crc32c(bytes(range(32))) == 0x46DD794E
    assert clouds._crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C
    assert clouds._crc32c(b"123456789") == 0xE3069283


def test_ec2_data(enrolment):
    """Read as python-uefivars does: magic, CRC-32C, version, zlib with its dictionary on offer, variables."""
    raw = base64.b64decode(ec2_uefi_data(enrolment.variables()), validate=True)
    assert raw[:8] == b"AMZNUEFI" and raw[12:16] == bytes(4)
    assert struct.unpack_from("<I", raw, 8) == (clouds._crc32c(raw[12:]),)
    reader = zlib.decompressobj(zdict=b"the dictionary of version 0")
    content = reader.decompress(raw[16:])
    assert reader.eof and not reader.unused_data
    offset = 8
    assert struct.unpack_from("<Q", content) == (4,)

    def take(size):
        nonlocal offset
        offset += size
        return content[offset - size : offset]

    def sized():
        return take(int.from_bytes(take(8), "little"))

    for variable in enrolment.variables():
        assert sized().decode() == variable.name
        assert sized() == variable.data
        assert take(16) == variable.guid.bytes_le
        assert take(4) == bytes.fromhex("27000000")
        assert take(16) == variable.time
        assert sized() == bytes(32)
    assert offset == len(content)


@pytest.mark.parametrize("size", [0, 1, 0xFFFF, 0x10000, 0x20000 + 5])
def test_stored_streams_are_zlib(size):
    content = bytes(index * 7 & 0xFF for index in range(size))
    assert zlib.decompress(clouds._zlib_stored(content)) == content


def test_too_much_for_ec2(enrolment):
    digests = tuple(number.to_bytes(32, "big") for number in range(1200))
    with pytest.raises(ImageError, match="EC2 takes 64000"):
        ec2_uefi_data(replace(enrolment, forbidden=digests).variables())
