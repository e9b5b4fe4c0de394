"""Revocation as far as it can be had without a network: what somebody fetched before.

Certificate revocation lists (RFC 5280, 5 and 6.3) are read here, OCSP responses in `measurements.gpu.ocsp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from measurements.errors import FormatError, LimitError, SignatureError, VerificationError
from measurements.gpu.ocsp import status_of

#: Bytes of a list; how many lists, and how many responses, are read.
MAX_CRL_BYTES: Final = 4 << 20
MAX_STATUS_FILES: Final = 32

_PEM = b"-----BEGIN X509 CRL-----"


def load_crl(data: bytes) -> x509.CertificateRevocationList:
    """Load a revocation list, DER or PEM.

    Raises:
        FormatError: it does not parse, or covers a part of what its issuer certifies and not all: a delta list, one
            of a distribution point, or one with another critical extension.
        LimitError: it is larger than `MAX_CRL_BYTES`.
    """
    if len(data) > MAX_CRL_BYTES:
        raise LimitError(f"revocation list of {len(data)} bytes; the limit is {MAX_CRL_BYTES}")
    load = x509.load_pem_x509_crl if data.lstrip().startswith(_PEM) else x509.load_der_x509_crl
    try:
        crl = load(data)
        critical = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
        entries = [entry for entry in crl for extension in entry.extensions if extension.critical]
        # Parsed on first use; what does not parse must fail here.
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
    ) as error:
        raise FormatError(f"revocation list does not parse: {error}") from error
    if critical or entries:
        raise FormatError(
            f"revocation list with critical extensions ({', '.join(critical) or 'in an entry'}), which say that it is "
            "not the whole list of its issuer: expected one without"
        )
    return crl


def check_revocation(
    paths: Iterable[Sequence[x509.Certificate]],
    crls: Sequence[x509.CertificateRevocationList],
    responses: Sequence[ocsp.OCSPResponse],
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    """Check that no certificate is revoked.

    Args:
        paths: verified chains, each certificate issued by the next; the last one of each is a trusted root.
        crls: of issuers in these paths.
        responses: about certificates in these paths.
        at: moment, with a time zone, at which a list or response must be valid.

    Returns:
        The certificates below the roots that no list and no response is about.

    Raises:
        SignatureError: a list is of none of the issuers, or a response not of one that they authorised.
        VerificationError: a list or response is not valid at that moment, a response is about no certificate in the
            paths, or a certificate is revoked.
    """
    issued = {
        certificate.public_bytes(Encoding.DER): (certificate, issuer)
        for path in paths
        for certificate, issuer in pairwise(path)
    }
    covered = set()
    for crl in crls:
        name = crl.issuer.rfc4514_string()[:120]
        fitting = [key for key, (_, issuer) in issued.items() if _is_of(crl, issuer)]
        if not fitting:
            raise SignatureError(f"revocation list of {name!r}: no issuer in the chains signed it")
        if crl.next_update_utc is None or not crl.last_update_utc <= at <= crl.next_update_utc:
            raise VerificationError(
                f"revocation list of {name!r} is valid from {crl.last_update_utc.isoformat()} to "
                f"{crl.next_update_utc and crl.next_update_utc.isoformat()}, not at {at.isoformat()}"
            )
        for key in fitting:
            certificate, _ = issued[key]
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if entry is not None:
                raise VerificationError(
                    f"{certificate.subject.rfc4514_string()[:120]!r} was revoked on "
                    f"{entry.revocation_date_utc.isoformat()}"
                )
            covered.add(key)
    for response in responses:
        answered = {
            key
            for key, (certificate, issuer) in issued.items()
            if status_of(response, certificate, issuer, at)
        }
        if not answered:
            raise VerificationError("an OCSP response is about none of the certificates")
        covered |= answered
    return tuple(certificate for key, (certificate, _) in issued.items() if key not in covered)


def _is_of(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer != issuer.subject:
        return False
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        return False
    if usage is not None and not usage.crl_sign:
        return False
    try:
        return bool(crl.is_signature_valid(issuer.public_key()))  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
