"""Arguments of the verbs that a verifier runs: the standard library's parser, because typer is not installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from builder.errors import UsageError

#: What `make image` fills, and verbs that look at a release look at unless they are told another.
DEFAULT_RELEASE = Path("dist/gpu-cc")


class Parser(argparse.ArgumentParser):
    """Reports a bad command line as ``UsageError``, in the words of the other verbs."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"goldsmith {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, hint=f"{self.prog} --help")


def timestamp(text: str) -> datetime:
    """Read a time of RFC 3339, which has a time zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-12-31T23:59:59Z") from None
    if time.utcoffset() is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone; write 2026-12-31T23:59:59Z")
    return time


def split_names(text: str) -> list[str]:
    """Split a list of names at its commas; nothing but blanks is no name."""
    return [name.strip() for name in text.split(",") if name.strip()]


def hex_bytes(size: int) -> Callable[[str], bytes]:
    """Return a reader of exactly ``size`` bytes in hexadecimal."""

    def parse(text: str) -> bytes:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
        if len(value) != size:
            raise argparse.ArgumentTypeError(f"{len(value)} bytes; expected {size}")
        return value

    return parse
