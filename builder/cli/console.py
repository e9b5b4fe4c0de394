"""What the user sees: progress on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from builder.progress import Phase, Reporter

_stdout = Console(highlight=False, soft_wrap=True)
_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def out(text: str) -> None:
    """Print a result line to standard output, without markup."""
    _stdout.print(text, markup=False)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table to standard output."""
    view = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*row)
    _stdout.print(view, markup=False)


def emit_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def error(message: str, *, hint: str | None = None) -> None:
    """Print an error, and what to do about it, to standard error."""
    _stderr.print(f"goldsmith: {message}", markup=False, style="red" if _stderr.is_terminal else None)
    if hint:
        _stderr.print(f"  try: {hint}", markup=False)


def reporter() -> Reporter:
    """Return the reporter that fits where standard error goes."""
    return _RichReporter() if _stderr.is_terminal else _PlainReporter()


class _RichPhase:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def detail(self, text: str) -> None:
        self._progress.update(self._task, detail=text)


class _RichReporter:
    """A line per phase; finished ones stay with their time."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._depth = 0

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:  # noqa: ARG002
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
        _stderr.print(f"note: {text}", markup=False, style="yellow")


class _PlainPhase:
    def advance(self, amount: int) -> None:
        pass

    def detail(self, text: str) -> None:
        pass


class _PlainReporter:
    """One line when a phase ends: its name and its wall time."""

    @contextlib.contextmanager
    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:  # noqa: ARG002
        started = time.monotonic()
        yield _PlainPhase()
        _stderr.print(f"{name}: {time.monotonic() - started:.1f} s", markup=False)

    def note(self, text: str) -> None:
        _stderr.print(f"note: {text}", markup=False)
