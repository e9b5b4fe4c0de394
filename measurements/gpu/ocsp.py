"""Recorded answers about the status of certificates: OCSP (RFC 6960), without asking anybody."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from measurements.errors import FormatError, LimitError, SignatureError, VerificationError

#: Bytes of an answer, and statuses in one.
MAX_OCSP_BYTES: Final = 1 << 16
MAX_STATUSES: Final = 64
_MOST_CERTIFICATES = 8


def load_ocsp(data: bytes) -> ocsp.OCSPResponse:
    """Load an answer, DER.

    Raises:
        FormatError: it does not parse, or says that the responder had no answer.
        LimitError: it is larger than `MAX_OCSP_BYTES`, or holds too much.
    """
    if len(data) > MAX_OCSP_BYTES:
        raise LimitError(f"OCSP response of {len(data)} bytes; the limit is {MAX_OCSP_BYTES}")
    try:
        response = ocsp.load_der_ocsp_response(data)
        status = response.response_status
        if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise FormatError(f"OCSP response: the responder had no answer, but {status.name}")
        statuses, certificates = len(list(response.responses)), len(response.certificates)
        critical = [each.oid.dotted_string for each in response.extensions if each.critical]
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ) as error:
        raise FormatError(f"OCSP response does not parse: {error}") from error
    if statuses > MAX_STATUSES or certificates > _MOST_CERTIFICATES:
        raise LimitError(f"OCSP response with {statuses} statuses and {certificates} certificates")
    if critical:
        raise FormatError(
            f"OCSP response with critical extensions, which are not understood: {', '.join(critical)}"
        )
    return response


def status_of(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime
) -> bool:
    """Say whether an answer is about a certificate, and then that it is good.

    Args:
        response: from `load_ocsp`.
        certificate: issued by ``issuer``; both are trusted but for revocation.
        issuer: its issuer.
        at: moment, with a time zone, at which the answer must be valid.

    Returns:
        False when the answer is about other certificates.

    Raises:
        SignatureError: neither the issuer nor a responder that it authorised signed the answer.
        VerificationError: the certificate is revoked or unknown to the responder, or the answer is not valid then.
    """
    found = [each for each in response.responses if _is_about(each, certificate, issuer)]
    if not found:
        return False
    name = repr(certificate.subject.rfc4514_string()[:120])
    _check_responder(response, issuer, at, name)
    for single in found:
        until = single.next_update_utc
        if until is None or not single.this_update_utc <= at <= until:
            raise VerificationError(
                f"OCSP response about {name} is valid from {single.this_update_utc.isoformat()} to "
                f"{until and until.isoformat()}, not at {at.isoformat()}"
            )
        if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            raise VerificationError(
                f"{name} is {single.certificate_status.name.lower()}, says the OCSP response"
            )
    return True


def _is_about(
    single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> bool:
    """Compare CertID (RFC 6960, 4.1.1): the issuer's name and key, hashed, and the serial number."""
    if single.serial_number != certificate.serial_number:
        return False
    try:
        algorithm = single.hash_algorithm.name
    except UnsupportedAlgorithm:
        return False
    if algorithm not in ("sha1", "sha256", "sha384", "sha512"):
        return False
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    hashed = (hashlib.new(algorithm, part).digest() for part in (issuer.subject.public_bytes(), point))
    return (single.issuer_name_hash, single.issuer_key_hash) == tuple(hashed)


def _check_responder(response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime, name: str) -> None:
    """Check who signed (RFC 6960, 4.2.2.2): the issuer, or a certificate for OCSP that the issuer signed itself."""
    for candidate in (issuer, *response.certificates):
        if (candidate == issuer or _is_authorised(candidate, issuer, at)) and _signed(response, candidate):
            return
    raise SignatureError(
        f"OCSP response about {name}: no responder that its issuer authorised signed it at that time"
    )


def _signed(response: ocsp.OCSPResponse, responder: x509.Certificate) -> bool:
    try:
        key, algorithm = responder.public_key(), response.signature_hash_algorithm
        if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None or algorithm.name == "sha1":
            return False
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _is_authorised(responder: x509.Certificate, issuer: x509.Certificate, at: datetime) -> bool:
    try:
        responder.verify_directly_issued_by(issuer)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        valid = responder.not_valid_before_utc <= at <= responder.not_valid_after_utc
    except Exception:  # whatever the library stumbles over in a hostile certificate means no
        return False
    return valid and ExtendedKeyUsageOID.OCSP_SIGNING in usage
