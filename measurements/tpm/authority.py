"""Which entry of the signature database lets the firmware start an image.

Implements edk2 SecurityPkg/Library/DxeImageVerificationLib/DxeImageVerificationLib.c,
DxeImageVerificationHandler, as far as its outcome is certain. Where it is not, the reason is given instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from cryptography import x509

from measurements.chains import load_certificate
from measurements.errors import FormatError, NotPredictableError, SignatureError
from measurements.events import Digest, HashAlgorithm
from measurements.formats import efivar, pkcs7
from measurements.formats.efivar import CERT_SHA256, CERT_X509, Signature
from measurements.formats.pe import PeImage

#: UEFI 2.10, 32.4.1: EFI_CERT_SHA384_GUID, EFI_CERT_SHA512_GUID.
_HASH_LISTS: Final = {
    CERT_SHA256: HashAlgorithm.SHA256,
    UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): HashAlgorithm.SHA384,
    UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"): HashAlgorithm.SHA512,
}
#: EFI_CERT_X509_SHA256_GUID and its siblings: digest of a certificate's to-be-signed part ‖ EFI_TIME (16
#: bytes).
_CERTIFICATE_DIGEST_LISTS: Final = {
    UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): HashAlgorithm.SHA256,
    UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"): HashAlgorithm.SHA384,
    UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"): HashAlgorithm.SHA512,
}


def authorise(image: PeImage, db: bytes, dbx: bytes) -> Signature:
    """Return the db entry that allows ``image``; ``db`` and ``dbx`` are contents of the variables.

    Raises:
        NotPredictableError: no entry allows it, dbx forbids it, or the firmware's choice is not certain; the
            message says which.
        FormatError: a database is corrupt.
    """
    allowed, forbidden = efivar.parse_signature_lists(db), efivar.parse_signature_lists(dbx)
    if next(_hash_matches(image, forbidden), None) is not None:
        raise NotPredictableError("Secure Boot forbids the image: dbx lists its digest")
    try:
        signatures = pkcs7.signatures(image)
    except FormatError as error:
        raise NotPredictableError(f"Secure Boot cannot be predicted: {error}") from error
    # Each signature in turn: first the certificates of db, then the image's digest.
    for signature in signatures:
        entry = _allowing_certificate(image, signature, allowed, forbidden)
        if entry is not None:
            return entry
    match = next(_hash_matches(image, allowed), None)
    if match is not None:
        return match
    state = "none of its signatures chains to a certificate in db" if signatures else "it is not signed"
    raise NotPredictableError(f"Secure Boot would refuse the image: {state}, and db does not list its digest")


def _allowing_certificate(
    image: PeImage,
    signature: pkcs7.Signature,
    allowed: tuple[efivar.SignatureList, ...],
    forbidden: tuple[efivar.SignatureList, ...],
) -> Signature | None:
    if image.authenticode(signature.image_digest.algorithm) != signature.image_digest:
        return None
    try:
        signature.verify()
    except SignatureError:
        return None
    if any(signature.chains_to(root) for _, root in _certificates(forbidden)):
        raise NotPredictableError("Secure Boot forbids the image: dbx lists a certificate of its signature")
    if _revoked_by_digest(signature, forbidden):
        raise NotPredictableError(
            "Secure Boot cannot be predicted: dbx revokes a certificate of the image's signature by "
            "digest and time"
        )
    # The first certificate in db's order that the signature chains to is the authority.
    return next((entry for entry, root in _certificates(allowed) if signature.chains_to(root)), None)


def _revoked_by_digest(signature: pkcs7.Signature, forbidden: tuple[efivar.SignatureList, ...]) -> bool:
    for entries in forbidden:
        algorithm = _CERTIFICATE_DIGEST_LISTS.get(entries.type)
        if algorithm is None:
            continue
        revoked = {entry.data[: algorithm.size] for entry in entries.signatures}
        for certificate in signature.certificates:
            if Digest.of(algorithm, certificate.tbs_certificate_bytes).value in revoked:
                return True
    return False


def _certificates(
    lists: tuple[efivar.SignatureList, ...],
) -> Iterator[tuple[Signature, x509.Certificate]]:
    for entries in lists:
        if entries.type == CERT_X509:
            for entry in entries.signatures:
                try:
                    yield entry, load_certificate(entry.data)
                except FormatError as error:
                    # The firmware's parser may be more lenient, and then this entry could be the authority.
                    raise NotPredictableError(
                        f"Secure Boot cannot be predicted: db or dbx holds a bad certificate ({error})"
                    ) from error


def _hash_matches(image: PeImage, lists: tuple[efivar.SignatureList, ...]) -> Iterator[Signature]:
    for entries in lists:
        algorithm = _HASH_LISTS.get(entries.type)
        if algorithm is None:
            continue
        digest = image.authenticode(algorithm).value
        for entry in entries.signatures:
            if entry.data == digest:
                yield entry
