"""Reading documents and keys that the user points at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.cli.reading import hash_file, parse_file, read_limited, read_prefix
from builder.errors import BuilderError, UntrustedError, UsageError
from measurements import golden
from measurements.envelope import MAX_ENVELOPE_BYTES, parse_statement, unverified_document, verify_envelope
from measurements.errors import MeasurementError, SignatureError
from measurements.golden import GoldenDocument
from measurements.keys import PublicKey, load_public_key
from measurements.strictjson import loads

#: What `builder.cli.reading` has is offered here too.
__all__ = [
    "LARGEST_KEY",
    "golden_document",
    "hash_file",
    "is_envelope",
    "parse_file",
    "public_keys",
    "read_limited",
    "read_prefix",
]

_ENVELOPE = "golden.dsse.json"

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


def golden_document(path: Path, keys: Sequence[PublicKey], option: str = "--key") -> GoldenDocument:
    """Read ``golden.json``, its envelope, or a release folder; with keys, one of them must have signed it.

    Args:
        path: the file or folder.
        keys: who may have signed; none does not look at signatures.
        option: where the user named the keys, for messages.

    Raises:
        UsageError: it cannot be read, or is not signed though keys are given.
        UntrustedError: none of the keys signed it.
        BuilderError: it is malformed.
    """
    path = path / _ENVELOPE if path.is_dir() else path

    def parse(data: bytes) -> GoldenDocument:
        if is_envelope(data):
            return parse_statement(verify_envelope(data, keys)) if keys else unverified_document(data)
        if keys:
            raise UsageError(f"{path} is not signed, and {option} asks for a signature", hint="its envelope")
        return golden.parse(data)

    try:
        return parse(read_limited(path, MAX_ENVELOPE_BYTES))
    except SignatureError as error:
        raise UntrustedError(f"{path}: {error}", hint=f"{option} names who must have signed") from error
    except MeasurementError as error:
        raise BuilderError(f"{path}: {error}", hint="expected what goldsmith build writes") from error
