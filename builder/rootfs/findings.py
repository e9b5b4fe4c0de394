"""What a step found: errors that end the build, all of them in one report, and notes for the reader."""

from __future__ import annotations

from collections.abc import Iterable

from builder.errors import ComposeError


class Findings:
    """Collects errors and notes, so that a recipe's author sees every problem at once.

    Attributes:
        notes: what is worth knowing and no error.
    """

    def __init__(self) -> None:
        self._errors: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._hints: dict[str, None] = {}

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors so far, in the order they were found."""
        return tuple(self._errors)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes so far, in the order they were found."""
        return tuple(self._notes)

    def error(self, message: str, *, hint: str | None = None) -> None:
        """Record an error; the same one twice counts once."""
        self._errors[message] = None
        if hint:
            self._hints[hint] = None

    def hint(self, text: str) -> None:
        """Record what would help."""
        self._hints[text] = None

    def note(self, message: str) -> None:
        """Record a note; the same one twice counts once."""
        self._notes[message] = None

    def caught(self, error: ComposeError) -> None:
        """Record an exception as an error."""
        self.error(str(error), hint=error.hint)

    def raise_errors(self, what: str) -> None:
        """End the build if there is any error.

        Raises:
            ComposeError: with every error on a line of its own.
        """
        if not self._errors:
            return
        count = len(self._errors)
        lines = "".join(f"\n  - {message}" for message in self._errors)
        raise ComposeError(
            f"{what}: {count} problem{'s' if count > 1 else ''}{lines}",
            hint="\n".join(self._hints) or None,
        )


def join(names: Iterable[str]) -> str:
    """Return names as a list for a message, sorted; a long one is cut."""
    ordered = sorted(set(names))
    shown = ", ".join(ordered[:8])
    return f"{shown} and {len(ordered) - 8} more" if len(ordered) > 8 else shown
