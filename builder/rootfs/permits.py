"""The recipe's ``missing`` list while the tree is checked: what may be absent, and whether it ever was."""

from __future__ import annotations

from collections.abc import Iterable

from builder.rootfs.findings import Findings
from builder.rootfs.globs import Globs


class Missing:
    """Names and paths that may be absent; ``*`` and ``**`` as in other patterns of the recipe."""

    def __init__(self, names: Iterable[str]) -> None:
        self._globs = Globs(names)

    def permits(self, *names: str) -> bool:
        """Say whether one of the names that an absent thing goes by is listed."""
        permitted = [self._globs.matches(name) for name in names]  # each is asked: it marks what is in use
        return any(permitted)

    def note_unused(self, findings: Findings) -> None:
        """Note the entries that permitted nothing: they are stale."""
        for name in self._globs.unused:
            findings.note(f"`missing` lists {name}, and nothing needs it")
