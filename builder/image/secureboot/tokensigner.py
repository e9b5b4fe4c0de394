"""Signers whose RSA keys stay in a PKCS #11 token; they sign what a file with the same key would sign."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from builder.errors import ImageError, TokenError, UsageError
from builder.image.secureboot.signer import DIGEST_INFO, KEY_SIZES, certify, load_certificate
from builder.tokens import uri as token_uri
from builder.tokens.ring import Tokens

if TYPE_CHECKING:
    from builder.tokens.token import TokenKey

#: Bytes of a file that says where a key is.
MAX_REFERENCE_BYTES: Final = token_uri.MAX_URI_LENGTH + 1


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A signer whose private key is in an open token.

    Attributes:
        certificate: the signer's.
        key: its RSA key.
    """

    certificate: x509.Certificate
    key: TokenKey

    def __post_init__(self) -> None:
        if self.certificate.public_key() != self.key.public_key:
            raise ImageError(f"{self.key.uri}: the key does not belong to the certificate; was it replaced?")

    def sign(self, digest: bytes) -> bytes:
        """See `Signer.sign`: CKM_RSA_PKCS over the DigestInfo (PKCS #11 3.1, 6.1.6).

        Raises:
            TokenError: the token refuses.
        """
        return self.key.sign("RSA_PKCS", DIGEST_INFO + digest)

    def reference(self) -> bytes:
        """Return what finds the key again: a line with its URI, and no PIN."""
        return f"{self.key.uri}\n".encode()


def check_fit(key: TokenKey) -> rsa.RSAPublicKey:
    """Return the public half of a key that firmware verifies.

    Raises:
        TokenError: it is no RSA key of a size in `KEY_SIZES`.
    """
    public = key.public_key
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size not in KEY_SIZES:
        kind = "RSA" if isinstance(public, rsa.RSAPublicKey) else "ECDSA"
        raise TokenError(
            f"{key.uri}: {kind} key of {public.key_size} bits; expected RSA of "
            f"{', '.join(map(str, KEY_SIZES))} bits, which firmware verifies"
        )
    return public


def certify_token_key(key: TokenKey, name: str, role: str, *, valid_from: date, years: int) -> TokenSigner:
    """Make the self-signed certificate of a key; arguments as `signer.new_signer`.

    Raises:
        UsageError: an argument is out of range.
        TokenError: the key is not fit, or its token refuses.
    """
    certificate = certify(_Interface(key), name, role, valid_from=valid_from, years=years)
    return TokenSigner(certificate, key)


def load_token_signer(reference: bytes, certificate_pem: bytes, tokens: Tokens) -> TokenSigner:
    """Find a signer's key again.

    Args:
        reference: as `TokenSigner.reference` made it; of at most `MAX_REFERENCE_BYTES`.
        certificate_pem: the signer's certificate.
        tokens: opens the token.

    Raises:
        UsageError: the reference is no URI, or names no PIN.
        ImageError: the certificate does not parse, or is another key's.
        TokenError: module, token, PIN or key is not fit.
    """
    certificate = load_certificate(certificate_pem)
    try:
        place = token_uri.parse(reference.decode().strip())
    except UnicodeDecodeError:
        raise UsageError("not a PKCS #11 URI: it is no text") from None
    return TokenSigner(certificate, tokens.key(place))


class _Interface(rsa.RSAPrivateKey):
    """A token's key as `cryptography` asks for one when it makes a certificate: it signs, and does nothing else.

    That library takes its own interface from others ("Using cloud HSM services" in its manual).
    """

    def __init__(self, key: TokenKey) -> None:
        self._key, self._public = key, check_fit(key)

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    def sign(self, data: bytes, padding_scheme: Any, algorithm: Any) -> bytes:
        assert isinstance(padding_scheme, padding.PKCS1v15) and isinstance(algorithm, hashes.SHA256)
        return self._key.sign("RSA_PKCS", DIGEST_INFO + hashlib.sha256(data).digest())

    def decrypt(self, *_: Any) -> NoReturn:
        raise TokenError("keys that sign do not decrypt")

    def private_numbers(self) -> NoReturn:
        raise TokenError("the key stays in its token")

    def private_bytes(self, *_: Any) -> NoReturn:
        raise TokenError("the key stays in its token")

    def __copy__(self) -> _Interface:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> _Interface:
        return self
