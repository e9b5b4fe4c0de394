"""PKCS #7 SignedData (RFC 2315, 9.1) by one signer, without anything that changes from one time to the next."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from builder.image.secureboot import der
from builder.image.secureboot.signer import Signer, sign_checked

DATA: Final = "1.2.840.113549.1.7.1"
SIGNED_DATA: Final = "1.2.840.113549.1.7.2"

_RSA = "1.2.840.113549.1.1.1"
_SHA256 = "2.16.840.1.101.3.4.2.1"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
#: ContentInfo of data that is elsewhere (RFC 2315, 7).
_PLAIN = der.sequence(der.object_identifier(DATA))


def sha256_identifier() -> bytes:
    """Return AlgorithmIdentifier of SHA-256, with the NULL parameters that every verifier knows."""
    return der.sequence(der.object_identifier(_SHA256), der.null())


def detached(content: bytes, signer: Signer) -> bytes:
    """Return SignedData over ``content``, which is not inside; signed directly, without attributes.

    Raises:
        ImageError: the signer's key is not fit, or is not that of its certificate.
    """
    signer_info = _signer_info(
        signer.certificate, sha256_identifier(), attributes=b"", signature=sign_checked(signer, content)
    )
    return _signed_data(_PLAIN, signer_info, sha256_identifier(), certificate=signer.certificate)


def bare(signature: bytes, certificate: x509.Certificate) -> bytes:
    """Return SignedData around an RSA signature over content that is not inside; verifies nothing.

    It has neither attributes nor certificates: a verifier finds the signer's by issuer and serial number. SHA-256's
    identifier has no parameters (RFC 5754, 2). These are the bytes of the kernel's scripts/sign-file, and of
    ``openssl cms -sign -binary -noattr -nocerts -md sha256``.
    """
    identifier = der.sequence(der.object_identifier(_SHA256))
    signer_info = _signer_info(certificate, identifier, attributes=b"", signature=signature)
    return _signed_data(_PLAIN, signer_info, identifier, certificate=None)


def attached(content_type: str, content: bytes, signer: Signer) -> bytes:
    """Return SignedData that carries the SEQUENCE ``content`` and signs attributes with its digest.

    Args:
        content_type: object identifier of what the content is.
        content: contents of the SEQUENCE, without its tag and length, which no digest covers (RFC 2315, 9.3).

    Raises:
        ImageError: as `detached`.
    """
    attributes = der.set_of(
        _attribute(_CONTENT_TYPE, der.object_identifier(content_type)),
        _attribute(_MESSAGE_DIGEST, der.octet_string(hashlib.sha256(content).digest())),
    )
    # Signed as the SET, stored as [0] with the same length and content (RFC 2315, 9.3).
    signer_info = _signer_info(
        signer.certificate,
        sha256_identifier(),
        attributes=b"\xa0" + attributes[1:],
        signature=sign_checked(signer, attributes),
    )
    info = der.sequence(der.object_identifier(content_type), der.explicit(0, der.sequence(content)))
    return _signed_data(info, signer_info, sha256_identifier(), certificate=signer.certificate)


def content_info(signed_data: bytes) -> bytes:
    """Return ContentInfo (RFC 2315, 7) around SignedData."""
    return der.sequence(der.object_identifier(SIGNED_DATA), der.explicit(0, signed_data))


def _signed_data(
    info: bytes, signer_info: bytes, identifier: bytes, *, certificate: x509.Certificate | None
) -> bytes:
    return der.sequence(
        der.integer(1),
        der.set_of(identifier),
        info,
        der.explicit(0, certificate.public_bytes(Encoding.DER)) if certificate else b"",
        der.set_of(signer_info),
    )


def issuer_and_serial(certificate: x509.Certificate) -> bytes:
    """Return IssuerAndSerialNumber (RFC 2315, 6.7), by which a SignerInfo names its signer."""
    return der.sequence(certificate.issuer.public_bytes(), der.integer(certificate.serial_number))


def _signer_info(
    certificate: x509.Certificate, identifier: bytes, *, attributes: bytes, signature: bytes
) -> bytes:
    return der.sequence(
        der.integer(1),
        issuer_and_serial(certificate),
        identifier,
        attributes,
        der.sequence(der.object_identifier(_RSA), der.null()),
        der.octet_string(signature),
    )


def _attribute(identifier: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(identifier), der.set_of(value))
