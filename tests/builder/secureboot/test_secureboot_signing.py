"""Authenticode signatures over PE images, and DER below them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import struct

import pe_images
import pefile
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ImageError, UsageError
from builder.image.secureboot import der, signeddata
from builder.image.secureboot.authenticode import MAX_SIGNATURE_SIZE, attach_signature, sign_pe
from builder.image.secureboot.signer import DIGEST_INFO, KeySigner, load_signer, new_signer, sign_checked
from measurements.errors import FormatError, NotPredictableError
from measurements.events import HashAlgorithm
from measurements.formats import pe
from measurements.formats.pkcs7 import signatures
from measurements.tpm.authority import authorise

IMAGE = pe_images.image(trailing=b"8 bytes.")
DAY = datetime.date(2024, 2, 29)


@pytest.fixture(scope="module")
def signed(keys):
    return sign_pe(IMAGE, keys.image_key)


def database(enrolment, name):
    return next(each.data for each in enrolment.variables() if each.name == name)


def test_firmware_allows_what_was_signed(signed, keys, enrolment):
    image, _ = signed
    entry = authorise(pe.parse(image), database(enrolment, "db"), database(enrolment, "dbx"))
    assert entry.data == keys.image_key.certificate.public_bytes(Encoding.DER)
    assert entry.owner == enrolment.owner


def test_firmware_refuses_everything_else(keys, other_keys, enrolment):
    def refusal(image, enrolled=enrolment):
        with pytest.raises(NotPredictableError) as caught:
            authorise(pe.parse(image), database(enrolled, "db"), database(enrolled, "dbx"))
        return str(caught.value)

    assert "not signed" in refusal(IMAGE)
    assert "none of its signatures chains" in refusal(sign_pe(IMAGE, other_keys.image_key)[0])
    assert "none of its signatures chains" in refusal(sign_pe(IMAGE, keys.platform_key)[0])
    tampered = bytearray(sign_pe(IMAGE, keys.image_key)[0])
    tampered[0x600] ^= 1
    assert "none of its signatures chains" in refusal(bytes(tampered))
    digest = pe.parse(IMAGE).authenticode(HashAlgorithm.SHA256).value
    forbidden = keys.enrolment(forbidden=(digest,), day=DAY)
    assert "forbids" in refusal(sign_pe(IMAGE, keys.image_key)[0], forbidden)


def test_the_same_image_and_key_give_the_same_bytes(signed, keys):
    assert sign_pe(IMAGE, keys.image_key) == signed


def test_anyone_puts_the_signature_back(signed):
    image, signature = signed
    assert attach_signature(IMAGE, signature) == image


def test_attached_as_sbsign_does(vector):
    """sbsign's own signed image, from the unsigned bytes and its signature alone."""
    expected = vector("small.signed.efi")
    (length,) = struct.unpack_from("<I", expected, 2560)
    signature = expected[2568 : 2560 + length].rstrip(b"\0")
    assert len(signature) == 4 + int.from_bytes(signature[2:4], "big")
    assert attach_signature(pe_images.image(), signature) == expected


def test_what_is_signed_is_what_sbsign_signs(vector, keys):
    theirs = signatures(pe.parse(vector("small.signed.efi")))[0]
    ours = signatures(pe.parse(sign_pe(pe_images.image(), keys.image_key)[0]))[0]
    assert ours.content == theirs.content
    assert ours.message_digest == theirs.message_digest


def test_only_the_fields_of_the_signature_change(signed):
    image, _ = signed
    before, after = pe.parse(IMAGE), pe.parse(image)
    assert after.sections == before.sections
    for algorithm in HashAlgorithm:
        assert after.authenticode(algorithm) == before.authenticode(algorithm)
    changed = [offset for offset in range(len(IMAGE)) if IMAGE[offset] != image[offset]]
    parsed = pefile.PE(data=image, fast_load=True)
    checksum = parsed.OPTIONAL_HEADER.get_field_absolute_offset("CheckSum")
    directory = parsed.OPTIONAL_HEADER.DATA_DIRECTORY[4].get_file_offset()
    allowed = {*range(checksum, checksum + 4), *range(directory, directory + 8)}
    assert changed and set(changed) <= allowed
    assert after.certificate_table == (len(IMAGE), len(image) - len(IMAGE))
    assert len(image) % 8 == 0


@pytest.mark.parametrize("trailing", [b"", b"\xff" * 8, b"\0" * 4096, bytes(range(256))])
def test_checksum_is_that_of_the_file(keys, trailing):
    image, _ = sign_pe(pe_images.image(trailing=trailing), keys.image_key)
    parsed = pefile.PE(data=image, fast_load=True)
    assert parsed.OPTIONAL_HEADER.CheckSum == parsed.generate_checksum()


def test_signatures_of_other_images_are_refused(signed, keys):
    _, signature = signed
    other = pe_images.image(trailing=b"8 others")
    with pytest.raises(ImageError, match="one of another image"):
        attach_signature(other, signature)


def test_broken_signatures_are_refused(signed):
    _, signature = signed
    broken = bytearray(signature)
    broken[-1] ^= 1
    with pytest.raises(ImageError, match="does not hold"):
        attach_signature(IMAGE, bytes(broken))
    for cut in (b"", signature[:40], signature[: len(signature) // 2], b"\x30\x03abc"):
        with pytest.raises((ImageError, FormatError)):
            attach_signature(IMAGE, cut)
    with pytest.raises(ImageError, match="the limit is"):
        attach_signature(IMAGE, bytes(MAX_SIGNATURE_SIZE + 1))


@settings(max_examples=150)
@given(st.data())
def test_mutated_signatures_never_escape(signed, data):
    _, signature = signed
    mutated = bytearray(signature)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError, FormatError):
        found = signatures(pe.parse(attach_signature(IMAGE, bytes(mutated))))
        found[0].verify()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (pe_images.image(trailing=b"odd"), "multiple of 8"),
        (pe_images.ACCEPTED["certificate"], "signed already"),
        (pe_images.ACCEPTED["pe32"], "64 bits"),
        (pe_images.image(directories=4), "no place for a signature"),
        (pe_images.image(dos=False), "without a DOS header"),
    ],
    ids=["size", "signed", "pe32", "directories", "dos"],
)
def test_images_that_cannot_be_signed(keys, image, message):
    with pytest.raises(ImageError, match=message):
        sign_pe(image, keys.image_key)


def test_what_firmware_would_not_load_is_not_signed(keys):
    for image in (*pe_images.REFUSED.values(), b"", b"MZ", IMAGE[:100]):
        with pytest.raises(FormatError):
            sign_pe(image, keys.image_key)


def test_signed_once(signed, keys):
    with pytest.raises(ImageError, match="signed already"):
        sign_pe(signed[0], keys.image_key)


def test_sbverify_agrees(tool, tmp_path, signed, keys, other_keys):
    (tmp_path / "signed.efi").write_bytes(signed[0])
    for name, signer in (("db", keys.image_key), ("other", other_keys.image_key)):
        (tmp_path / f"{name}.pem").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    assert b"verification OK" in tool("sbverify", "--cert", "db.pem", "signed.efi").stdout
    assert tool("sbverify", "--cert", "other.pem", "signed.efi", check=False).returncode != 0
    tampered = bytearray(signed[0])
    tampered[0x600] ^= 1
    (tmp_path / "signed.efi").write_bytes(tampered)
    assert tool("sbverify", "--cert", "db.pem", "signed.efi", check=False).returncode != 0


def test_osslsigncode_agrees(tool, tmp_path, signed, keys):
    (tmp_path / "signed.efi").write_bytes(signed[0])
    (tmp_path / "db.pem").write_bytes(keys.image_key.certificate.public_bytes(Encoding.PEM))
    arguments = ("verify", "-in", "signed.efi", "-CAfile", "db.pem", "-time", "1800000000")
    tool("osslsigncode", *arguments)
    tampered = bytearray(signed[0])
    tampered[0x600] ^= 1
    (tmp_path / "signed.efi").write_bytes(tampered)
    assert tool("osslsigncode", *arguments, check=False).returncode != 0


def test_certificates_come_along(signed, keys):
    assert load_der_pkcs7_certificates(signed[1]) == [keys.image_key.certificate]


def test_detached_signatures_are_those_of_cryptography(keys):
    """The same SignedData from another implementation: no attributes, content outside."""
    signer = keys.platform_key
    expected = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(b"content")
        .add_signer(signer.certificate, signer._key, SHA256())
        .sign(
            Encoding.DER,
            [
                pkcs7.PKCS7Options.Binary,
                pkcs7.PKCS7Options.DetachedSignature,
                pkcs7.PKCS7Options.NoAttributes,
            ],
        )
    )
    made = signeddata.detached(b"content", signer)
    assert made[-256:] == expected[-256:]
    assert load_der_pkcs7_certificates(signeddata.content_info(made)) == [signer.certificate]


class Token:
    """A key in a module: it signs DigestInfo ‖ digest as CKM_RSA_PKCS does, by arithmetic alone."""

    def __init__(self, signer):
        self.certificate = signer.certificate
        numbers = signer._key.private_numbers()
        self.modulus, self.exponent = numbers.public_numbers.n, numbers.d

    def sign(self, digest):
        size = (self.modulus.bit_length() + 7) // 8
        block = DIGEST_INFO + digest
        padded = b"\0\1" + b"\xff" * (size - len(block) - 3) + b"\0" + block
        return pow(int.from_bytes(padded, "big"), self.exponent, self.modulus).to_bytes(size, "big")


def test_a_token_signs_as_a_file_does(signed, keys):
    assert sign_pe(IMAGE, Token(keys.image_key)) == signed


def test_a_token_with_another_key_is_noticed(keys, other_keys):
    token = Token(other_keys.image_key)
    token.certificate = keys.image_key.certificate
    with pytest.raises(ImageError, match="does not verify"):
        sign_pe(IMAGE, token)


@pytest.mark.parametrize("role", ["PK", "KEK", "db"])
def test_certificates(role):
    signer = new_signer("Someone", role, size=2048, valid_from=DAY, years=1)
    certificate = signer.certificate
    assert certificate.version is x509.Version.v3
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == f"CN=Someone Secure Boot {role}"
    assert certificate.not_valid_before_utc.isoformat() == "2024-02-29T00:00:00+00:00"
    assert certificate.not_valid_after_utc.isoformat() == "2025-02-28T00:00:00+00:00"
    assert certificate.signature_algorithm_oid.dotted_string == "1.2.840.113549.1.1.11"
    assert certificate.serial_number.bit_length() == 127
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    # RFC 5280, 4.2.1.2 (1): SHA-1 of the key's bits; the kernel finds keys by it.
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    bits = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert found == hashlib.sha1(bits).digest()
    certificate.verify_directly_issued_by(certificate)


def test_only_the_key_is_random(monkeypatch):
    key = rsa.generate_private_key(65537, 2048)
    monkeypatch.setattr(rsa, "generate_private_key", lambda *_: key)

    def make(day, name="Someone"):
        return new_signer(name, "db", size=2048, valid_from=day, years=1).certificate

    assert make(DAY) == make(DAY)
    assert make(DAY).serial_number != make(DAY + datetime.timedelta(days=1)).serial_number


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1024},
        {"size": 2049},
        {"years": 0},
        {"years": 51},
        {"valid_from": datetime.date(1, 1, 1)},
        {"name": ""},
        {"name": "x" * 49},
        {"name": "a\nb"},
    ],
)
def test_certificates_that_make_no_sense(change):
    arguments = {"name": "Someone", "size": 2048, "valid_from": DAY, "years": 1} | change
    with pytest.raises(UsageError):
        new_signer(arguments.pop("name"), "db", **arguments)


def test_keys_are_read_back(keys, other_keys):
    signer = keys.image_key
    certificate = signer.certificate.public_bytes(Encoding.PEM)
    content = b"content"
    for passphrase in (None, b"correct horse"):
        loaded = load_signer(signer.key_pem(passphrase), certificate, passphrase)
        assert sign_checked(loaded, content) == sign_checked(signer, content)
    for pem, phrase in (
        (signer.key_pem(b"correct horse"), None),
        (signer.key_pem(b"correct horse"), b"wrong"),
        (signer.key_pem(), b"needless"),
        (other_keys.image_key.key_pem(), None),
        (b"junk", None),
        (bytes(1 << 17), None),
    ):
        with pytest.raises(ImageError):
            load_signer(pem, certificate, phrase)
    with pytest.raises(ImageError, match="does not belong"):
        KeySigner(other_keys.image_key.certificate, signer._key)


def test_signatures_verify_with_the_public_key(keys):
    signer = keys.image_key
    signature = signer.sign(hashlib.sha256(b"content").digest())
    signer.certificate.public_key().verify(signature, b"content", padding.PKCS1v15(), SHA256())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        # X.690: examples of 8.3, 8.19.5 and 10.1, and RFC 5652's identifiers.
        (der.integer(0), "020100"),
        (der.integer(127), "02017f"),
        (der.integer(128), "02020080"),
        (der.integer(256), "02020100"),
        (der.object_identifier("2.999.3"), "0603883703"),
        (der.object_identifier("1.2.840.113549.1.7.2"), "06092a864886f70d010702"),
        (der.object_identifier("1.3.6.1.4.1.311.2.1.4"), "060a2b060104018237020104"),
        (der.null(), "0500"),
        (der.octet_string(bytes(127))[:2], "047f"),
        (der.octet_string(bytes(128))[:3], "048180"),
        (der.octet_string(bytes(256))[:4], "04820100"),
        (der.set_of(der.integer(2), der.integer(1)), "3106020101020102"),
        (der.explicit(0, der.null()), "a0020500"),
        (der.implicit_string(0, b"a"), "800161"),
    ],
)
def test_der(made, expected):
    assert made.hex() == expected


@given(st.integers(min_value=0, max_value=1 << 200))
def test_integers_are_minimal_and_positive(value):
    made = der.integer(value)
    assert int.from_bytes(made[2:], "big", signed=True) == value
    assert len(made) == 3 or made[2] or made[3] & 0x80
