"""Certificates of GPUs and of reference values, up to NVIDIA's two roots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from measurements import chains
from measurements.errors import FormatError, LimitError, SignatureError
from measurements.formats.reader import Reader

#: Characters of a PEM chain; a GPU's has five certificates in some 5,000.
MAX_CHAIN_BYTES: Final = 1 << 16
MAX_CERTIFICATES: Final = 8

# Both are in NVIDIA's verifier (nv-local-gpu-verifier 2.7.3, verifier/certs), and stand in what they certify.
DEVICE_ROOT: Final = x509.load_pem_x509_certificate(b"""\
-----BEGIN CERTIFICATE-----
MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIw
IAYDVQQDDBlOVklESUEgRGV2aWNlIElkZW50aXR5IENBMQ8wDQYDVQQKDAZOVklE
SUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTlaMDUxIjAgBgNVBAMM
GU5WSURJQSBEZXZpY2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAG
ByqGSM49AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW9NDZF8SX
gAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfEIrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB
2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQY
MBaAFFeF/4PyY8xlfWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3
TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOLSR/qvJynVOD1vQKVXf0CMQC+
EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA=
-----END CERTIFICATE-----
""")
RIM_ROOT: Final = x509.load_pem_x509_certificate(b"""\
-----BEGIN CERTIFICATE-----
MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQsw
CQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29S
SU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1MzczNFoYDzIwNTMwMzA4MTUz
NzM0WjBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxO
VklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYFK4EEACID
YgAEuECyi9vNM+Iw2lfUzyBldHAwaC1HF7TCgp12QcEyUTm3Tagxwr48d55+K2VI
lWYIDk7NlAIQdcV/Ff7euGLI+Qauj93HsSI4WX298PpW54RTgz9tC+Q684caR/BX
WEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYDVR0jBBgw
FoAUpaXrOPK4ZDAk08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8B
Af8EBAMCAQYwCgYIKoZIzj0EAwMDZwAwZAIwHGDyscDP6ihHqRvZlI3eqZ4YkvjE
1duaN84tAHRVgxVMvNrp5Tnom3idHYGW/dskAjATvjIx6VzHm/4e2GiZAyZEIUBD
OKPzp5ei/A0iUZpdvngenDwV8Qa/wGdiTmJ7Bp4=
-----END CERTIFICATE-----
""")

# TCG DICE Attestation Architecture 1.1, 6.1.1: TcbInfo. Hopper has an older extension under its parent's number.
_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
_SHA384 = bytes.fromhex("0609608648016503040202")
_SHA384_SIZE = 48
_SEQUENCE, _INTEGER, _OCTET_STRING = 0x30, 0x02, 0x04
_FWIDS = 0xA6  # [6] IMPLICIT, constructed
_MOST_NAMES = 64


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Load a GPU's certificates from PEM: the one of its attestation key first, each issued by the next.

    Raises:
        FormatError: not PEM certificates.
        LimitError: too long or too many.
    """
    if len(pem) > MAX_CHAIN_BYTES:
        raise LimitError(f"GPU certificates: {len(pem)} bytes; the limit is {MAX_CHAIN_BYTES}")
    try:
        chain = chains.load_certificates(pem.decode("ascii"))
    except UnicodeDecodeError:
        raise FormatError("GPU certificates: not PEM, they hold bytes that are not ASCII") from None
    if not 1 <= len(chain) <= MAX_CERTIFICATES:
        raise LimitError(f"GPU certificates: {len(chain)}; expected 1 to {MAX_CERTIFICATES}")
    return chain


def verify_chain(
    chain: Sequence[x509.Certificate], root: x509.Certificate, at: datetime
) -> ec.EllipticCurvePublicKey:
    """Verify that the first certificate leads to ``root``, at a moment with a time zone; return its key.

    Revocation is not looked at (`measurements.gpu.revocation`).

    Raises:
        SignatureError: it does not; the message says where.
    """
    if not chain:
        raise SignatureError("certificate chain: it is empty")
    try:
        key = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"certificate chain: the first certificate's key is unusable: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SignatureError("certificate chain: the first certificate's key is not on P-384")
    chains.check_chain(key, chain, [root], at)
    return key


def path_of(chain: Sequence[x509.Certificate], root: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """Return a chain that `verify_chain` accepted, with the root as its last certificate."""
    return (*chain[:-1], root) if len(chain) > 1 and chain[-1] == root else (*chain, root)


def name_of(certificate: x509.Certificate) -> str:
    """Return a certificate's common name, for people and for `chip_of`; empty where it has none.

    Raises:
        FormatError: the subject does not parse.
    """
    try:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError as error:
        raise FormatError(f"GPU certificate: the subject does not parse: {error}") from error
    return str(names[0].value) if names else ""


def chip_of(certificate: x509.Certificate) -> str:
    """Return the chip that an attestation key's certificate is about, such as "GH100": its common name's first word.

    Raises:
        FormatError: it has no such name.
    """
    words = name_of(certificate).split()
    if not words or len(words[0]) > _MOST_NAMES:
        raise FormatError("GPU certificate: expected a common name that starts with the chip's")
    return words[0]


def own_keys(chain: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """Return the keys (SubjectPublicKeyInfo, DER) that belong to one GPU alone.

    The attestation key, and what the chip itself certified it with: a GPU's own certificates are named after the chip
    ("GH100 A01 GSP BROM"); those above are NVIDIA's.

    Raises:
        FormatError: a key or a name does not parse.
    """
    chip = chip_of(chain[0])
    own = [each for each in chain if each is chain[0] or name_of(each).split()[:1] == [chip]]
    try:
        return tuple(
            each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in own
        )
    except Exception as error:  # of whatever kind the library stumbles with over a hostile key
        raise FormatError(f"a certificate's key does not parse: {error}") from None


def firmware_id_of(certificate: x509.Certificate) -> bytes | None:
    """Return the SHA-384 firmware identifier (FWID) that a certificate binds its key to; nothing if it has none.

    Raises:
        FormatError: the extension is malformed, or of another hash.
    """
    try:
        found = [
            (each.oid, each.value.value)
            for each in certificate.extensions
            if isinstance(each.value, x509.UnrecognizedExtension) and each.oid in (_TCB_INFO, _DEVICE_ID)
        ]
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise FormatError(f"GPU certificate: the extensions do not parse: {error}") from error
    if not found:
        return None
    if len(found) > 1:
        raise FormatError("GPU certificate: two extensions say which firmware holds the key")
    ((identifier, value),) = found
    outer = Reader(value, "DICE extension")
    body = _element(outer, _SEQUENCE)
    _end(outer)
    return _device_id(body) if identifier == _DEVICE_ID else _tcb_info(body)


def _device_id(body: Reader) -> bytes:
    """CompositeDeviceID ::= SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid FWID }."""
    _element(body, _INTEGER)
    _element(body, _SEQUENCE)
    digest = _fwid(body)
    _end(body)
    return digest


def _tcb_info(body: Reader) -> bytes:
    """DiceTcbInfo: the first of fwids [6] is that of the firmware which holds the key."""
    digest = None
    while body.remaining:
        tag, value = _any(body)
        if tag == _FWIDS and digest is None:
            digest = _fwid(value)
        elif tag == _FWIDS:
            raise value.error("fwids stand there twice")
    if digest is None:
        raise body.error("no fwids")
    return digest


def _fwid(reader: Reader) -> bytes:
    """FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }."""
    fwid = _element(reader, _SEQUENCE)
    if fwid.peek(len(_SHA384)) != _SHA384:
        raise fwid.error("the firmware's digest is not of SHA-384")
    fwid.skip(len(_SHA384))
    digest = _element(fwid, _OCTET_STRING).rest()
    _end(fwid)
    if len(digest) != _SHA384_SIZE:
        raise fwid.error(f"the firmware's digest has {len(digest)} bytes; expected {_SHA384_SIZE}")
    return digest


def _element(reader: Reader, tag: int) -> Reader:
    found, value = _any(reader)
    if found != tag:
        raise value.error(f"DER tag 0x{found:02x}; expected 0x{tag:02x}")
    return value


def _any(reader: Reader) -> tuple[int, Reader]:
    """Read one DER element with a tag of one byte and a length of at most two (X.690, 8.1 and 10.1)."""
    tag, length = reader.u8("tag"), reader.u8("length")
    if length in (0x81, 0x82):
        count = length & 0x7F
        length = int.from_bytes(reader.take(count, "length"), "big")
        if length < 0x80 or length.bit_length() <= 8 * (count - 1):
            raise reader.error("the length is not in its shortest form")
    elif length >= 0x80:
        raise reader.error(f"length byte 0x{length:02x}")
    return tag, reader.part(length, "element")


def _end(reader: Reader) -> None:
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes too many")
