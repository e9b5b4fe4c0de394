"""goldsmith replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli import console
from builder.cli.files import read_limited
from measurements.formats import eventlog
from measurements.replay import replay, to_json

_LARGEST_LOG = 16 * 1024 * 1024


def command(
    log: Annotated[
        Path, typer.Argument(metavar="EVENTLOG", help="TCG event log: SHA-1, crypto-agile, or CCEL")
    ],
    kind: Annotated[
        eventlog.LogKind | None, typer.Option(help="format, where it cannot be told from the log")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Fold an event log into registers, and check every digest that the event data alone can prove."""
    parsed = eventlog.parse(read_limited(log, _LARGEST_LOG), kind=kind)
    result = to_json(replay(parsed), parsed)
    if json:
        console.emit_json(result)
        return
    for bank, registers in result["registers"].items():
        console.table(bank, ["register", "value"], [[name, value] for name, value in registers.items()])
    console.out(f"{result['events']} events")
    for finding in result["findings"]:
        console.out("finding: " + ", ".join(f"{key} {value}" for key, value in finding.items()))
