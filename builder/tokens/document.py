"""Signs golden documents with ECDSA keys that stay in a PKCS #11 token."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from builder.errors import TokenError
from measurements.errors import SignatureError
from measurements.keys import KeyAlgorithm, PublicKey

if TYPE_CHECKING:
    from builder.tokens.token import TokenKey

_HASHES = {KeyAlgorithm.ECDSA_P256: hashlib.sha256, KeyAlgorithm.ECDSA_P384: hashlib.sha384}


class TokenDocumentKey:
    """A `measurements.keys.SigningKey` on P-256 or P-384.

    Tokens choose their own random number for each signature, so one document signed twice gives two envelopes.
    """

    def __init__(self, key: TokenKey) -> None:
        """Take a key of an open token.

        Raises:
            TokenError: golden documents are not signed with such keys.
        """
        public = key.public_key
        try:
            if isinstance(public, rsa.RSAPublicKey):
                raise SignatureError(f"RSA key of {public.key_size} bits; expected ECDSA on P-256 or P-384")
            self._public = PublicKey(public)
            self._hash = _HASHES[self._public.algorithm]
        except SignatureError as error:
            raise TokenError(f"{key.uri}: {error}") from error
        self._key = key

    def public(self) -> PublicKey:
        """Return the public half."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the DER signature over ``message``; verified, because a token may hold another private half.

        Raises:
            TokenError: the token refuses, or what it made does not verify.
        """
        raw = self._key.sign("ECDSA", self._hash(message).digest())  # r ‖ s (PKCS #11 3.1, 6.3.1)
        half = len(raw) // 2
        signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
        try:
            self._public.verify(signature, message)
        except SignatureError as error:
            raise TokenError(f"{self._key.uri}: what the token signed does not verify: {error}") from error
        return signature
