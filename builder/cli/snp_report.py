"""goldsmith snp report; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.reading import parse_file
from measurements.snp import report
from measurements.snp.tcb import Product


def main(arguments: list[str]) -> int:
    """Print an attestation report; proves nothing."""
    parser = Parser("snp report", "Print an SEV-SNP attestation report. Nothing is verified.")
    add = parser.add_argument
    add("report", metavar="REPORT", type=Path, help="1184 bytes, as the firmware wrote them")
    add(
        "--product",
        choices=[product.value for product in Product],
        help="the processor's generation, which reports of version 2 do not say",
    )
    add("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    parsed = parse_file(given.report, report.REPORT_SIZE, report.parse)
    result = report.to_json(parsed, None if given.product is None else Product(given.product))
    if given.json:
        console.emit_json(result)
        return 0
    console.table("", ["field", "value"], [[name, _text(value)] for name, value in result.items()])
    console.warn("nothing of this is verified: goldsmith snp verify does that")
    return 0


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
