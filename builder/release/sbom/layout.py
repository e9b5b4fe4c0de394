"""Write large JSON documents so that a difference between two of them is a difference of lines."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

#: An array with more objects than this takes a line for each.
_SPREAD = 8
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def render(document: Mapping[str, Any], *, identity: str) -> bytes:
    """Return a document as JSON in UTF-8, one member or large array's item a line, with a name of its own.

    Args:
        document: what it says, in the order in which it says it.
        identity: the member that names the document. It comes first, and is a UUID of version 8 (RFC 9562,
            5.8) made of the SHA-256 of all other members: the same content has the same name, any other
            content has another.
    """
    body = "{\n" + ",\n".join(f"{_compact(key)}:{_text(value)}" for key, value in document.items()) + "\n}\n"
    name = _uuid8(hashlib.sha256(body.encode()).digest())
    return (f"{{\n{_compact(identity)}:{_compact(name.urn)},\n" + body.removeprefix("{\n")).encode()


def timestamp(seconds: int) -> str:
    """Return seconds since 1970 as both formats want them: ISO 8601, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Any) -> str:
    if _large(value):
        return "[\n" + ",\n".join(map(_text, value)) + "\n]"
    if isinstance(value, dict) and any(map(_large, value.values())):
        return "{" + ",\n".join(f"{_compact(key)}:{_text(item)}" for key, item in value.items()) + "}"
    return _compact(value)


def _large(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _SPREAD and isinstance(value[0], dict)


def _uuid8(digest: bytes) -> uuid.UUID:
    number = bytearray(digest[:16])
    number[6] = number[6] & 0x0F | 0x80  # version 8: the content decides
    number[8] = number[8] & 0x3F | 0x80  # variant of RFC 9562
    return uuid.UUID(bytes=bytes(number))
