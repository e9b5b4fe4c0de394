"""The certificate table of a signed PE image, and the Authenticode signatures in it.

Implements WIN_CERTIFICATE (UEFI 2.10, 32.2.4), the part of PKCS #7 SignedData (RFC 2315, 9; RFC 5652, 5) that
"Windows Authenticode Portable Executable Signature Format" 1.0 uses, and its verification. DER is read
strictly: definite lengths, no more bytes than claimed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from measurements.chains import load_certificate
from measurements.errors import FormatError, LimitError, SignatureError
from measurements.events import Digest, HashAlgorithm
from measurements.formats.pe import PeImage

MAX_SIGNATURES: Final = 16
MAX_CERTIFICATES: Final = 32

_PKCS_SIGNED_DATA = 0x0002
_HEADER_SIZE = 8

_INTEGER, _OCTET_STRING, _OBJECT, _SEQUENCE, _SET = 0x02, 0x04, 0x06, 0x30, 0x31
_CONTEXT_0 = 0xA0

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_SPC_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_HASHES = {
    bytes.fromhex("2b0e03021a"): HashAlgorithm.SHA1,
    bytes.fromhex("608648016503040201"): HashAlgorithm.SHA256,
    bytes.fromhex("608648016503040202"): HashAlgorithm.SHA384,
    bytes.fromhex("608648016503040203"): HashAlgorithm.SHA512,
}
_HASHERS: Final[dict[HashAlgorithm, hashes.HashAlgorithm]] = {
    HashAlgorithm.SHA1: hashes.SHA1(),  # noqa: S303 - firmware still accepts it
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One Authenticode signature.

    Attributes:
        image_digest: digest of the image that was signed.
        signer: certificate whose key signed.
        certificates: every certificate that came along, the signer's included.
        attributes: signed attributes as the SET that was signed (DER); empty when the content itself was
            signed.
        content: contents of SpcIndirectDataContent, over which ``message_digest`` goes.
        message_digest: from the signed attributes.
        digest_algorithm: of attributes and content.
        signature: raw signature.
    """

    image_digest: Digest
    signer: x509.Certificate
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    attributes: bytes = field(repr=False)
    content: bytes = field(repr=False)
    message_digest: bytes | None
    digest_algorithm: HashAlgorithm
    signature: bytes = field(repr=False)

    def verify(self) -> None:
        """Check that the signer signed the image digest.

        Raises:
            SignatureError: it did not.
        """
        digest = Digest.of(self.digest_algorithm, self.content).value
        if self.attributes and self.message_digest != digest:
            raise SignatureError("the Authenticode signature's message digest does not fit its content")
        signed = self.attributes or self.content
        hasher = _HASHERS[self.digest_algorithm]
        try:
            key = self.signer.public_key()
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(self.signature, signed, padding.PKCS1v15(), hasher)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.signature, signed, ec.ECDSA(hasher))
            else:
                raise SignatureError("the Authenticode signer has neither an RSA nor an ECDSA key")
        except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
            raise SignatureError(
                "the Authenticode signature does not verify with its signer's key"
            ) from error

    def chains_to(self, anchor: x509.Certificate) -> bool:
        """Whether the signer is ``anchor`` or was issued by it, directly or through the certificates that
        came along.

        edk2 CryptoPkg/Library/BaseCryptLib/Pk/CryptPkcs7VerifyCommon.c: any certificate may be the anchor
        (X509_V_FLAG_PARTIAL_CHAIN), and time is not checked.
        """
        pending, seen = [self.signer], {self.signer}
        while pending:
            current = pending.pop()
            if current == anchor or _issued(anchor, current):
                return True
            issuers = [each for each in self.certificates if each not in seen and _issued(each, current)]
            seen.update(issuers)
            pending += issuers
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    tag: int
    body: bytes
    encoded: bytes


def signatures(image: PeImage) -> tuple[Signature, ...]:
    """Return the Authenticode signatures of an image, in order; empty for an unsigned one.

    Raises:
        FormatError: the certificate table or a signature is malformed.
        LimitError: too many signatures or certificates.
    """
    found: list[Signature] = []
    for data in _certificate_table(image):
        if len(found) == MAX_SIGNATURES:
            raise LimitError(f"PE image has more than {MAX_SIGNATURES} signatures")
        found.append(_parse(data))
    return tuple(found)


def _certificate_table(image: PeImage) -> Iterator[bytes]:
    offset, size = image.certificate_table
    end = offset + size
    while offset + _HEADER_SIZE < end:
        length, _, kind = struct.unpack_from("<IHH", image.data, offset)
        if length < _HEADER_SIZE or offset + length > end:
            raise FormatError(
                f"PE certificate at {offset} claims {length} bytes and leaves the table at {end}"
            )
        if kind == _PKCS_SIGNED_DATA:
            yield image.data[offset + _HEADER_SIZE : offset + length]
        offset += length + (-length % 8)


def _parse(data: bytes) -> Signature:
    outer = _children(_first(data, _SEQUENCE).body, 2)
    if outer[0].tag != _OBJECT or outer[0].body != _SIGNED_DATA:
        raise FormatError("PE certificate is no PKCS #7 SignedData")
    signed = _children(_first(outer[1].body, _SEQUENCE).body, 4)
    # version, digestAlgorithms, contentInfo, certificates [0], crls [1], signerInfos
    content_info, signer_infos = signed[2], signed[-1]
    certificates = next((element for element in signed[3:] if element.tag == _CONTEXT_0), None)
    if certificates is None or signer_infos.tag != _SET:
        raise FormatError("PKCS #7 SignedData has no certificates or no signer")
    content = _content(content_info)
    known = tuple(load_certificate(element.encoded) for element in _children(certificates.body, 1))
    info = _children(_first(signer_infos.body, _SEQUENCE).body, 5)
    # version, issuerAndSerialNumber, digestAlgorithm, [0] authenticated attributes, algorithm, signature
    signer = _signer(info[1], known)
    algorithm = _algorithm(info[2])
    attributes, message_digest = b"", None
    rest = info[3:]
    if rest[0].tag == _CONTEXT_0:
        # RFC 2315, 9.3: signed as a SET OF, stored with an implicit tag of the same length.
        attributes = bytes([_SET]) + rest[0].encoded[1:]
        message_digest = _message_digest(rest[0].body)
        rest = rest[1:]
    if len(rest) < 2 or rest[1].tag != _OCTET_STRING:
        raise FormatError("PKCS #7 SignerInfo ends before its signature")
    return Signature(
        image_digest=_image_digest(content),
        signer=signer,
        certificates=known,
        attributes=attributes,
        content=content,
        message_digest=message_digest,
        digest_algorithm=algorithm,
        signature=rest[1].body,
    )


def _content(info: _Element) -> bytes:
    parts = _children(info.body, 2)
    if parts[0].body != _SPC_INDIRECT_DATA:
        raise FormatError("PKCS #7 content is no SpcIndirectDataContent; the signature is not Authenticode")
    return _first(parts[1].body, _SEQUENCE).body


def _image_digest(content: bytes) -> Digest:
    # SpcIndirectDataContent ::= { data, messageDigest DigestInfo ::= { digestAlgorithm, digest } }
    info = _children(_children(content, 2)[1].body, 2)
    algorithm = _algorithm(info[0])
    return Digest(algorithm, info[1].body)


def _algorithm(element: _Element) -> HashAlgorithm:
    identifier = _children(element.body, 1)[0].body
    if identifier not in _HASHES:
        raise FormatError(
            f"PKCS #7 digest algorithm {identifier.hex()} is none of SHA-1, SHA-256, SHA-384, SHA-512"
        )
    return _HASHES[identifier]


def _message_digest(body: bytes) -> bytes:
    for attribute in _children(body, 1):
        parts = _children(attribute.body, 2)
        if parts[0].body == _MESSAGE_DIGEST:
            return _first(parts[1].body, _OCTET_STRING).body
    raise FormatError("PKCS #7 signed attributes hold no message digest")


def _signer(element: _Element, certificates: tuple[x509.Certificate, ...]) -> x509.Certificate:
    issuer, serial = _children(element.body, 2)[:2]
    if serial.tag != _INTEGER:
        raise FormatError("PKCS #7 SignerInfo names its signer in a way other than issuer and serial number")
    number = int.from_bytes(serial.body, "big", signed=True)
    for certificate in certificates:
        if certificate.serial_number == number and certificate.issuer.public_bytes() == issuer.encoded:
            return certificate
    raise FormatError("the certificate that signed the PE image is not among those in its signature")


def _issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    if issuer.subject != subject.issuer:
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _first(data: bytes, tag: int) -> _Element:
    element = next(_elements(data), None)
    if element is None or element.tag != tag:
        got = "nothing" if element is None else f"tag 0x{element.tag:02x}"
        raise FormatError(f"DER in a PE signature: expected tag 0x{tag:02x}, got {got}")
    return element


def _children(data: bytes, at_least: int) -> list[_Element]:
    found: list[_Element] = []
    for element in _elements(data):
        if len(found) == MAX_CERTIFICATES:
            raise LimitError(f"DER in a PE signature: more than {MAX_CERTIFICATES} members")
        found.append(element)
    if len(found) < at_least:
        raise FormatError(f"DER in a PE signature: expected {at_least} members, got {len(found)}")
    return found


def _elements(data: bytes) -> Iterator[_Element]:
    offset = 0
    while offset < len(data):
        if offset + 2 > len(data):
            raise FormatError("DER in a PE signature is cut")
        tag, length, start = data[offset], data[offset + 1], offset + 2
        if tag & 0x1F == 0x1F:
            raise FormatError("DER in a PE signature: tags of several bytes are not used here")
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or start + count > len(data):
                raise FormatError("DER in a PE signature: bad length")
            length = int.from_bytes(data[start : start + count], "big")
            start += count
        end = start + length
        if end > len(data):
            raise FormatError("DER in a PE signature is cut")
        yield _Element(tag=tag, body=data[start:end], encoded=data[offset:end])
        offset = end
