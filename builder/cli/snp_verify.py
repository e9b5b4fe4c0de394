"""goldsmith snp verify; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from builder.cli import console, snp_arguments
from builder.cli.arguments import Parser, hex_bytes, timestamp
from builder.cli.checks import print_checks, print_conclusion
from measurements.policy import Unproven
from measurements.snp import verify
from measurements.snp.pages import DIGEST_SIZE
from measurements.verify.verdict import to_json


def main(arguments: list[str]) -> int:
    """Verify an attestation report; returns 0 or 1."""
    given = _parser().parse_args(arguments)
    expected = _expectations(given)
    verdict = verify.verify(*snp_arguments.read_report(given), expected)
    if given.json:
        result = to_json(verdict)
        console.emit_json(
            {name: result[name] for name in ("verdict", "checks")} | {"warnings": list(verdict.warnings)}
        )
    else:
        print_checks(verdict)
        print_conclusion(verdict)
    for warning in verdict.warnings:
        console.warn(warning)
    return 0 if verdict.passed else 1


def _parser() -> Parser:
    parser = Parser(
        "snp verify", "Decide whether an SEV-SNP report comes from a guest that was launched as expected."
    )
    add = parser.add_argument
    add("report", metavar="REPORT", type=Path, help="1184 bytes, as the firmware wrote them")
    add("--measurement", metavar="HEX", type=hex_bytes(DIGEST_SIZE), action="append", help="may be repeated")
    snp_arguments.add_report_options(parser, host_data="any unless said")
    add("--minimum-guest-svn", metavar="N", type=int, default=0)
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339, with a time zone)")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _expectations(given: argparse.Namespace) -> verify.Expectations:
    return verify.Expectations(
        now=given.at or datetime.now(UTC),
        report_data=snp_arguments.report_data(given),
        measurements=frozenset(given.measurement)
        if given.measurement
        else Unproven(reason="no --measurement: any guest is accepted"),
        policy=given.accept,
        minimum_tcb=snp_arguments.minimum_tcb(given),
        product=snp_arguments.product(given),
        trusted=snp_arguments.trusted(given),
        vmpl=given.vmpl,
        host_data=given.host_data,
        id_key_digest=given.id_key_digest,
        author_key_digest=given.author_key_digest,
        minimum_guest_svn=given.minimum_guest_svn,
    )
