"""Enveloped XML signatures of one form: the one that NVIDIA's manifests carry.

W3C "XML Signature Syntax and Processing" 1.1, with ECDSA and SHA-384 (RFC 9231, 2.3.6): the signature is the last child
of the root, has one reference, and that covers the whole document but the signature. Everything else that the
specification knows (other references, transforms, algorithms, keys, objects) is refused, because what verifies is then
always all that is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from measurements.chains import load_certificate
from measurements.errors import FormatError, LimitError, SignatureError
from measurements.gpu.markup import Element, canonical

NAMESPACE: Final = "http://www.w3.org/2000/09/xmldsig#"
MAX_CERTIFICATES: Final = 8

#: Without comments; both give the same bytes of what `markup` reads.
_CANONICALISATIONS = (
    "http://www.w3.org/2006/12/xml-c14n11",
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
)
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_HALF = 48


class SignedDocument:
    """A document and its signature, which nobody has verified yet."""

    def __init__(self, root: Element) -> None:
        """Take the signature apart.

        Raises:
            FormatError: there is none, or it has another form.
            LimitError: it has too many certificates.
        """
        found = [child for child in root.elements() if child.name == (NAMESPACE, "Signature")]
        if len(found) != 1 or root.elements()[-1] is not found[0]:
            raise FormatError("XML signature: expected one, as the last element in the root")
        self._root, self._signature = root, found[0]
        info, value, key_info = _children(self._signature, "SignedInfo", "SignatureValue", "KeyInfo")
        self._info = info
        self._value = _base64(value, 2 * _HALF)
        self._digest = _reference(info)
        (data,) = _children(key_info, "X509Data")
        encoded = data.elements()
        if len(encoded) > MAX_CERTIFICATES:
            raise LimitError(f"XML signature: {len(encoded)} certificates; the limit is {MAX_CERTIFICATES}")
        if not encoded or any(each.name != (NAMESPACE, "X509Certificate") for each in encoded):
            raise FormatError("XML signature: expected X509Data with certificates alone")
        #: Certificates that came along; the signer's is the first. Nothing is said about trust.
        self.certificates: tuple[x509.Certificate, ...] = tuple(
            load_certificate(_base64(each)) for each in encoded
        )

    def content(self) -> tuple[Element, ...]:
        """Return the elements in the root that the signature covers: all but itself."""
        return tuple(child for child in self._root.elements() if child is not self._signature)

    def verify(self, key: object) -> None:
        """Check that ``key`` signed the document.

        Raises:
            SignatureError: it did not, or is no key on P-384.
        """
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise SignatureError("XML signature: the signer's key is not on P-384")
        digest = hashlib.sha384(canonical(self._root, without=self._signature)).digest()
        if not hmac.compare_digest(digest, self._digest):
            raise SignatureError("XML signature: the document is not the one that was signed")
        r, s = self._value[:_HALF], self._value[_HALF:]
        try:
            key.verify(
                encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")),
                canonical(self._info),
                ec.ECDSA(hashes.SHA384()),
            )
        except InvalidSignature:
            raise SignatureError("XML signature: it does not verify with the signer's key") from None


def _reference(info: Element) -> bytes:
    """Return the digest of the document, after SignedInfo was found to say exactly what is done here."""
    method, algorithm, reference = _children(info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _algorithm(method, *_CANONICALISATIONS)
    _algorithm(algorithm, _ECDSA_SHA384)
    if dict(reference.attributes) != {("", "URI"): ""}:
        raise FormatError('XML signature: expected a reference to the whole document, URI=""')
    transforms, digest_method, digest = _children(reference, "Transforms", "DigestMethod", "DigestValue")
    enveloped, canonicalisation = _children(transforms, "Transform", "Transform")
    _algorithm(enveloped, _ENVELOPED)
    _algorithm(canonicalisation, *_CANONICALISATIONS)
    _algorithm(digest_method, _SHA384)
    return _base64(digest, _HALF)


def _children(element: Element, *names: str) -> tuple[Element, ...]:
    found = element.elements()
    if [child.name for child in found] != [(NAMESPACE, name) for name in names]:
        raise FormatError(f"XML signature: {element.tag} does not hold {', '.join(names)} and nothing else")
    return found


def _algorithm(element: Element, *allowed: str) -> None:
    (name,) = element.attributes.values() if len(element.attributes) == 1 else (None,)
    if element.attributes.get(("", "Algorithm")) not in allowed or element.children:
        raise FormatError(
            f"XML signature: {element.tag} is {str(name)[:120]!r}; expected {' or '.join(allowed)}"
        )


def _base64(element: Element, size: int | None = None) -> bytes:
    try:
        value = base64.b64decode("".join(element.text().split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"XML signature: {element.tag} is no Base64: {error}") from error
    if size is not None and len(value) != size:
        raise FormatError(f"XML signature: {element.tag} has {len(value)} bytes; expected {size}")
    return value
