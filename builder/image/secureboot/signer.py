"""Who signs: a certificate and its RSA key, wherever the key is.

Here keys are in memory; `builder.image.secureboot.tokensigner` has those that stay in a token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from builder.errors import ImageError, UsageError

#: UEFI firmware knows RSA-2048 (Microsoft, "Windows Secure Boot Key Creation and Management Guidance": 2048 or
#: stronger); the kernel's and OpenSSL's verifiers take longer ones. EC2's own guide enrols 4096.
KEY_SIZES: Final = (2048, 3072, 4096)
DEFAULT_KEY_SIZE: Final = 3072
#: DigestInfo of RFC 8017, 9.2, note 1, for SHA-256, up to the digest itself.
DIGEST_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")

MAX_PEM_BYTES: Final = 64 << 10
_MAX_YEARS = 50
_EXPONENT = 65537
_SERIAL_BYTES = 16  # RFC 5280, 4.1.2.2: at most 20
_NAME_LIMIT = 64 - len(" Secure Boot KEK")  # RFC 5280, appendix A: ub-common-name


class Signer(Protocol):
    """A certificate and the means to sign with its RSA key."""

    @property
    def certificate(self) -> x509.Certificate:
        """The signer's certificate."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature (RFC 8017, 8.2) over a SHA-256 digest of 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A signer whose private key is in memory."""

    certificate: x509.Certificate
    _key: rsa.RSAPrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if self.certificate.public_key() != self._key.public_key():
            raise ImageError("the private key does not belong to the certificate; was one of them replaced?")

    def sign(self, digest: bytes) -> bytes:
        """See `Signer.sign`."""
        return self._key.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the private key as PKCS #8 PEM, encrypted where a passphrase is given."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
        )


def sign_checked(signer: Signer, content: bytes) -> bytes:
    """Return the signature over ``content``, verified with the certificate.

    A token that holds another key than the certificate's is found here, and not by a machine that does not boot.

    Raises:
        ImageError: the signature does not verify.
    """
    signature = signer.sign(hashlib.sha256(content).digest())
    try:
        rsa_public_key(signer.certificate).verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise ImageError(
            f"what {signer.certificate.subject.rfc4514_string()} signed does not verify with its certificate",
            hint="does the token hold another key?",
        ) from error
    return signature


def rsa_public_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """Return a certificate's key.

    Raises:
        ImageError: it is no RSA key of a size in `KEY_SIZES`.
    """
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in KEY_SIZES:
        raise ImageError(
            f"{certificate.subject.rfc4514_string()}: expected an RSA key of {', '.join(map(str, KEY_SIZES))} "
            "bits, which firmware verifies and whose signatures are deterministic"
        )
    return key


def new_signer(name: str, role: str, *, size: int, valid_from: date, years: int) -> KeySigner:
    """Make a key and its self-signed certificate ``CN=<name> Secure Boot <role>``.

    Only the key is random: the serial number follows from it and the validity.

    Args:
        name: 1 to 48 printable characters.
        role: "PK", "KEK" or "db".
        size: bits, one of `KEY_SIZES`.
        valid_from: first day (UTC). Firmware and kernel do not look; people and other tools do.
        years: 1 to 50; valid until the same day of that later year begins.

    Raises:
        UsageError: an argument is out of range.
    """
    if size not in KEY_SIZES:
        raise UsageError(f"RSA keys of {size} bits: expected one of {', '.join(map(str, KEY_SIZES))}")
    title(name, role)
    key = rsa.generate_private_key(_EXPONENT, size)
    return KeySigner(certify(key, name, role, valid_from=valid_from, years=years), key)


def title(name: str, role: str) -> str:
    """Return what a key and its certificate are called: "<name> Secure Boot <role>".

    Raises:
        UsageError: the name is empty, too long for a certificate, or not printable.
    """
    if not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable():
        raise UsageError(f"key set name {name!r}: expected 1 to {_NAME_LIMIT} printable characters")
    return f"{name} Secure Boot {role}"


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read an RSA certificate from PEM of at most `MAX_PEM_BYTES`.

    Raises:
        ImageError: it does not parse, or its key is not fit.
    """
    _check_size("certificate", pem)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        rsa_public_key(certificate)
        if certificate.serial_number <= 0:
            raise ValueError("its serial number is not positive (RFC 5280, 4.1.2.2)")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ImageError(f"Secure Boot certificate does not load: {error}") from error
    return certificate


def load_signer(key_pem: bytes, certificate_pem: bytes, passphrase: bytes | None = None) -> KeySigner:
    """Read a signer back from PEM (PKCS #8 or PKCS #1, and X.509), each of at most `MAX_PEM_BYTES`.

    Raises:
        ImageError: either does not parse, needs another passphrase, or they do not belong together.
    """
    certificate = load_certificate(certificate_pem)
    _check_size("private key", key_pem)
    try:
        key = serialization.load_pem_private_key(key_pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError: a passphrase is missing, or given for a key that has none.
        raise ImageError(f"Secure Boot private key does not load: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ImageError("Secure Boot private key: expected RSA")
    return KeySigner(certificate, key)


def validity(valid_from: date, years: int) -> tuple[datetime, datetime]:
    """Return from when to when a certificate is valid; arguments and errors as `new_signer`."""
    if not 1 <= years <= _MAX_YEARS or not 1950 <= valid_from.year <= 9999 - years:
        raise UsageError(f"validity of {years} years from {valid_from}: expected 1 to {_MAX_YEARS} years")
    begin = datetime.combine(valid_from, time(), UTC)
    leap_day = (valid_from.month, valid_from.day) == (2, 29)
    return begin, begin.replace(year=begin.year + years, day=28 if leap_day else begin.day)


def certify(
    key: rsa.RSAPrivateKey, name: str, role: str, *, valid_from: date, years: int
) -> x509.Certificate:
    """Return the self-signed certificate of a key; arguments and errors as `new_signer`."""
    begin, end = validity(valid_from, years)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title(name, role))])
    public = key.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    identity = hashlib.sha256(spki + f"{begin:%Y%m%d}{end:%Y%m%d}".encode()).digest()[:_SERIAL_BYTES]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        # Positive (RFC 5280, 4.1.2.2), and of one length for every key.
        .serial_number(int.from_bytes(identity, "big") & ~(3 << 126) | 1 << 126)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signature_only(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if role == "db":
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
        )
    return builder.sign(key, hashes.SHA256(), rsa_padding=padding.PKCS1v15())


def _check_size(what: str, pem: bytes) -> None:
    if len(pem) > MAX_PEM_BYTES:
        raise ImageError(f"{what} of {len(pem)} bytes; the limit is {MAX_PEM_BYTES}")


def _signature_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
