"""Moments as text: RFC 3339, in UTC, with whole seconds, in one form."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from measurements.errors import FormatError

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with whole seconds, ``2026-11-22T13:00:00Z``."""
    return f"{moment.year:04d}-{moment:%m-%dT%H:%M:%SZ}"


def parse_time(text: str) -> datetime:
    """Parse what ``format_time`` writes, and nothing else.

    Raises:
        FormatError: another layout, offset or an impossible date.
    """
    if _TIME.fullmatch(text) is None:
        raise FormatError(f"time {text[:40]!r}; expected RFC 3339 in UTC as 2026-11-22T13:00:00Z")
    try:
        return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise FormatError(f"time {text!r} does not exist") from None
