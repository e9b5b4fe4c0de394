"""Authenticode: signs a PE image, and puts a published signature back into its unsigned bytes.

Implements "Windows Authenticode Portable Executable Signature Format" 1.0 and the attribute certificate table of
the Microsoft PE Format. The signature follows from image and key alone, and the signed image from image and
signature: whoever has the unsigned image and the detached signature has the signed image, byte for byte.
"""

from __future__ import annotations

import struct
from typing import Final

from builder.errors import ImageError
from builder.image.secureboot import der, signeddata
from builder.image.secureboot.signer import Signer
from measurements.errors import SignatureError
from measurements.events import HashAlgorithm
from measurements.formats import pe, pkcs7

#: Firmware hashes the file as it is, other tools round it up to this: only where both agree is an image signed.
ALIGNMENT: Final = 8
#: Bytes of a detached signature: room for a chain of certificates.
MAX_SIGNATURE_SIZE: Final = 1 << 16

_PE32_PLUS = 0x20B
_COFF_HEADER_SIZE = 20
_CHECKSUM = 64  # from the optional header, as the next two
_DIRECTORY_COUNT, _SECURITY_DIRECTORY = 108, 112 + 8 * 4
_REVISION_2, _PKCS_SIGNED_DATA = 0x0200, 0x0002

_SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
_SPC_PE_IMAGE_DATA = "1.3.6.1.4.1.311.2.1.15"
_OBSOLETE = "<<<Obsolete>>>".encode("utf-16-be")
_NO_FLAGS = b"\x03\x01\x00"  # BIT STRING without bits


def sign_pe(image: bytes, signer: Signer) -> tuple[bytes, bytes]:
    """Return the signed image and the detached signature (PKCS #7 ContentInfo, DER).

    Args:
        image: an unsigned x86-64 PE32+ image, a multiple of 8 bytes.
        signer: signs with SHA-256; its certificate goes into the signature.

    Raises:
        ImageError: the image is signed already, has another size or form, or the signer's key is not fit.
        FormatError: firmware would not load the image.
    """
    parsed, _, _ = _unsigned(image)
    digest = parsed.authenticode(HashAlgorithm.SHA256).value
    # SpcIndirectDataContent ::= { data SpcAttributeTypeAndOptionalValue, messageDigest DigestInfo }
    link = der.explicit(2, der.implicit_string(0, _OBSOLETE))
    data = der.sequence(
        der.object_identifier(_SPC_PE_IMAGE_DATA), der.sequence(_NO_FLAGS, der.explicit(0, link))
    )
    digest_info = der.sequence(signeddata.sha256_identifier(), der.octet_string(digest))
    signed_data = signeddata.attached(_SPC_INDIRECT_DATA, data + digest_info, signer)
    signature = signeddata.content_info(signed_data)
    return attach_signature(image, signature), signature


def attach_signature(image: bytes, signature: bytes) -> bytes:
    """Return the signed image that `sign_pe` made of ``image`` when it returned ``signature``; needs no key.

    Whether the signer is to be trusted is not judged: firmware does that, and `measurements`' prediction of PCR 7.

    Raises:
        ImageError: the signature is one of another image, does not verify, or is too large; or the image is
            signed already, or has another size or form than `sign_pe` takes.
        FormatError: the image or the signature is malformed.
    """
    _, checksum, entry = _unsigned(image)
    if len(signature) > MAX_SIGNATURE_SIZE:
        raise ImageError(f"PE signature has {len(signature)} bytes; the limit is {MAX_SIGNATURE_SIZE}")
    # WIN_CERTIFICATE: its length leaves out the padding, the directory's includes it (PE Format, "The Attribute
    # Certificate Table").
    table = struct.pack("<IHH", 8 + len(signature), _REVISION_2, _PKCS_SIGNED_DATA) + signature
    table += bytes(-len(table) % ALIGNMENT)
    signed = bytearray(image + table)
    struct.pack_into("<II", signed, entry, len(image), len(table))
    struct.pack_into("<I", signed, checksum, 0)
    struct.pack_into("<I", signed, checksum, _checksum(signed))
    result = bytes(signed)
    _check(result)
    return result


def _unsigned(image: bytes) -> tuple[pe.PeImage, int, int]:
    """Return the image, and the offsets of its checksum and of the certificate table's directory entry."""
    parsed = pe.parse(image)
    if image[:2] != b"MZ":
        raise ImageError("PE image without a DOS header: expected one, as every EFI stub has it")
    optional = struct.unpack_from("<I", image, 0x3C)[0] + 4 + _COFF_HEADER_SIZE
    (magic,) = struct.unpack_from("<H", image, optional)
    if magic != _PE32_PLUS:
        raise ImageError(f"PE optional header magic 0x{magic:04x}: expected 0x{_PE32_PLUS:04x} (64 bits)")
    (directories,) = struct.unpack_from("<I", image, optional + _DIRECTORY_COUNT)
    if directories <= 4:
        raise ImageError(f"PE image with {directories} data directories has no place for a signature")
    if parsed.certificate_table != (0, 0):
        raise ImageError(
            "the PE image is signed already: expected the unsigned one, which signing never changes"
        )
    if len(image) % ALIGNMENT:
        raise ImageError(
            f"PE image of {len(image)} bytes: expected a multiple of {ALIGNMENT}, because signing tools and "
            "firmware hash other sizes differently"
        )
    return parsed, optional + _CHECKSUM, optional + _SECURITY_DIRECTORY


def _check(signed: bytes) -> None:
    image = pe.parse(signed)
    found = pkcs7.signatures(image)
    if len(found) != 1:
        raise ImageError(f"the PE image carries {len(found)} signatures after signing, expected one")
    (signature,) = found
    if image.authenticode(signature.image_digest.algorithm) != signature.image_digest:
        raise ImageError(
            f"the signature is one of another image: it signs {signature.image_digest}, this image is "
            f"{image.authenticode(signature.image_digest.algorithm)}"
        )
    try:
        signature.verify()
    except SignatureError as error:
        raise ImageError(f"the PE image's signature does not hold: {error}") from error


def _checksum(image: bytes | bytearray) -> int:
    # PE Format, "Optional Header", CheckSum, as IMAGHELP computes it: the sum of the file's 16-bit words with
    # the carries added in, plus its length. That sum is the whole file as one number modulo ffff, except that
    # only zeros sum to zero. Firmware does not look at it; some signature tools do.
    value = int.from_bytes(image, "little")
    return (value % 0xFFFF or (0xFFFF if value else 0)) + len(image)
