"""Reading and naming what the user points at."""

from __future__ import annotations

import os
from pathlib import Path

from builder.errors import UsageError
from measurements.keys import PrivateKey, PublicKey, load_private_key, load_public_key

_LARGEST_KEY = 64 * 1024
KEY_VARIABLE = "GOLDSMITH_SIGNING_KEY"
PASSPHRASE_VARIABLE = "GOLDSMITH_SIGNING_KEY_PASSPHRASE"


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises:
        UsageError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise UsageError(f"{path} is larger than {limit} bytes; is it the right file?")
    return data


def signing_keys(paths: list[Path]) -> list[PrivateKey]:
    """Load private keys from PEM files, or from the environment when no file is named.

    Returns an empty list when neither is given.
    """
    passphrase = os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
    if paths:
        return [load_private_key(read_limited(path, _LARGEST_KEY), passphrase) for path in paths]
    pem = os.environ.get(KEY_VARIABLE, "")
    return [load_private_key(pem.encode(), passphrase)] if pem else []


def public_keys(paths: list[Path]) -> list[PublicKey]:
    """Load public keys from PEM files."""
    return [load_public_key(read_limited(path, _LARGEST_KEY)) for path in paths]
