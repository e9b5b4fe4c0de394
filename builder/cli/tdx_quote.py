"""goldsmith tdx quote; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.reading import parse_file
from measurements.formats import tdxquote


def main(arguments: list[str]) -> int:
    """Print a TDX quote; proves nothing."""
    parser = Parser("tdx quote", "Print a TDX quote. Nothing is verified.")
    parser.add_argument("quote", metavar="QUOTE", type=Path, help="version 4 or 5, as bytes")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    result = tdxquote.to_json(parse_file(given.quote, tdxquote.MAX_QUOTE_SIZE, tdxquote.parse))
    if given.json:
        console.emit_json(result)
        return 0
    enclave = result.pop("qe")
    rows = [*result.items(), *((f"quoting enclave {name}", value) for name, value in enclave.items())]
    console.table(
        "", ["field", "value"], [[name, "-" if value is None else str(value)] for name, value in rows]
    )
    console.warn("nothing of this is verified: goldsmith tdx verify does that")
    return 0
