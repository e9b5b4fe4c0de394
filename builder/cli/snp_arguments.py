"""What the verbs that judge an SEV-SNP report have in common: its options, and how they are read."""

from __future__ import annotations

import argparse
from pathlib import Path

from cryptography import x509

from builder.cli.arguments import Parser, hex_bytes, split_names
from builder.cli.reading import parse_file, read_limited
from builder.errors import UsageError
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.snp import certificates, report, verify
from measurements.snp.pages import DIGEST_SIZE
from measurements.snp.policy import FLAGS, GuestPolicy
from measurements.snp.tcb import Product, TcbVersion

#: Longer files are not read at all; shorter ones that are malformed fail a check.
_LARGEST = 1 << 20


def add_report_options(parser: Parser, *, host_data: str) -> None:
    """Add the options that say what a report must hold; ``host_data`` says what goes without that option."""
    add = parser.add_argument
    add("--certificate", metavar="FILE", type=Path, action="append", required=True,
        help="the VCEK's or VLEK's certificate: PEM, DER or the table beside an extended report; "
        "may be repeated")  # fmt: skip
    add("--root", metavar="PEM", type=Path, help="roots to trust instead of AMD's")
    add("--nonce", metavar="HEX", type=_nonce, help="the report data is this nonce and zeros")
    add("--report-data", metavar="HEX", type=hex_bytes(report.REPORT_DATA_SIZE), help="or these 64 bytes")
    add("--accept", metavar="NAMES", type=_policy, default="smt_allowed",
        help=f"the weakest policy: permissions it may give, demands it must make, of {', '.join(FLAGS)}")  # fmt: skip
    add("--minimum-tcb", metavar="PARTS", type=_tcb, help="as bootloader=10,tee=0,snp=23,microcode=72")
    add("--product", choices=[product.value for product in Product], help="for reports of version 2")
    add("--vmpl", metavar="N", type=int, default=0, help="the highest VMPL that is accepted; 0")
    add("--host-data", metavar="HEX", type=hex_bytes(report.HOST_DATA_SIZE), help=host_data)
    add("--id-key-digest", metavar="HEX", type=hex_bytes(DIGEST_SIZE))
    add("--author-key-digest", metavar="HEX", type=hex_bytes(DIGEST_SIZE))


def read_report(given: argparse.Namespace) -> tuple[bytes, list[bytes]]:
    """Return the report and the certificates beside it."""
    return read_limited(given.report, _LARGEST), [read_limited(path, _LARGEST) for path in given.certificate]


def report_data(given: argparse.Namespace) -> bytes | Unproven:
    """Return what the report must be bound to."""
    if given.nonce is not None and given.report_data is not None:
        raise UsageError("--nonce and --report-data exclude each other")
    data: bytes | None = given.report_data or given.nonce
    return data or Unproven(reason="no --nonce and no --report-data: the report may be an old one")


def minimum_tcb(given: argparse.Namespace) -> TcbVersion | Unproven:
    """Return the lowest TCB version that is accepted."""
    floor: TcbVersion | None = given.minimum_tcb
    return floor or Unproven(reason="no --minimum-tcb: firmware of any age is accepted")


def product(given: argparse.Namespace) -> Product | None:
    """Return the processor's generation, where it is said."""
    return None if given.product is None else Product(given.product)


def trusted(given: argparse.Namespace) -> tuple[x509.Certificate, ...] | None:
    """Return the roots that stand in place of AMD's."""
    return None if given.root is None else parse_file(given.root, certificates.MAX_SIZE, certificates.load)


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
