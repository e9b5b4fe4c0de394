"""goldsmith replay; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.files import parse_file
from measurements.formats import eventlog
from measurements.replay import replay, to_json


def main(arguments: list[str]) -> int:
    """Fold an event log into registers; returns 0 for every log that can be parsed, whatever it says."""
    parser = Parser(
        "replay",
        "Fold an event log into registers, and check every digest that the event data alone can prove.",
    )
    parser.add_argument(
        "log", metavar="EVENTLOG", type=Path, help="TCG event log: SHA-1, crypto-agile, or CCEL"
    )
    parser.add_argument(
        "--kind",
        choices=[kind.value for kind in eventlog.LogKind],
        help="its format, where it cannot be told from the log",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    kind = None if given.kind is None else eventlog.LogKind(given.kind)
    log = parse_file(given.log, eventlog.MAX_LOG_SIZE, lambda data: eventlog.parse(data, kind=kind))
    result = to_json(replay(log), log)
    if given.json:
        console.emit_json(result)
        return 0
    for bank, registers in result["registers"].items():
        console.table(bank, ["register", "value"], list(registers.items()))
        console.out("")
    for finding in result["findings"]:
        where = f"record {finding['record']}, {finding['register']}, {finding['type']}"
        console.out(f"{finding['severity']}: {where}: {finding['message']}")
    console.out(f"{result['events']} events, {len(result['findings'])} findings")
    return 0
