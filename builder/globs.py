"""Path patterns: ``*`` within a component, ``**`` across components, ``?`` one character."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"/\*\*(?=/)|\*\*|\*|\?|[^*?/]+|/")
_MEANING = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def translate(pattern: str) -> str:
    """Return the regular expression of a pattern, not anchored; ``/a/**/b`` matches ``/a/b`` too."""
    return "".join(_MEANING.get(token) or re.escape(token) for token in _TOKEN.findall(pattern))


def is_pattern(path: str) -> bool:
    """Say whether a path has any of the characters that stand for others."""
    return "*" in path or "?" in path
