"""Signatures of kernel modules: made by the key in db, published detached, put back by anyone.

A signed module is the module, a PKCS #7 SignedData over it, a fixed structure and a fixed text (Linux,
include/linux/module_signature.h, Documentation/admin-guide/module-signing.rst). The kernel looks the signer up by
issuer and serial number, in Debian's kernel also in the keyring of the firmware's db.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from builder.errors import ImageError
from builder.image.secureboot import signeddata
from builder.image.secureboot.signer import Signer, rsa_public_key, sign_checked

MARKER: Final = b"~Module signature appended~\n"
MAX_SIGNATURE_SIZE: Final = 1 << 16

#: struct module_signature: algo, hash, id_type, signer_len, key_id_len, three bytes of padding, sig_len (big endian).
_TRAILER = struct.Struct(">BBBBB3xI")
_PKEY_ID_PKCS7 = 2


def sign_module(module: bytes, signer: Signer) -> tuple[bytes, bytes]:
    """Return the signed module and the detached signature (PKCS #7 ContentInfo, DER).

    Both follow from the module and the key alone: no time, no attributes (RFC 2315, 9.3, and the kernel's
    crypto/asymmetric_keys/pkcs7_parser.c, which refuses attributes in modules).

    Raises:
        ImageError: the module is signed already, or the signer's key is not fit.
    """
    _require_unsigned(module)
    signature = signeddata.content_info(signeddata.bare(sign_checked(signer, module), signer.certificate))
    return attach_module_signature(module, signature), signature


def attach_module_signature(module: bytes, signature: bytes) -> bytes:
    """Return the signed module that `sign_module` made when it returned ``signature``; needs no key.

    Whether the signature holds, `check_module_signature` says.

    Raises:
        ImageError: the module is signed already, or the signature is empty or too large.
    """
    _require_unsigned(module)
    if not 0 < len(signature) <= MAX_SIGNATURE_SIZE:
        raise ImageError(f"module signature of {len(signature)} bytes; expected 1 to {MAX_SIGNATURE_SIZE}")
    trailer = _TRAILER.pack(0, 0, _PKEY_ID_PKCS7, 0, 0, len(signature))
    return module + signature + trailer + MARKER


def check_module_signature(module: bytes, signature: bytes, certificate: x509.Certificate) -> None:
    """Make sure that ``signature`` is what `sign_module` returns for this module and this certificate's key.

    There is one such text of bytes: RSASSA-PKCS1-v1_5 takes no random number (RFC 8017, 8.2), and only our own
    encoding is accepted, which is sign-file's too. So who hands signatures on has nothing to choose that would reach
    the image.

    Raises:
        ImageError: it is another's, about other bytes, or of another form; or the certificate's key is not fit.
    """
    key = rsa_public_key(certificate)
    signer = certificate.subject.rfc4514_string()
    if signeddata.issuer_and_serial(certificate) not in signature:
        raise ImageError(
            f"the signature names another signer than {signer}, serial number {certificate.serial_number:x}",
            hint="give the certificate that belongs to the signatures, or the signatures of this key",
        )
    raw = signature[-(key.key_size // 8) :]
    if signature != signeddata.content_info(signeddata.bare(raw, certificate)):
        raise ImageError(
            f"the signature of {signer} is not of the form that the kernel's sign-file writes: PKCS #7, detached, "
            "RSA with SHA-256, no attributes, no certificates, nothing behind it",
            hint="goldsmith keys sign-modules, or openssl cms -sign -binary -noattr -nocerts -md sha256",
        )
    try:
        key.verify(raw, module, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise ImageError(
            f"the signature of {signer} is about other bytes than this module's, or was changed",
            hint="was the module signed in a release of another lock or recipe?",
        ) from None


def split_module(module: bytes) -> tuple[bytes, bytes]:
    """Return the unsigned module and its signature, which is empty where there is none.

    Raises:
        ImageError: the marker is there, and what stands before it is no signature of the kernel's form.
    """
    if not module.endswith(MARKER):
        return module, b""
    end = len(module) - len(MARKER) - _TRAILER.size
    if end < 0:
        raise ImageError("kernel module: shorter than the trailer of its signature")
    algorithm, digest, kind, signer, key, size = _TRAILER.unpack_from(module, end)
    if (algorithm, digest, kind, signer, key) != (0, 0, _PKEY_ID_PKCS7, 0, 0) or size > end:
        raise ImageError(
            f"kernel module: a signature of kind {kind} and {size} bytes; expected PKCS #7 "
            f"({_PKEY_ID_PKCS7}) within the file"
        )
    return module[: end - size], module[end - size : end]


def _require_unsigned(module: bytes) -> None:
    if module.endswith(MARKER):
        raise ImageError("the kernel module is signed already: expected the unsigned one")
