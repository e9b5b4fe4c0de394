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
from measurements.keys import PublicKey, load_public_key
from measurements.strictjson import loads

#: Bytes of a file with a key.
LARGEST_KEY = 64 * 1024

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


def public_keys(paths: list[Path]) -> list[PublicKey]:
    """Load public keys from PEM files."""
    return [parse_file(path, LARGEST_KEY, load_public_key) for path in paths]


def is_envelope(data: bytes) -> bool:
    """Tell a signed envelope from a golden document.

    Raises:
        FormatError: no JSON, or larger than an envelope may be.
    """
    value = loads(data, what="golden document", max_bytes=MAX_ENVELOPE_BYTES)
    return isinstance(value, dict) and "payload" in value


def _too_large(path: Path, limit: int) -> UsageError:
    return UsageError(f"{path} is larger than {limit} bytes; is it the right file?")
