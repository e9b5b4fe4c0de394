"""Reading documents and keys that the user points at."""

from __future__ import annotations

from pathlib import Path

from builder.cli.reading import hash_file, parse_file, read_limited, read_prefix
from measurements.envelope import MAX_ENVELOPE_BYTES
from measurements.keys import PublicKey, load_public_key
from measurements.strictjson import loads

#: What `builder.cli.reading` has is offered here too.
__all__ = [
    "LARGEST_KEY",
    "hash_file",
    "is_envelope",
    "parse_file",
    "public_keys",
    "read_limited",
    "read_prefix",
]

#: Bytes of a file with a key.
LARGEST_KEY = 64 * 1024


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
