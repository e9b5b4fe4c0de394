"""ECDSA P-384 keys and signatures in the form that AMD's firmware reads (AMD 56860, chapter 10)."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from measurements.errors import FormatError, SignatureError
from measurements.keys import KeyAlgorithm, PublicKey

PUBLIC_KEY_SIZE: Final = 1028
SIGNATURE_SIZE: Final = 512
#: ECDSA on P-384 with SHA-384, the only algorithm of reports and ID blocks (table 136).
ALGORITHM: Final = 1

_CURVE_P384 = 2
_COMPONENT_SIZE = 72
_COORDINATE_BITS = 384


def encode_public_key(key: PublicKey) -> bytes:
    """Return the 1028 bytes of a public key (10.2, table 138): curve, then x and y, little-endian.

    Raises:
        SignatureError: the key is on another curve.
    """
    if key.algorithm is not KeyAlgorithm.ECDSA_P384:
        raise SignatureError(f"an {key.algorithm} key; SEV-SNP takes ecdsa-p384 only")
    public = serialization.load_der_public_key(key.der())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    numbers = public.public_numbers()
    body = _CURVE_P384.to_bytes(4, "little") + _component(numbers.x) + _component(numbers.y)
    return body.ljust(PUBLIC_KEY_SIZE, b"\0")


def decode_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read the 1028 bytes of a public key.

    Raises:
        FormatError: the curve is not P-384, the point does not lie on it, or reserved bytes are not zero.
    """
    if len(data) != PUBLIC_KEY_SIZE:
        raise FormatError(f"SEV-SNP public key of {len(data)} bytes; expected {PUBLIC_KEY_SIZE}")
    curve = int.from_bytes(data[:4], "little")
    if curve != _CURVE_P384:
        raise FormatError(f"SEV-SNP public key on curve {curve}; expected {_CURVE_P384} (P-384)")
    if any(data[4 + 2 * _COMPONENT_SIZE :]):
        raise FormatError("SEV-SNP public key: reserved bytes are not zero")
    x, y = _components(data[4 : 4 + 2 * _COMPONENT_SIZE])
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except ValueError as error:
        raise FormatError(f"SEV-SNP public key: {error}") from None


def key_digest(encoded: bytes) -> bytes:
    """Return what a report calls ID_KEY_DIGEST or AUTHOR_KEY_DIGEST: SHA-384 of the 1028 bytes."""
    return hashlib.sha384(encoded).digest()


def encode_signature(der: bytes) -> bytes:
    """Return the 512 bytes of a signature (10.3, table 140): r and s, little-endian."""
    r, s = decode_dss_signature(der)
    return (_component(r) + _component(s)).ljust(SIGNATURE_SIZE, b"\0")


def decode_signature(data: bytes) -> bytes:
    """Return a signature of 512 bytes as DER.

    Raises:
        FormatError: r or s has more than 384 bits, or reserved bytes are not zero.
    """
    if len(data) != SIGNATURE_SIZE:
        raise FormatError(f"SEV-SNP signature of {len(data)} bytes; expected {SIGNATURE_SIZE}")
    if any(data[2 * _COMPONENT_SIZE :]):
        raise FormatError("SEV-SNP signature: reserved bytes are not zero")
    r, s = _components(data[: 2 * _COMPONENT_SIZE])
    return encode_dss_signature(r, s)


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, what: str) -> None:
    """Verify a signature of 512 bytes.

    Raises:
        FormatError: it is malformed.
        SignatureError: it does not hold.
    """
    der = decode_signature(signature)
    try:
        key.verify(der, message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise SignatureError(f"the signature of {what} does not hold") from None


def _component(value: int) -> bytes:
    return value.to_bytes(_COMPONENT_SIZE, "little")


def _components(data: bytes) -> tuple[int, int]:
    first, second = (
        int.from_bytes(part, "little") for part in (data[:_COMPONENT_SIZE], data[_COMPONENT_SIZE:])
    )
    if max(first, second).bit_length() > _COORDINATE_BITS:
        raise FormatError("SEV-SNP key or signature: a number has more than 384 bits")
    return first, second
