"""How the phases of a build look: drawn on a terminal, one line each elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from builder.cli.console import printable
from builder.progress import Phase

_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class _RichPhase:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def detail(self, text: str) -> None:
        self._progress.update(self._task, detail=printable(text))


class RichReporter:
    """A line per phase; finished ones stay with their time."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._depth = 0

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:  # noqa: ARG002
        """See `Reporter.phase`."""
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=_stderr,
            )
            self._progress.start()
        progress = self._progress
        task = progress.add_task(name, total=total, detail="")
        self._depth += 1
        try:
            yield _RichPhase(progress, task)
            progress.update(task, total=total or 1, completed=total or 1, detail="")
        finally:
            self._depth -= 1
            if self._depth == 0:
                progress.stop()
                self._progress = None

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        _stderr.print(f"note: {printable(text)}", markup=False, style="yellow")


class _PlainPhase:
    def advance(self, amount: int) -> None:
        pass

    def detail(self, text: str) -> None:
        pass


class PlainReporter:
    """One line when a phase ends: its name and its wall time."""

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:  # noqa: ARG002
        """See `Reporter.phase`."""
        started = time.monotonic()
        yield _PlainPhase()
        _stderr.print(f"{name}: {time.monotonic() - started:.1f} s", markup=False)

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        _stderr.print(f"note: {printable(text)}", markup=False)
