"""Signing keys of golden documents: Ed25519, ECDSA P-256 with SHA-256, ECDSA P-384 with SHA-384.

ECDSA signatures of keys in memory are deterministic (RFC 6979), so that one document and one key give one envelope.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from measurements.errors import FormatError, LimitError, SignatureError

#: Longest PEM text that is looked at.
MAX_PEM_BYTES = 16 * 1024


class KeyAlgorithm(StrEnum):
    """What a golden document may be signed with; the value is the command line's word."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"


_PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def _ecdsa_hash(algorithm: KeyAlgorithm) -> hashes.HashAlgorithm:
    return hashes.SHA256() if algorithm is KeyAlgorithm.ECDSA_P256 else hashes.SHA384()


def _algorithm_of(key: object) -> KeyAlgorithm:
    if isinstance(key, (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey)):
        return KeyAlgorithm.ED25519
    if isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        if isinstance(key.curve, ec.SECP256R1):
            return KeyAlgorithm.ECDSA_P256
        if isinstance(key.curve, ec.SECP384R1):
            return KeyAlgorithm.ECDSA_P384
        raise SignatureError(f"key on curve {key.curve.name}; expected P-256 or P-384")
    raise SignatureError(f"key of kind {type(key).__name__}; expected Ed25519 or ECDSA on P-256 or P-384")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies golden documents."""

    _key: _PublicKey

    @property
    def algorithm(self) -> KeyAlgorithm:
        """Which algorithm the key is for."""
        return _algorithm_of(self._key)

    @property
    def key_id(self) -> str:
        """SHA-256 of the DER SubjectPublicKeyInfo, 64 hex digits: the envelope's ``keyid``."""
        return hashlib.sha256(self.der()).hexdigest()

    def der(self) -> bytes:
        """Return the SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
        return self._key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def pem(self) -> bytes:
        """Return the key as PEM ``PUBLIC KEY``."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, signature: bytes, message: bytes) -> None:
        """Verify ``signature`` (Ed25519: 64 bytes; ECDSA: DER) over ``message``.

        Raises:
            SignatureError: it does not hold.
        """
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                self._key.verify(signature, message, ec.ECDSA(_ecdsa_hash(self.algorithm)))
        except InvalidSignature:
            raise SignatureError(f"the signature does not hold under key {self.key_id}") from None


class SigningKey(Protocol):
    """What signs golden documents: a `PrivateKey`, or a key that is not in this process."""

    def public(self) -> PublicKey:
        """Return the public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return a signature over ``message`` that `PublicKey.verify` takes."""
        ...


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs golden documents. Its representation never shows the secret."""

    _key: _PrivateKey

    def __repr__(self) -> str:
        return f"PrivateKey({self.public().key_id})"

    def public(self) -> PublicKey:
        """Return the public half."""
        return PublicKey(self._key.public_key())

    def pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the key as PKCS#8 PEM, encrypted when there is a passphrase."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def sign(self, message: bytes) -> bytes:
        """Sign ``message``; the same message gives the same signature.

        Raises:
            SignatureError: the cryptographic library cannot sign deterministically (RFC 6979). There is no
                silent fallback to a random nonce.
        """
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        try:
            return self._key.sign(
                message,
                ec.ECDSA(_ecdsa_hash(_algorithm_of(self._key)), deterministic_signing=True),
            )
        except (UnsupportedAlgorithm, TypeError) as error:
            raise SignatureError(
                "this build of 'cryptography' has no deterministic ECDSA (it needs OpenSSL 3.2): "
                "sign with an Ed25519 key, or install the package's own wheel"
            ) from error


def generate(algorithm: KeyAlgorithm) -> PrivateKey:
    """Make a new key from the operating system's random source."""
    match algorithm:
        case KeyAlgorithm.ED25519:
            return PrivateKey(ed25519.Ed25519PrivateKey.generate())
        case KeyAlgorithm.ECDSA_P256:
            return PrivateKey(ec.generate_private_key(ec.SECP256R1()))
        case KeyAlgorithm.ECDSA_P384:
            return PrivateKey(ec.generate_private_key(ec.SECP384R1()))


def load_private_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """Load a private key from PEM (PKCS#8, or SEC 1 for ECDSA).

    Raises:
        FormatError: not a PEM private key, or the passphrase is missing, wrong or not needed.
        SignatureError: a key of another kind.
        LimitError: longer than ``MAX_PEM_BYTES``.
    """
    _check_size(pem)
    try:
        key = serialization.load_pem_private_key(pem, password=passphrase)
    except TypeError as error:
        raise FormatError(f"private key: {error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(
            "private key: not a PEM private key, or the passphrase is wrong; "
            "'goldsmith keygen' makes one that fits"
        ) from None
    _algorithm_of(key)
    assert isinstance(key, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey))
    return PrivateKey(key)


def load_public_key(pem: bytes) -> PublicKey:
    """Load a public key from PEM (SubjectPublicKeyInfo).

    Raises:
        FormatError: not a PEM public key.
        SignatureError: a key of another kind.
        LimitError: longer than ``MAX_PEM_BYTES``.
    """
    _check_size(pem)
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("public key: not a PEM public key (-----BEGIN PUBLIC KEY-----)") from None
    _algorithm_of(key)
    assert isinstance(key, (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey))
    return PublicKey(key)


def _check_size(pem: bytes) -> None:
    if len(pem) > MAX_PEM_BYTES:
        raise LimitError(f"key: {len(pem)} bytes of PEM; at most {MAX_PEM_BYTES} are read")
