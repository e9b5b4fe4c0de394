"""The keys that verbs sign with: in files, in the environment, or in PKCS #11 tokens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from builder.cli import console
from builder.cli.files import LARGEST_KEY, parse_file, read_limited
from builder.errors import BuilderError, UsageError
from builder.image.secureboot.modules import MAX_SIGNATURE_SIZE
from builder.image.secureboot.signer import MAX_PEM_BYTES, Signer, load_certificate, load_signer
from builder.image.secureboot.tokensigner import MAX_REFERENCE_BYTES, load_token_signer
from builder.modulesigning import CERTIFICATE as MODULE_CERTIFICATE
from builder.modulesigning import MAX_SIGNATURES, SIGNATURE_SUFFIX, PublishedSignatures
from builder.tokens import uri as token_uri
from builder.tokens.document import TokenDocumentKey
from builder.tokens.ring import Tokens
from builder.tokens.uri import TokenUri
from measurements.errors import MeasurementError
from measurements.keys import PrivateKey, SigningKey, load_private_key

KEY_VARIABLE: Final = "GOLDSMITH_SIGNING_KEY"
PASSPHRASE_VARIABLE: Final = "GOLDSMITH_SIGNING_KEY_PASSPHRASE"
PIN_VARIABLE: Final = "GOLDSMITH_PKCS11_PIN"

KeyNames = Annotated[
    list[str] | None,
    typer.Option(metavar="PEM-or-URI", help="private key that signs: a file, or pkcs11:…; may be repeated"),
]
Module = Annotated[
    str | None, typer.Option(metavar="FILE", help="PKCS #11 module to load in place of the URI's module-path")
]
PassphraseName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="environment variable that holds the keys' passphrase, or a token's PIN"
    ),
]


def open_tokens(*, pin: bytes | None = None, module: str | None = None) -> Tokens:
    """Return the tokens of one command, none of them open yet.

    Args:
        pin: for tokens whose URI names no PIN; otherwise the environment's ``PIN_VARIABLE``.
        module: in place of the one that a URI names.

    Raises:
        UsageError: the PIN is no text.
    """
    try:
        text = pin.decode() if pin else os.environ.get(PIN_VARIABLE) or None
    except UnicodeDecodeError:
        raise UsageError("the PIN is no UTF-8 text") from None
    return Tokens(pin=text, module=module)


def named_token(text: str) -> TokenUri:
    """Read a URI of the command line; a PIN in it is taken, with a warning."""
    uri = token_uri.parse(text)
    if uri.pin is not None:
        console.warn(
            "a PIN on a command line can be read by everybody on this machine while the command runs; "
            f"pin-source=FILE or the environment variable {PIN_VARIABLE} keeps it private"
        )
    return uri


def passphrase_of(variable: str | None) -> bytes | None:
    """Return what the environment variable holds that the user names.

    Raises:
        UsageError: it is not set.
    """
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UsageError(f"the environment variable {variable} is not set")
    return os.environ[variable].encode()


def signing_keys(names: list[str], tokens: Tokens) -> list[SigningKey]:
    """Load the keys that sign golden documents.

    Args:
        names: PEM files and PKCS #11 URIs; without any, the environment's ``KEY_VARIABLE`` holds PEM text. Where
            that holds nothing either, no key is returned.
        tokens: opens what the URIs name; keys in them are of use until it is closed.

    Raises:
        UsageError: a file cannot be read, or a URI makes no sense.
        BuilderError: a key does not load.
    """
    passphrase = os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
    hint = f"{PASSPHRASE_VARIABLE} holds the passphrase of an encrypted key; goldsmith keygen makes a key"

    def load(pem: bytes) -> PrivateKey:
        return load_private_key(pem, passphrase)

    def named(name: str) -> SigningKey:
        if name.startswith(token_uri.SCHEME):
            return TokenDocumentKey(tokens.key(named_token(name)))
        return parse_file(Path(name), LARGEST_KEY, load, hint=hint)

    if names:
        return [named(name) for name in names]
    pem = os.environ.get(KEY_VARIABLE, "")
    if not pem:
        return []
    try:
        return [load(pem.encode())]
    except MeasurementError as error:
        raise BuilderError(f"{KEY_VARIABLE}: {error}", hint=hint) from error


def key_set_signer(folder: Path, role: str, passphrase: bytes | None, tokens: Tokens) -> Signer:
    """Load a signer of a Secure Boot key set, whose private key is a file there, or in a token that one names.

    Args:
        folder: of the key set.
        role: "PK", "KEK" or "db".
        passphrase: of the private key's file.
        tokens: opens the token; the signer is of use until it is closed.

    Raises:
        UsageError: a file cannot be read.
        BuilderError: the key does not load, or is not that of the certificate.
    """
    certificate = read_limited(folder / f"{role}.pem", MAX_PEM_BYTES)
    path = folder / f"{role}.pkcs11"
    if path.exists():
        reference = read_limited(path, MAX_REFERENCE_BYTES)
        with about(path):
            return load_token_signer(reference, certificate, tokens)
    path = folder / f"{role}.key"
    key = read_limited(path, MAX_PEM_BYTES)
    with about(path, hint="--passphrase-env NAME names the variable with its passphrase"):
        return load_signer(key, certificate, passphrase)


def published_module_signatures(folder: Path, certificate: Path | None) -> PublishedSignatures:
    """Read ``NAME.ko.p7s`` of a folder, such as a release, and the certificate that belongs to them.

    Args:
        folder: holds the signatures.
        certificate: PEM; None means the one beside them.

    Raises:
        UsageError: a file cannot be read, or there are too many.
        BuilderError: the certificate does not load, or has no RSA key.
    """
    path = certificate or folder / MODULE_CERTIFICATE
    pem = read_limited(path, MAX_PEM_BYTES)
    with about(path):
        found = load_certificate(pem)
    files = sorted(folder.glob(f"*{SIGNATURE_SUFFIX}"))
    if len(files) > MAX_SIGNATURES:
        raise UsageError(f"{folder}: {len(files)} signatures; the limit is {MAX_SIGNATURES}")
    return PublishedSignatures(
        certificate=found,
        files={
            file.name.removesuffix(SIGNATURE_SUFFIX): read_limited(file, MAX_SIGNATURE_SIZE) for file in files
        },
        where=str(folder),
    )


@contextlib.contextmanager
def about(*paths: Path, hint: str | None = None) -> Iterator[None]:
    """Say whose content is wrong, whatever is wrong with it."""
    try:
        yield
    except (BuilderError, MeasurementError) as error:
        names = ", ".join(map(str, paths))
        raise BuilderError(f"{names}: {error}", hint=getattr(error, "hint", None) or hint) from error
