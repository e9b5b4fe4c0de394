"""Certificate chains (RFC 5280): reading them, and following one from a key to a root.

Whatever attests brings such a chain: a TPM's key, an AMD or Intel platform, a GPU, a signed manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from measurements.errors import FormatError, LimitError, SignatureError

MAX_ROOTS = 64
MAX_CERTIFICATES = 8
MAX_PEM_BYTES = 16 * 1024
#: Smallest RSA modulus in bits.
MIN_RSA_BITS = 2048

AttestationPublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def check_attestation_key(key: object) -> AttestationPublicKey:
    """Return ``key`` when it is of a kind that TPMs quote with.

    Raises:
        FormatError: it is not.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
            return key
        raise FormatError(f"attestation key: curve {key.curve.name}; expected P-256, P-384 or P-521")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size >= MIN_RSA_BITS:
            return key
        raise FormatError(f"attestation key: RSA of {key.key_size} bits; at least {MIN_RSA_BITS}")
    raise FormatError(f"attestation key: {type(key).__name__}; expected ECC or RSA")


def load_certificate(encoded: bytes) -> x509.Certificate:
    """Parse a DER certificate with everything of it that is used here.

    Raises:
        FormatError: it does not parse.
    """
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        _touch(certificate)
    except _MALFORMED as error:
        raise FormatError(f"X.509 certificate does not parse: {error}") from error
    return certificate


def load_certificates(pem: str) -> tuple[x509.Certificate, ...]:
    """Load one or more PEM certificates, such as a file of roots.

    Raises:
        FormatError: not PEM certificates.
        LimitError: too long or too many.
    """
    if len(pem) > MAX_ROOTS * MAX_PEM_BYTES:
        raise LimitError(f"certificates: {len(pem)} characters of PEM; at most {MAX_ROOTS * MAX_PEM_BYTES}")
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem.encode()))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise FormatError("certificates: not PEM (-----BEGIN CERTIFICATE-----)") from None
    try:
        for certificate in certificates:
            _touch(certificate)
    except _MALFORMED as error:
        raise FormatError(f"certificates: one does not parse: {error}") from error
    if len(certificates) > MAX_ROOTS:
        raise LimitError(f"certificates: {len(certificates)}; at most {MAX_ROOTS}")
    return certificates


#: What the library raises for a malformed certificate; older versions a KeyError, for kinds of text unknown to them.
_MALFORMED = (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion)


def _touch(certificate: x509.Certificate) -> None:
    """Read what the library parses on first use, so that it fails here and not later."""
    _ = certificate.subject, certificate.issuer.public_bytes(), certificate.tbs_certificate_bytes


def same_key(left: AttestationPublicKey, right: AttestationPublicKey) -> bool:
    """Say whether two keys are one key."""
    return _spki(left) == _spki(right)


def _spki(key: AttestationPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_chain(
    key: AttestationPublicKey,
    certificates: Iterable[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> x509.Certificate:
    """Verify that ``key`` is certified under one of ``roots`` (RFC 5280, 6.1).

    Name constraints, policies and revocation are not looked at; a certificate that demands one of them
    critically is refused.

    Args:
        key: the quote's key.
        certificates: the key's own first, each issued by the next; the root may be left out.
        roots: trust anchors.
        now: the moment, with a time zone, at which every certificate must be valid.

    Returns:
        The root.

    Raises:
        SignatureError: the chain does not hold; the message says where.
    """
    chain = list(certificates)
    if not 1 <= len(chain) <= MAX_CERTIFICATES:
        raise SignatureError(
            f"certificate chain: {len(chain)} certificates; expected 1 to {MAX_CERTIFICATES}"
        )
    leaf = chain[0]
    try:
        certified = check_attestation_key(leaf.public_key())
    except (ValueError, UnsupportedAlgorithm, FormatError) as error:
        raise SignatureError(f"certificate chain: the first certificate's key is unusable: {error}") from None
    if not same_key(certified, key):
        raise SignatureError("certificate chain: the first certificate is about another key than the quote's")
    anchors = {root.public_bytes(serialization.Encoding.DER): root for root in roots}
    if len(chain) > 1 and chain[-1].public_bytes(serialization.Encoding.DER) in anchors:
        chain.pop()
    root = next((item for item in roots if _issued(chain[-1], item)), None)
    if root is None:
        raise SignatureError(
            f"certificate chain: {_name(chain[-1])} is issued by none of the {len(roots)} trusted roots"
        )
    path = [*chain, root]
    for issued, issuer in pairwise(path):
        if not _issued(issued, issuer):
            raise SignatureError(f"certificate chain: {_name(issued)} is not issued by {_name(issuer)}")
    for depth, certificate in enumerate(path):
        _check_certificate(certificate, depth, now)
    return root


#: Critical extensions that are understood here.
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
_WEAK = ("md5", "sha1")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # whatever the library stumbles over in a hostile certificate means no
        return False
    return True


def _check_certificate(certificate: x509.Certificate, depth: int, now: datetime) -> None:
    name = _name(certificate)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise SignatureError(
            f"certificate chain: {name} is valid from {certificate.not_valid_before_utc.isoformat()} to "
            f"{certificate.not_valid_after_utc.isoformat()}, not at {now.isoformat()}"
        )
    try:
        algorithm = certificate.signature_hash_algorithm
        extensions = certificate.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise SignatureError(f"certificate chain: {name} is malformed: {error}") from None
    if algorithm is not None and algorithm.name in _WEAK:
        raise SignatureError(f"certificate chain: {name} is signed with {algorithm.name}")
    for extension in extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise SignatureError(
                f"certificate chain: {name} demands {extension.oid.dotted_string}, "
                "which is not understood here"
            )
    usage = next((item.value for item in extensions if isinstance(item.value, x509.KeyUsage)), None)
    constraints = next(
        (item.value for item in extensions if isinstance(item.value, x509.BasicConstraints)), None
    )
    if depth == 0:
        if constraints is not None and constraints.ca:
            raise SignatureError(f"certificate chain: {name} is an authority's, not an attestation key's")
        if usage is not None and not usage.digital_signature:
            raise SignatureError(f"certificate chain: {name} must not sign (key usage)")
        return
    if constraints is None or not constraints.ca:
        raise SignatureError(f"certificate chain: {name} is no authority (basic constraints)")
    if constraints.path_length is not None and depth - 1 > constraints.path_length:
        raise SignatureError(
            f"certificate chain: {name} allows {constraints.path_length} authorities below it"
        )
    if usage is not None and not usage.key_cert_sign:
        raise SignatureError(f"certificate chain: {name} must not certify (key usage)")


def _name(certificate: x509.Certificate) -> str:
    try:
        return repr(certificate.subject.rfc4514_string()[:120])
    except ValueError:
        return "a certificate without a readable subject"
