"""goldsmith snp verify; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser, hex_bytes, split_names, timestamp
from builder.cli.checks import print_checks, print_conclusion
from builder.cli.reading import parse_file, read_limited
from builder.errors import UsageError
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.snp import certificates, report, verify
from measurements.snp.pages import DIGEST_SIZE
from measurements.snp.policy import FLAGS, GuestPolicy
from measurements.snp.tcb import Product, TcbVersion
from measurements.verify.verdict import to_json

#: Longer files are not read at all; shorter ones that are malformed fail a check.
_LARGEST = 1 << 20


def main(arguments: list[str]) -> int:
    """Verify an attestation report; returns 0 or 1."""
    given = _parser().parse_args(arguments)
    expected = _expectations(given)
    found = [read_limited(path, _LARGEST) for path in given.certificate]
    verdict = verify.verify(read_limited(given.report, _LARGEST), found, expected)
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
    add(
        "--certificate",
        metavar="FILE",
        type=Path,
        action="append",
        required=True,
        help="the VCEK's or VLEK's certificate (PEM, DER or the table beside an extended report); may be repeated",
    )
    add("--root", metavar="PEM", type=Path, help="roots to trust instead of AMD's")
    add("--measurement", metavar="HEX", type=hex_bytes(DIGEST_SIZE), action="append", help="may be repeated")
    add("--nonce", metavar="HEX", type=_nonce, help="the report data is this nonce and zeros")
    add("--report-data", metavar="HEX", type=hex_bytes(report.REPORT_DATA_SIZE), help="or these 64 bytes")
    add(
        "--accept",
        metavar="NAMES",
        type=_policy,
        default="smt_allowed",
        help=f"the weakest policy: permissions it may give, demands it must make, of {', '.join(FLAGS)}",
    )
    add("--minimum-tcb", metavar="PARTS", type=_tcb, help="as bootloader=10,tee=0,snp=23,microcode=72")
    add("--product", choices=[product.value for product in Product], help="for reports of version 2")
    add("--vmpl", metavar="N", type=int, default=0, help="the highest VMPL that is accepted; 0")
    add("--host-data", metavar="HEX", type=hex_bytes(report.HOST_DATA_SIZE))
    add("--id-key-digest", metavar="HEX", type=hex_bytes(DIGEST_SIZE))
    add("--author-key-digest", metavar="HEX", type=hex_bytes(DIGEST_SIZE))
    add("--minimum-guest-svn", metavar="N", type=int, default=0)
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339, with a time zone)")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _expectations(given: argparse.Namespace) -> verify.Expectations:
    if given.nonce is not None and given.report_data is not None:
        raise UsageError("--nonce and --report-data exclude each other")
    data = given.report_data or given.nonce
    return verify.Expectations(
        now=given.at or datetime.now(UTC),
        report_data=data or Unproven(reason="no --nonce and no --report-data: the report may be an old one"),
        measurements=frozenset(given.measurement)
        if given.measurement
        else Unproven(reason="no --measurement: any guest is accepted"),
        policy=given.accept,
        minimum_tcb=given.minimum_tcb or Unproven(reason="no --minimum-tcb: firmware of any age is accepted"),
        product=None if given.product is None else Product(given.product),
        trusted=None
        if given.root is None
        else parse_file(given.root, certificates.MAX_SIZE, certificates.load),
        vmpl=given.vmpl,
        host_data=given.host_data,
        id_key_digest=given.id_key_digest,
        author_key_digest=given.author_key_digest,
        minimum_guest_svn=given.minimum_guest_svn,
    )


def _policy(names: str) -> GuestPolicy:
    try:
        return GuestPolicy.of(split_names(names))
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _nonce(text: str) -> bytes:
    try:
        return verify.report_data_of(bytes.fromhex(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tcb(text: str) -> TcbVersion:
    parts = {"fmc": 0}
    for item in text.split(","):
        name, _, value = item.partition("=")
        if name.strip() not in ("fmc", "bootloader", "tee", "snp", "microcode") or not value.isdecimal():
            raise argparse.ArgumentTypeError(f"{item!r}; expected NAME=NUMBER")
        parts[name.strip()] = int(value)
    missing = {"bootloader", "tee", "snp", "microcode"} - set(parts)
    if missing:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(missing))} missing")
    return TcbVersion(**parts)
