"""goldsmith gpu; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser, hex_bytes, timestamp
from builder.cli.files import read_prefix
from builder.errors import UsageError
from measurements.gpu.certificates import MAX_CHAIN_BYTES
from measurements.gpu.ocsp import MAX_OCSP_BYTES
from measurements.gpu.report import MAX_REPORT_BYTES, NONCE_SIZE
from measurements.gpu.revocation import MAX_CRL_BYTES, MAX_STATUS_FILES
from measurements.gpu.rim import MAX_RIM_BYTES
from measurements.gpu.verify import MAX_RIMS, UNPROVEN, Policy, Verdict, to_json, verify


def main(arguments: list[str]) -> int:
    """Run ``goldsmith gpu verify``; returns the exit code, 0 or 1."""
    if arguments[:1] != ["verify"]:
        if arguments[:1] in (["-h"], ["--help"]):
            console.out("usage: goldsmith gpu verify --help")
            return 0
        raise UsageError("expected: goldsmith gpu verify", hint="goldsmith gpu verify --help")
    given = _parser().parse_args(arguments[1:])
    for option, values, most in (
        ("--rim", given.rim, MAX_RIMS),
        ("--crl", given.crl, MAX_STATUS_FILES),
        ("--ocsp", given.ocsp, MAX_STATUS_FILES),
    ):
        if len(values) > most:
            raise UsageError(f"{option} is given {len(values)} times; at most {most}")
    # One byte over the limit is enough for the check that refuses it; hexadecimal text is twice as long.
    verdict = verify(
        read_prefix(given.report, 2 * MAX_REPORT_BYTES + 1),
        read_prefix(given.certs, MAX_CHAIN_BYTES + 1),
        [read_prefix(path, MAX_RIM_BYTES + 1) for path in given.rim],
        Policy(
            at=given.at or datetime.now(UTC),
            nonce=given.nonce,
            crls=tuple(read_prefix(path, MAX_CRL_BYTES + 1) for path in given.crl),
            ocsp=tuple(read_prefix(path, MAX_OCSP_BYTES + 1) for path in given.ocsp),
        ),
    )
    for check in verdict.checks:
        if check.ok and check.detail.startswith(UNPROVEN):
            console.warn(f"{check.name}: {check.detail}")
    if given.json:
        console.emit_json(to_json(verdict))
    else:
        _print(verdict)
    return 0 if verdict.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "gpu verify",
        "Decide whether a recorded attestation report comes from an NVIDIA GPU that runs the driver and firmware of "
        "signed reference values (RIMs). Exits with 0 when every check holds, with 1 when one does not.",
    )
    add = parser.add_argument
    add(
        "--report", metavar="FILE", type=Path, required=True, help="the report, binary or as hexadecimal text"
    )
    add(
        "--certs",
        metavar="FILE",
        type=Path,
        required=True,
        help="its certificates (PEM), the GPU's own first",
    )
    add("--rim", metavar="FILE", type=Path, required=True, action="append",
        help="reference values (SWID XML): one of the driver and one of the VBIOS")  # fmt: skip
    add("--crl", metavar="FILE", type=Path, default=[], action="append",
        help="certificate revocation list of an issuer (DER or PEM); may be repeated")  # fmt: skip
    add("--ocsp", metavar="FILE", type=Path, default=[], action="append",
        help="recorded OCSP response about a certificate (DER); may be repeated")  # fmt: skip
    add("--nonce", metavar="HEX", type=hex_bytes(NONCE_SIZE), help="the nonce that the GPU was asked with")
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339); otherwise now")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _print(verdict: Verdict) -> None:
    rows = [
        [str(number), check.name, "ok" if check.ok else "FAILED", check.detail]
        for number, check in enumerate(verdict.checks, 1)
    ]
    console.table("", ["", "check", "", "why"], rows)
    for each in verdict.mismatches:
        observed = "nothing" if each.observed is None else each.observed.hex()
        console.out(f"\nmeasurement {each.index}, {each.rim} RIM, {each.name}: observed {observed}")
        console.out("\n".join(f"  expected {value.hex()}" for value in each.expected))
    console.out(f"\nverdict: {'pass' if verdict.passed else 'FAIL'}")
