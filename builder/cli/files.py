"""Reading and naming what the user points at."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from builder.errors import BuilderError, UsageError
from measurements.envelope import MAX_ENVELOPE_BYTES
from measurements.errors import MeasurementError
from measurements.keys import PrivateKey, PublicKey, load_private_key, load_public_key
from measurements.strictjson import loads

_LARGEST_KEY = 64 * 1024
KEY_VARIABLE = "GOLDSMITH_SIGNING_KEY"
PASSPHRASE_VARIABLE = "GOLDSMITH_SIGNING_KEY_PASSPHRASE"

_T = TypeVar("_T")


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises:
        UsageError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if stat.S_ISREG(state.st_mode) and state.st_size > limit:
                raise _too_large(path, limit)
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise _too_large(path, limit)
    return data


def read_prefix(path: Path, size: int) -> bytes:
    """Read the first ``size`` bytes of a file, or all of a shorter one.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def parse_file(path: Path, limit: int, parse: Callable[[bytes], _T], *, hint: str | None = None) -> _T:
    """Read and parse a file; whatever is wrong with it is said with its name.

    Raises:
        UsageError: it cannot be read, or is larger than ``limit`` bytes.
        BuilderError: it is malformed.
    """
    data = read_limited(path, limit)
    try:
        return parse(data)
    except MeasurementError as error:
        raise BuilderError(f"{path}: {error}", hint=hint) from error


def signing_keys(paths: list[Path]) -> list[PrivateKey]:
    """Load private keys from PEM files, or from the environment when no file is named.

    Returns an empty list when neither is given.
    """
    passphrase = os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
    hint = f"{PASSPHRASE_VARIABLE} holds the passphrase of an encrypted key; goldsmith keygen makes a key"

    def load(pem: bytes) -> PrivateKey:
        return load_private_key(pem, passphrase)

    if paths:
        return [parse_file(path, _LARGEST_KEY, load, hint=hint) for path in paths]
    pem = os.environ.get(KEY_VARIABLE, "")
    if not pem:
        return []
    try:
        return [load(pem.encode())]
    except MeasurementError as error:
        raise BuilderError(f"{KEY_VARIABLE}: {error}", hint=hint) from error


def public_keys(paths: list[Path]) -> list[PublicKey]:
    """Load public keys from PEM files."""
    return [parse_file(path, _LARGEST_KEY, load_public_key) for path in paths]


def is_envelope(data: bytes) -> bool:
    """Tell a signed envelope from a golden document.

    Raises:
        FormatError: no JSON, or larger than an envelope may be.
    """
    value = loads(data, what="golden document", max_bytes=MAX_ENVELOPE_BYTES)
    return isinstance(value, dict) and "payload" in value


def _too_large(path: Path, limit: int) -> UsageError:
    return UsageError(f"{path} is larger than {limit} bytes; is it the right file?")
