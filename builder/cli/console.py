"""What the user sees: results on standard output, errors and progress on standard error.

Nothing here needs more than the standard library, because a verifier installs nothing more; the progress of a
build, which only builders see, is drawn by ``builder.cli.progress``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.progress import Reporter

_GAP = "  "
_NARROWEST = 24  # columns that a table's last column keeps, however wide the others are
_LONGEST_RULE = 64
_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
#: Texts come out of hostile logs too: no control character reaches the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x0A} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def out(text: str) -> None:
    """Print a result line to standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; on a terminal its last column is wrapped."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if title:
        out(title)
    for line in _lines(columns, rows, width):
        out(line)


def emit_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def error(message: str, *, hint: str | None = None) -> None:
    """Print an error, and what to do about it, to standard error."""
    _complain(f"goldsmith: {message}", _RED)
    if hint:
        _complain(f"  try: {hint}")


def warn(message: str) -> None:
    """Print a warning to standard error."""
    _complain(f"warning: {message}", _YELLOW)


def reporter() -> Reporter:
    """Return the reporter that fits where standard error goes."""
    from builder.cli.progress import PlainReporter, RichReporter

    return RichReporter() if sys.stderr.isatty() else PlainReporter()


def printable(text: str) -> str:
    """Return ``text`` with every control character but the line feed written out."""
    return text.translate(_CONTROLS)


def _complain(text: str, colour: str = "") -> None:
    if colour and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        sys.stderr.write(f"{colour}{printable(text)}{_RESET}\n")
    else:
        sys.stderr.write(f"{printable(text)}\n")


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    cells = [[printable(cell).split("\n") for cell in row] for row in rows]
    widths = [
        max([len(title), *(len(line) for row in cells for line in row[number])])
        for number, title in enumerate(columns)
    ]
    if width is not None:
        taken = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(width - taken, _NARROWEST))
        for row in cells:
            row[-1] = [part for line in row[-1] for part in textwrap.wrap(line, widths[-1]) or [""]]
    lines = [_line(columns, widths), _GAP.join("─" * min(size, _LONGEST_RULE) for size in widths)]
    for row in cells:
        height = max(map(len, row))
        lines += [
            _line([cell[number] if number < len(cell) else "" for cell in row], widths)
            for number in range(height)
        ]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()
