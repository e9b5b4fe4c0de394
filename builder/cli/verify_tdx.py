"""goldsmith verify --tdx-quote: a TDX quote against a golden document; runs on the base dependencies."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli import tdx_arguments, verify_release
from builder.cli.arguments import Parser, hex_bytes
from builder.cli.reading import read_limited, read_prefix
from measurements.events import Stability
from measurements.formats.eventlog import MAX_LOG_SIZE
from measurements.policy import ALL_PINNED, Unproven
from measurements.tdx.policy import REGISTER_SIZE, RegisterPolicy
from measurements.verify.tdx import TdPolicy, verify_quote

#: What binds the image cannot be left out.
_UNPINNABLE = sorted(ALL_PINNED - {Stability.IMAGE})
_ANY = "any"


def main(arguments: list[str]) -> int:
    """Verify a quote against a golden document; returns the exit code, 0 or 1."""
    given = _parser().parse_args(arguments)
    policy = _policy(given)
    log = None if given.event_log is None else read_prefix(given.event_log, MAX_LOG_SIZE + 1)
    quote = read_limited(given.quote, tdx_arguments.LARGEST)
    verdict = verify_quote(verify_release.read_envelope(given), quote, policy, event_log=log)
    return verify_release.tell(verdict, json=given.json)


def _parser() -> Parser:
    parser = Parser(
        "verify --tdx-quote FILE",
        "Decide whether a TDX quote comes from a trust domain that runs the image of a golden document. "
        "Exits with 0 when every check holds, with 1 when one does not.",
    )
    add = parser.add_argument
    add(
        "--tdx-quote", metavar="FILE", type=Path, required=True, dest="quote", help="version 4 or 5, as bytes"
    )
    add("--event-log", metavar="FILE", type=Path, help="the trust domain's CCEL: says which event differs")
    verify_release.add_document_options(parser)
    verify_release.add_gpu_option(parser)
    tdx_arguments.add_quote_options(parser)
    add("--rtmr3", metavar="HEX", type=_rtmr3, default=frozenset({bytes(REGISTER_SIZE)}),
        help="what applications extended; zeros unless said, 'any' to leave it open")  # fmt: skip
    add("--unpin", metavar="KIND", type=Stability, action="append", default=[], choices=_UNPINNABLE,
        help=f"leave out registers of a kind ({', '.join(_UNPINNABLE)}); may be repeated")  # fmt: skip
    return parser


def _policy(given: argparse.Namespace) -> TdPolicy:
    return TdPolicy(
        release=verify_release.release_policy(given),
        roots=tdx_arguments.roots(given),
        tcb=tdx_arguments.tcb(given),
        report_data=tdx_arguments.report_data(given),
        rtmr3=given.rtmr3,
        mrconfigid=tdx_arguments.vmm_register(given, "mrconfigid"),
        mrowner=tdx_arguments.vmm_register(given, "mrowner"),
        mrownerconfig=tdx_arguments.vmm_register(given, "mrownerconfig"),
        attributes=tdx_arguments.attributes(given),
        xfam=tdx_arguments.xfam(given),
        pin=ALL_PINNED - set(given.unpin),
    )


def _rtmr3(text: str) -> RegisterPolicy:
    if text == _ANY:
        return Unproven(reason="--rtmr3 any: what applications extended is not looked at")
    return frozenset({hex_bytes(REGISTER_SIZE)(text)})
