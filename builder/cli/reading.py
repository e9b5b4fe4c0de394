"""Reading what the user points at; nothing here is slow to import."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from builder.errors import BuilderError, UsageError
from measurements.errors import MeasurementError

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


def hash_file(path: Path) -> bytes:
    """Return the SHA-256 of a whole file, 32 bytes, without holding it in memory.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
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


def _too_large(path: Path, limit: int) -> UsageError:
    return UsageError(f"{path} is larger than {limit} bytes; is it the right file?")
