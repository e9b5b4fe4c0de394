"""The same keys in the forms that clouds take for custom Secure Boot keys.

Google Cloud takes the DER certificates as they are (gcloud compute images create --platform-key-file,
--key-exchange-key-file, --signature-database-file). Azure and EC2 want forms of their own.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from builder.errors import ImageError
from builder.image.secureboot.variables import ATTRIBUTES, AuthenticatedVariable, Enrolment

#: EC2 API reference, RegisterImage, UefiData: characters.
MAX_UEFI_DATA: Final = 64000

_EC2_MAGIC = b"AMZNUEFI"
_EC2_VERSION = 0
_NO_DIGEST = bytes(32)
_ZLIB_HEADER = b"\x78\x01"  # RFC 1950, 2.2: deflate, window of 32 KiB, no preset dictionary
_STORED_LIMIT = 0xFFFF
_CRC32C = 0x82F63B78  # Castagnoli's polynomial, reflected (RFC 3720, appendix B.4)


def azure_security_profile(enrolment: Enrolment) -> dict[str, Any]:
    """Return ``securityProfile`` of a Compute Gallery image version: these keys, and none of Microsoft's.

    Azure, "Secure Boot UEFI keys" (trusted-launch-secure-boot-custom-uefi): each value is base64, of a
    certificate's DER or a digest. It goes below ``properties`` of the request that creates the version.
    """

    def certificates(found: Sequence[x509.Certificate]) -> dict[str, Any]:
        return {"type": "x509", "value": [_base64(each.public_bytes(Encoding.DER)) for each in found]}

    return {
        "uefiSettings": {
            "signatureTemplateNames": ["NoSignatureTemplate"],
            "additionalSignatures": {
                "pk": certificates((enrolment.platform_key,)),
                "kek": [certificates((enrolment.key_exchange_key,))],
                "db": [certificates(enrolment.allowed)],
                "dbx": [{"type": "sha256", "value": [_base64(each) for each in enrolment.forbidden]}],
            },
        }
    }


def ec2_uefi_data(variables: Sequence[AuthenticatedVariable]) -> str:
    """Return the text for ``aws ec2 register-image --uefi-data``.

    The format is what awslabs/python-uefivars reads and writes (pyuefivars/aws.py, version 0): base64 of "AMZNUEFI"
    ‖ u32 CRC-32C of the rest ‖ u32 version ‖ zlib stream of u64 count and the variables, each as name, data,
    GUID, attributes, time and digest. The stream is stored, not compressed, so that no release of zlib decides
    its bytes; a preset dictionary is what readers offer and a stream need not use (RFC 1950, 2.2).

    Raises:
        ImageError: the text is longer than EC2 takes.
    """
    content = struct.pack("<Q", len(variables)) + b"".join(_ec2_variable(each) for each in variables)
    rest = struct.pack("<I", _EC2_VERSION) + _zlib_stored(content)
    text = _base64(_EC2_MAGIC + struct.pack("<I", _crc32c(rest)) + rest)
    if len(text) > MAX_UEFI_DATA:
        raise ImageError(
            f"UEFI data of {len(text)} characters; EC2 takes {MAX_UEFI_DATA}", hint="shorten dbx or the keys"
        )
    return text


def _ec2_variable(variable: AuthenticatedVariable) -> bytes:
    def sized(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    # The digest names the owner of a private authenticated variable; Secure Boot's four have none: zeros.
    return (
        sized(variable.name.encode())
        + sized(variable.data)
        + variable.guid.bytes_le
        + struct.pack("<I", ATTRIBUTES)
        + variable.time
        + sized(_NO_DIGEST)
    )


def _zlib_stored(content: bytes) -> bytes:
    # RFC 1951, 3.2.4: blocks of type 00, each with its length and the complement of that.
    blocks = b""
    for offset in range(0, len(content) or 1, _STORED_LIMIT):
        block = content[offset : offset + _STORED_LIMIT]
        final = offset + _STORED_LIMIT >= len(content)
        blocks += struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF) + block
    return _ZLIB_HEADER + blocks + struct.pack(">I", zlib.adler32(content))


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
