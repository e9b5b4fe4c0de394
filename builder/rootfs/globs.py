"""Path patterns of a recipe, many at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from builder.globs import translate


class Globs:
    """A set of patterns that are matched together.

    Args:
        patterns: the patterns; none of them matches nothing.
        below: a pattern that matches a directory matches everything below it too.
    """

    def __init__(self, patterns: Iterable[str], *, below: bool = False) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._tail = r"(?:/.*)?\Z" if below else r"\Z"
        self._unused = {
            pattern: re.compile(translate(pattern) + self._tail, re.DOTALL) for pattern in self.patterns
        }
        together = "|".join(translate(pattern) for pattern in self.patterns)
        self._together = re.compile(f"(?:{together}){self._tail}", re.DOTALL) if self.patterns else None

    def matches(self, path: str) -> bool:
        """Say whether any pattern matches, and remember which ones did."""
        if self._together is None or self._together.match(path) is None:
            return False
        if self._unused:
            for pattern in [name for name, regex in self._unused.items() if regex.match(path)]:
                del self._unused[pattern]
        return True

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have matched nothing so far."""
        return tuple(self._unused)
