"""The tokens that one command uses: which are open, and where their PINs come from."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from builder.errors import TokenError, UsageError
from builder.tokens.uri import TokenUri

if TYPE_CHECKING:
    import pkcs11

    from builder.tokens.token import Module, TokenKey

#: Bytes of a file that holds a PIN.
MAX_PIN_FILE: Final = 1024


class Tokens:
    """Opens tokens as keys are asked for; a context manager that logs out of all of them.

    A token is logged in to once: a wrong PIN counts as one attempt, however many keys are asked for. Only one
    of these may be in use in a process, because a module knows no more than the process that loaded it.
    """

    def __init__(self, *, pin: str | None = None, module: str | None = None) -> None:
        """Remember what comes beside the URIs; nothing is loaded yet.

        Args:
            pin: for tokens whose URI names no PIN.
            module: in place of the one that a URI names with ``module-path``.
        """
        self._pin, self._module = pin, module
        self._modules: dict[str, Module] = {}
        self._sessions: dict[tuple[str, int], tuple[pkcs11.Session, str | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out of every token and let the modules go; keys that were found are of no use afterwards."""
        if self._modules:
            layer = _token_layer()
            layer.close([session for session, _ in self._sessions.values()], self._modules.values())
        self._sessions.clear()
        self._modules.clear()

    def key(self, uri: TokenUri) -> TokenKey:
        """Return the one private key that a URI names.

        Raises:
            TokenError: there is none, or as `find`.
        """
        key = self.find(uri)
        if key is None:
            raise TokenError(
                f"{uri}: the token holds no such private key",
                hint="are label and id right, and does the PIN belong to the key's owner?",
            )
        return key

    def find(self, uri: TokenUri) -> TokenKey | None:
        """Return the one private key that a URI names, or nothing when the token holds none.

        Raises:
            UsageError: no module or no PIN is named.
            TokenError: module, token, PIN or key is not fit, or more than one key fits.
        """
        uri, session, pin = self._open(uri)
        key: TokenKey | None = _token_layer().find_key(session, uri, pin)
        return key

    def generate_rsa(self, uri: TokenUri, size: int) -> TokenKey:
        """Make an RSA key pair that never leaves the token, under the label that a URI names.

        Args:
            uri: with a label; its id, or bytes that follow from the label, become CKA_ID.
            size: bits.

        Raises:
            UsageError: no label, no module or no PIN is named.
            TokenError: as `find`, or the token does not make the key.
        """
        uri, session, pin = self._open(uri)
        key: TokenKey = _token_layer().generate_rsa(session, uri, size, pin)
        return key

    def _open(self, uri: TokenUri) -> tuple[TokenUri, pkcs11.Session, str | None]:
        """Return the URI with its module, a session of a user who is logged in, and the PIN."""
        layer = _token_layer()
        path = self._module or uri.module
        if path is None:
            raise UsageError(
                f"{uri}: no PKCS #11 module is named", hint="module-path=FILE in the URI, or --module FILE"
            )
        uri = uri.with_module(path)
        if path not in self._modules:
            self._modules[path] = layer.load(path)
        token = layer.find_token(self._modules[path], uri)
        slot = path, token.slot.slot_id
        if slot not in self._sessions:
            pin = self._pin_of(uri)
            self._sessions[slot] = layer.login(token, uri, pin), pin
        return uri, *self._sessions[slot]

    def _pin_of(self, uri: TokenUri) -> str | None:
        if uri.pin is not None:
            return uri.pin
        if uri.pin_source is None:
            return self._pin
        try:
            with Path(uri.pin_source).open("rb") as file:
                content = file.read(MAX_PIN_FILE + 1)
        except OSError as error:
            raise UsageError(f"pin-source {uri.pin_source}: {error.strerror}") from error
        try:
            pin = content.decode().removesuffix("\n")
        except UnicodeDecodeError:
            pin = ""
        if not pin or "\0" in pin or len(content) > MAX_PIN_FILE:
            raise UsageError(
                f"pin-source {uri.pin_source}: expected a PIN in UTF-8, at most {MAX_PIN_FILE} bytes"
            )
        return pin


def _token_layer() -> ModuleType:
    try:
        from builder.tokens import token
    except ModuleNotFoundError as error:
        raise TokenError(
            f"keys in a token need the Python package {error.name}, which is not installed",
            hint='pip install "goldsmith[pkcs11]"',
        ) from error
    return token
