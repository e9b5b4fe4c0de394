"""PKCS #11 URIs (RFC 7512): which module, token and key, and where its PIN is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from builder.errors import UsageError

SCHEME: Final = "pkcs11:"
#: Characters of a URI.
MAX_URI_LENGTH: Final = 4096

#: RFC 7512, 2.3: path attributes that this program can compare; the slot's stand for the token in it.
TOKEN_ATTRIBUTES: Final = (
    "token",
    "manufacturer",
    "serial",
    "model",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
    "library-description",
    "library-manufacturer",
    "library-version",
)
_OBJECT_ATTRIBUTES = ("object", "id", "type")
_QUERY_ATTRIBUTES = ("module-path", "pin-source", "pin-value")
# RFC 7512, 2.3: pk11-reserved-avail and unreserved characters; a query may hold "/", "?" and "|" too.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUri:
    """What a URI says, percent-decoded.

    Attributes:
        token: attributes of `TOKEN_ATTRIBUTES` and their values, in the order written.
        label: CKA_LABEL of the key (``object``).
        id: CKA_ID of the key.
        module: file of the PKCS #11 module (``module-path``).
        pin_source: file that holds the PIN.
        pin: the PIN itself (``pin-value``); never written out again.
    """

    token: tuple[tuple[str, str], ...] = ()
    label: str | None = None
    id: bytes | None = None
    module: str | None = None
    pin_source: str | None = None
    pin: str | None = field(default=None, repr=False)

    @property
    def names_a_key(self) -> bool:
        """Whether a label or an id is there."""
        return self.label is not None or self.id is not None

    def of_key(self, *, label: str | None, identifier: bytes | None) -> TokenUri:
        """Return the URI of a key in the same token."""
        return replace(self, label=label or None, id=identifier or None)

    def with_module(self, module: str) -> TokenUri:
        """Return the URI of the same key behind a module."""
        return replace(self, module=module)

    def __str__(self) -> str:
        """Write the URI, without a PIN."""
        path = [f"{name}={quote_from_bytes(value.encode(), _PATH_SAFE)}" for name, value in self.token]
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02x}" for byte in self.id))
        if self.label is not None:
            path.append(f"object={quote_from_bytes(self.label.encode(), _PATH_SAFE)}")
        query = [
            f"{name}={quote_from_bytes(value.encode(), _QUERY_SAFE)}"
            for name, value in (("module-path", self.module), ("pin-source", self.pin_source))
            if value is not None
        ]
        return SCHEME + ";".join([*path, "type=private"]) + ("?" + "&".join(query) if query else "")


def parse(text: str) -> TokenUri:
    """Read a URI that names a token, or a private key in one.

    Raises:
        UsageError: it is no URI of this scheme, or holds an attribute that cannot be obeyed. The message never
            repeats the query, where a PIN may stand.
    """
    if len(text) > MAX_URI_LENGTH:
        raise UsageError(f"PKCS #11 URI of {len(text)} characters; the limit is {MAX_URI_LENGTH}")
    if not text.startswith(SCHEME):
        raise UsageError(f"not a PKCS #11 URI: expected {SCHEME}token=…, see RFC 7512")
    path, _, query = text.removeprefix(SCHEME).partition("?")
    named = _attributes(path, ";", (*TOKEN_ATTRIBUTES, *_OBJECT_ATTRIBUTES))
    asked = _attributes(query, "&", _QUERY_ATTRIBUTES)
    if "pin-source" in asked and "pin-value" in asked:
        raise UsageError("PKCS #11 URI with pin-source and pin-value: expected one of them (RFC 7512, 2.4)")
    if named.get("type", b"private") != b"private":
        raise UsageError("PKCS #11 URI: expected type=private, the key that signs")
    for name in ("object", "id"):
        if named.get(name) == b"":
            raise UsageError(f"PKCS #11 URI: {name} is empty")
    source = asked.get("pin-source")
    return TokenUri(
        token=tuple((name, _text(name, named[name])) for name in named if name in TOKEN_ATTRIBUTES),
        label=_text("object", named["object"]) if "object" in named else None,
        id=named.get("id"),
        module=_text("module-path", asked["module-path"]) if "module-path" in asked else None,
        pin_source=None if source is None else _file(_text("pin-source", source)),
        pin=_text("pin-value", asked["pin-value"]) if "pin-value" in asked else None,
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in text.split(separator) if text else ():
        name, equals, value = item.partition("=")
        if not equals or name not in known:
            # An attribute that is passed over would let the URI mean more than was asked for.
            raise UsageError(
                f"PKCS #11 URI: attribute {name[:40]!r} is not known; expected one of {', '.join(known)}"
            )
        if name in found:
            raise UsageError(f"PKCS #11 URI: {name} stands there twice (RFC 7512, 2.3)")
        if _ESCAPED.search(value):
            raise UsageError(f"PKCS #11 URI: {name} has a '%' that two hexadecimal digits do not follow")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise UsageError(f"PKCS #11 URI: {name} is not UTF-8 (RFC 7512, 2.3)") from None
    if "\0" in text:
        raise UsageError(f"PKCS #11 URI: {name} holds a NUL")
    return text


def _file(source: str) -> str:
    """Return the path of a pin-source, which is a ``file:`` URI or a path."""
    if source.startswith("|"):
        raise UsageError(
            "PKCS #11 URI: pin-source is a command, and none is run for a PIN", hint="pin-source=FILE"
        )
    if source.startswith("file:"):
        path = source.removeprefix("file:")
        if path.startswith("//"):  # RFC 8089, 2: an authority, empty or localhost
            host, slash, rest = path[2:].partition("/")
            if host not in ("", "localhost"):
                raise UsageError(f"PKCS #11 URI: pin-source is on host {host!r}; expected a local file")
            path = slash + rest
        source = path
    if not source.startswith("/"):
        raise UsageError("PKCS #11 URI: expected pin-source to be an absolute path, or a file: URI")
    return source
