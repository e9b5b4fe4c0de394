"""What every form of ``goldsmith verify`` has in common: the document, who signed it, and how values are told."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser, timestamp
from builder.cli.checks import print_checks, print_conclusion
from builder.cli.files import public_keys, read_prefix
from builder.cli.profiles import add_profile_options, read_profiles
from builder.errors import UsageError
from measurements.envelope import MAX_ENVELOPE_BYTES
from measurements.keys import PublicKey
from measurements.policy import Unproven
from measurements.verify.release import LaunchVerdict, ReleasePolicy, ValueVerdict, launch_to_json


def add_document_options(parser: Parser) -> None:
    """Add the options that say which golden document is believed."""
    add = parser.add_argument
    add("--golden", metavar="FILE", type=Path, required=True, help="signed golden document, golden.dsse.json")
    add("--key", metavar="PEM", type=Path, required=True, action="append",
        help="public key that may have signed it; may be repeated")  # fmt: skip
    add("--threshold", metavar="N", type=count(1), default=1, help="keys that must have signed (default: 1)")
    add("--minimum-svn", metavar="N", type=count(0), default=0, help="lowest SVN still trusted (default: 0)")
    add("--image", metavar="NAME", help="the image's name; otherwise any image that the keys sign")
    add("--shape", metavar="NAME", help="the launch shape; otherwise the one that fits")
    add_profile_options(parser)
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339); otherwise now")
    add("--json", action="store_true", help="print a JSON object")


def add_gpu_option(parser: Parser) -> None:
    """Add the option that says that GPUs are judged elsewhere."""
    parser.add_argument(
        "--without-gpu", action="store_true",
        help="judge the machine without its GPUs, of which a CPU's report says nothing, and say so in the verdict",
    )  # fmt: skip


def count(minimum: int) -> Callable[[str], int]:
    """Return a reader of decimal numbers from ``minimum``."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) >= minimum):
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {minimum}")
        return int(text)

    return parse


def signers(given: argparse.Namespace) -> tuple[PublicKey, ...]:
    """Return the keys that may have signed; as many distinct ones as must have."""
    keys = public_keys(given.key)
    if len({key.key_id for key in keys}) < given.threshold:
        raise UsageError(f"--threshold {given.threshold} needs as many distinct keys; --key gives fewer")
    return tuple(keys)


def read_envelope(given: argparse.Namespace) -> bytes:
    """Return the envelope; one byte over the limit is enough for the check that refuses it."""
    return read_prefix(given.golden, MAX_ENVELOPE_BYTES + 1)


def release_policy(given: argparse.Namespace) -> ReleasePolicy:
    """Return which golden documents are believed, and as of when."""
    return ReleasePolicy(
        signers=signers(given),
        threshold=given.threshold,
        now=given.at or datetime.now(UTC),
        minimum_svn=given.minimum_svn,
        image=given.image,
        shape=given.shape,
        profiles=read_profiles(given),
        gpu=Unproven(reason="--without-gpu was given") if given.without_gpu else None,
    )


def tell(verdict: LaunchVerdict, *, json: bool) -> int:
    """Print the verdict on a confidential launch; returns the exit code, 0 or 1."""
    for warning in verdict.warnings:
        console.warn(f"UNPROVEN {warning}")
    if json:
        console.emit_json({**launch_to_json(verdict), "warnings": list(verdict.warnings)})
        return 0 if verdict.passed else 1
    print_checks(verdict)
    if verdict.values:
        console.out("")
        rows = [[item.name, _word(item), item.reason or ""] for item in verdict.values]
        console.table(f"values of {verdict.shape}", ["value", "", "why"], rows)
        for item in verdict.values:
            if item.pinned and not item.equal:
                console.out(f"\n{item.name}: observed {item.observed}")
                console.out("\n".join(f"  expected {value}" for value in item.predicted))
    print_conclusion(verdict)
    return 0 if verdict.passed else 1


def _word(item: ValueVerdict) -> str:
    if not item.pinned:
        return "not pinned"
    return "equal" if item.equal else "DIFFERS"
