"""goldsmith verify --snp-report: an SEV-SNP report against a golden document; runs on the base dependencies."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli import snp_arguments, verify_release
from builder.cli.arguments import Parser
from builder.errors import UsageError
from measurements.snp.report import HOST_DATA_SIZE
from measurements.verify.snp import SnpPolicy, verify_report


def main(arguments: list[str]) -> int:
    """Verify a report against a golden document; returns the exit code, 0 or 1."""
    given = _parser().parse_args(arguments)
    policy = _policy(given)
    report, certificates = snp_arguments.read_report(given)
    verdict = verify_report(verify_release.read_envelope(given), report, certificates, policy)
    return verify_release.tell(verdict, json=given.json)


def _parser() -> Parser:
    parser = Parser(
        "verify --snp-report FILE",
        "Decide whether an SEV-SNP report comes from a guest that was launched with the image of a golden document. "
        "Exits with 0 when every check holds, with 1 when one does not.",
    )
    add = parser.add_argument
    add("--snp-report", metavar="FILE", type=Path, required=True, dest="report",
        help="1184 bytes, as the firmware wrote them")  # fmt: skip
    verify_release.add_document_options(parser)
    verify_release.add_gpu_option(parser)
    snp_arguments.add_report_options(parser, host_data="zeros unless said")
    add("--firmware-only", action="store_true",
        help="accept a launch without kernel hashes, whose digest says nothing about what boots")  # fmt: skip
    return parser


def _policy(given: argparse.Namespace) -> SnpPolicy:
    if given.author_key_digest is not None and given.id_key_digest is None:
        raise UsageError("--author-key-digest needs --id-key-digest: the author key signs an ID key")
    return SnpPolicy(
        release=verify_release.release_policy(given),
        report_data=snp_arguments.report_data(given),
        guest_policy=given.accept,
        minimum_tcb=snp_arguments.minimum_tcb(given),
        host_data=given.host_data or bytes(HOST_DATA_SIZE),
        product=snp_arguments.product(given),
        trusted=snp_arguments.trusted(given),
        vmpl=given.vmpl,
        id_key_digest=given.id_key_digest,
        author_key_digest=given.author_key_digest,
        firmware_only=given.firmware_only,
    )
