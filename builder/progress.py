"""How long work tells what it is doing. The command line decides how it looks; steps only report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Phase(Protocol):
    """A piece of work under way."""

    def advance(self, amount: int) -> None:
        """Report that ``amount`` more units (bytes, items) of the phase's total are done."""

    def detail(self, text: str) -> None:
        """Say what is being worked on now (a file, a package, a console line)."""


class Reporter(Protocol):
    """Where progress goes."""

    def phase(
        self, name: str, *, total: int | None = None, unit: str = ""
    ) -> contextlib.AbstractContextManager[Phase]:
        """Open a phase; its wall time is reported when the block is left. ``unit`` is "B" for bytes."""

    def note(self, text: str) -> None:
        """Say something the user must read (a warning, a fallback)."""


class _Silent:
    def advance(self, amount: int) -> None:
        pass

    def detail(self, text: str) -> None:
        pass


class SilentReporter:
    """Reports nothing; for libraries and tests."""

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:  # noqa: ARG002
        """See `Reporter.phase`."""
        yield _Silent()

    def note(self, text: str) -> None:
        """See `Reporter.note`."""


SILENT: Reporter = SilentReporter()
