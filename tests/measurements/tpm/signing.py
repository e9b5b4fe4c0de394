"""Authenticode signatures for tests, assembled by hand around signatures that `cryptography` makes."""

from __future__ import annotations

import datetime
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from measurements.events import Digest, HashAlgorithm
from measurements.formats import pe

SHA256_ID = bytes.fromhex("0609608648016503040201")
DATA_ID = bytes.fromhex("06092a864886f70d010702")
SPC_ID = bytes.fromhex("060a2b060104018237020104")
CONTENT_TYPE_ID = bytes.fromhex("06092a864886f70d010903")
MESSAGE_DIGEST_ID = bytes.fromhex("06092a864886f70d010904")
RSA_ID = bytes.fromhex("06092a864886f70d010101")


def der(tag, *parts):
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


class Authority:
    """A key with a certificate, self-signed or issued by another."""

    def __init__(self, name, issuer=None, *, elliptic=False):
        self.key = (
            ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        )
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name((issuer or self).name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=1))  # long expired: firmware does not look
        )
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())

    @property
    def encoded(self):
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def sign(self, data):
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def win_certificate(body):
    entry = struct.pack("<IHH", len(body) + 8, 0x0200, 0x0002) + body
    return entry + bytes(-len(entry) % 8)


def pkcs7(image, signer, *extra, digest=None, message_digest=None, attributes=True, signature=None):
    """Return PKCS #7 SignedData over ``image``; the keywords falsify one part each."""
    digest = digest or pe.parse(image).authenticode(HashAlgorithm.SHA256).value
    algorithm = der(0x30, SHA256_ID, b"\x05\0")
    content = der(0x30, bytes.fromhex("060a2b06010401823702010f"), der(0x30)) + der(
        0x30, algorithm, der(0x04, digest)
    )
    message_digest = message_digest or Digest.of(HashAlgorithm.SHA256, content).value
    signed = der(0x30, CONTENT_TYPE_ID, der(0x31, SPC_ID)) + der(
        0x30, MESSAGE_DIGEST_ID, der(0x31, der(0x04, message_digest))
    )
    made = signer.sign(der(0x31, signed) if attributes else content)
    serial = signer.certificate.serial_number
    info = der(
        0x30,
        b"\x02\1\1",
        der(
            0x30,
            signer.certificate.issuer.public_bytes(),
            der(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        ),
        algorithm,
        der(0xA0, signed) if attributes else b"",
        der(0x30, RSA_ID, b"\x05\0"),
        der(0x04, signature or made),
    )
    certificates = b"".join(each.encoded for each in (signer, *extra))
    return der(
        0x30,
        DATA_ID,
        der(
            0xA0,
            der(
                0x30,
                b"\x02\1\1",
                der(0x31, algorithm),
                der(0x30, SPC_ID, der(0xA0, der(0x30, content))),
                der(0xA0, certificates),
                der(0x31, info),
            ),
        ),
    )
