"""Modules, tokens and keys (PKCS #11 3.1), in our words. Keys never leave a token."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag, _pkcs11
from pkcs11.util.ec import encode_ec_public_key

from builder.errors import TokenError, UsageError
from builder.tokens.uri import TokenUri

Module = _pkcs11.lib
TokenPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_ID_BYTES = 8
# What a return value means for whoever typed the command; the others keep their own name.
_MEANINGS = {
    "PinIncorrect": "the PIN is wrong",
    "PinInvalid": "the PIN has characters that the token does not take",
    "PinLenRange": "the PIN is too short or too long",
    "PinLocked": "the PIN is locked after too many wrong ones",
    "PinExpired": "the PIN has expired",
    "UserPinNotInitialized": "the token has no user PIN yet",
    "TokenWriteProtected": "the token is write-protected",
    "TokenNotPresent": "the token has gone",
    "DeviceRemoved": "the token has gone",
    "DeviceMemory": "the token is full",
    "KeySizeRange": "the token does not take keys of this size",
    "MechanismInvalid": "the token does not offer the mechanism",
}


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key in a token that is open.

    Attributes:
        uri: names the key, and holds no PIN.
        public_key: its public half.
    """

    uri: TokenUri
    public_key: TokenPublicKey
    _object: pkcs11.SignMixin = field(repr=False)
    _pin: str | None = field(repr=False)

    def sign(self, mechanism: str, data: bytes) -> bytes:
        """Sign with one call of C_Sign.

        Args:
            mechanism: its name without "CKM_": "RSA_PKCS" over a DigestInfo (gives as many bytes as the modulus
                has), "ECDSA" over a digest (gives r ‖ s, each as long as the order of the curve).
            data: what the mechanism signs.

        Raises:
            TokenError: the token refuses.
        """
        with _told(f"{self.uri}: signing with CKM_{mechanism}"):
            # With CKA_ALWAYS_AUTHENTICATE each signature wants the PIN again (PKCS #11 3.1, 4.9).
            again = self._pin if _optional(self._object, Attribute.ALWAYS_AUTHENTICATE) else None
            return self._object.sign(data, mechanism=pkcs11.Mechanism[mechanism], pin=again)


def load(path: str) -> Module:
    """Load a PKCS #11 module into this process.

    Raises:
        TokenError: it is not there, or is none.
    """
    if not Path(path).is_file():  # a bare name would be looked for wherever the dynamic loader looks
        raise TokenError(f"PKCS #11 module {path}: there is no such file")
    with _told("PKCS #11 module does not load"):
        module: Module = pkcs11.lib(path)
        return module


def close(sessions: Iterable[pkcs11.Session], modules: Iterable[Module]) -> None:
    """Log out, and let modules forget their state; a token that was pulled out is no error."""
    for session in sessions:
        with contextlib.suppress(pkcs11.PKCS11Error):
            session.close()
    for module in modules:
        with contextlib.suppress(pkcs11.PKCS11Error):
            module.finalize()


def find_token(module: Module, uri: TokenUri) -> pkcs11.Token:
    """Return the one initialised token that a URI names.

    Raises:
        TokenError: there is none, or more than one.
    """
    found = []
    with _told(f"{uri}: looking for the token"):
        for slot in module.get_slots(token_present=True):
            with contextlib.suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                token = slot.get_token()
                if TokenFlag.TOKEN_INITIALIZED in token.flags:
                    found.append(token)
    fitting = [token for token in found if _fits(module, token, uri)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(f"{token.label!r} (serial {_serial(token)})" for token in fitting or found))
    if fitting:
        raise TokenError(f"{uri}: {len(fitting)} tokens fit: {names}", hint="name one with token= or serial=")
    raise TokenError(
        f"{uri}: no such token; the module shows {names or 'none'}", hint="is it plugged in and initialised?"
    )


def login(token: pkcs11.Token, uri: TokenUri, pin: str | None) -> pkcs11.Session:
    """Open a read-only session and log in as the user; without a PIN, through the token's own key pad.

    Raises:
        UsageError: the token wants a PIN, and has no key pad.
        TokenError: the token refuses.
    """
    secret: Any = pin
    if pin is None and TokenFlag.LOGIN_REQUIRED in token.flags:
        if TokenFlag.PROTECTED_AUTHENTICATION_PATH not in token.flags:
            raise UsageError(
                f"{uri}: the token wants a PIN",
                hint="pin-source=FILE in the URI, or the PIN in an environment variable (docs/secure-boot.md)",
            )
        secret = pkcs11.PROTECTED_AUTH
    with _told(f"{uri}: logging in"):
        return token.open(user_pin=secret)


def find_key(session: pkcs11.Session, uri: TokenUri, pin: str | None) -> TokenKey | None:
    """Return the one private key that a URI names, or nothing when there is none.

    Raises:
        TokenError: more than one fits, it does not sign, or its public half is not to be had.
    """
    wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    wanted |= {Attribute.LABEL: uri.label} if uri.label is not None else {}
    wanted |= {Attribute.ID: uri.id} if uri.id is not None else {}
    with _told(f"{uri}: looking for the key"):
        found = list(session.get_objects(wanted))
        if len(found) > 1:
            names = ", ".join(sorted({repr(each[Attribute.LABEL]) for each in found}))
            raise TokenError(
                f"{uri}: {len(found)} private keys fit: {names}", hint="name one with object= or id="
            )
        if not found:
            return None
        (key,) = found
        uri = uri.of_key(label=key[Attribute.LABEL], identifier=key[Attribute.ID])
        if not isinstance(key, pkcs11.SignMixin):
            raise TokenError(f"{uri}: the key does not sign (CKA_SIGN)")
        return TokenKey(uri, _public_key(uri, session, key), key, pin)


def generate_rsa(session: pkcs11.Session, uri: TokenUri, size: int, pin: str | None) -> TokenKey:
    """Make an RSA key pair of ``size`` bits that never leaves the token, under the label that a URI names.

    Raises:
        UsageError: the URI has no label.
        TokenError: the token refuses, or made a key that can be taken out of it.
    """
    if uri.label is None:
        raise UsageError(f"{uri}: expected object=LABEL, the label of the key to make")
    identifier = uri.id or hashlib.sha256(uri.label.encode()).digest()[:_ID_BYTES]
    with _told(f"{uri}: making an RSA key of {size} bits"):
        writable = session.token.open(rw=True)  # logged in as the other session is (PKCS #11 3.1, 2.6.8)
        try:
            _, key = writable.generate_keypair(
                KeyType.RSA,
                size,
                id=identifier,
                label=uri.label,
                store=True,
                capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
                private_template={Attribute.EXTRACTABLE: False},
            )
            if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
                raise TokenError(f"{uri}: the token made a key that can be taken out of it")
        finally:
            writable.close()
    made = find_key(session, uri.of_key(label=uri.label, identifier=identifier), pin)
    if made is None:
        raise TokenError(f"{uri}: the token does not show the key that it made")
    return made


def _fits(module: Module, token: pkcs11.Token, uri: TokenUri) -> bool:
    values: dict[str, Callable[[], str]] = {
        "token": lambda: token.label,
        "manufacturer": lambda: token.manufacturer_id,
        "serial": lambda: _serial(token),
        "model": lambda: token.model,
        "slot-id": lambda: str(token.slot.slot_id),
        "slot-description": lambda: token.slot.slot_description,
        "slot-manufacturer": lambda: token.slot.manufacturer_id,
        "library-description": lambda: module.library_description,
        "library-manufacturer": lambda: module.manufacturer_id,
        "library-version": lambda: "{}.{}".format(*module.library_version),
    }
    return all(values[name]() == value for name, value in uri.token)


def _serial(token: pkcs11.Token) -> str:
    return token.serial.rstrip(b"\0 ").decode("utf-8", "replace")


def _public_key(uri: TokenUri, session: pkcs11.Session, key: pkcs11.Object) -> TokenPublicKey:
    kind = key[Attribute.KEY_TYPE]
    if kind not in (KeyType.RSA, KeyType.EC):
        raise TokenError(f"{uri}: key of type {getattr(kind, 'name', kind)}; expected RSA or ECDSA")
    try:
        if kind is KeyType.RSA:
            # The private object has the modulus; the exponent is optional there (PKCS #11 3.1, 6.1.3).
            complete = _optional(key, Attribute.PUBLIC_EXPONENT)
            source = key if complete else _companion(uri, session, key)
            exponent = int.from_bytes(source[Attribute.PUBLIC_EXPONENT], "big")
            return rsa.RSAPublicNumbers(
                exponent, int.from_bytes(source[Attribute.MODULUS], "big")
            ).public_key()
        public = load_der_public_key(encode_ec_public_key(_companion(uri, session, key)))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TokenError(f"{uri}: the public key does not parse: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TokenError(f"{uri}: public key of kind {type(public).__name__}; expected ECDSA")
    return public


def _companion(uri: TokenUri, session: pkcs11.Session, key: pkcs11.Object) -> pkcs11.PublicKey:
    """Return the public half: the object with the same CKA_ID (PKCS #11 3.1, 4.7), or label where that is empty."""
    wanted: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: key[Attribute.KEY_TYPE],
    }
    shared = Attribute.ID if key[Attribute.ID] else Attribute.LABEL
    found = list(session.get_objects(wanted | {shared: key[shared]}))
    if len(found) != 1 or not isinstance(found[0], pkcs11.PublicKey):
        raise TokenError(f"{uri}: {len(found)} public keys go with it in the token, expected one")
    return found[0]


def _optional(key: pkcs11.Object, attribute: Attribute) -> Any:
    """Return an attribute's value; nothing where the token does not have it."""
    try:
        return key[attribute]
    except pkcs11.AttributeTypeInvalid:
        return None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what failed, and why, in words."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        name = type(error).__name__
        reason = _MEANINGS.get(name) or ": ".join(filter(None, (name, str(error))))
        raise TokenError(f"{what}: {reason}") from error
