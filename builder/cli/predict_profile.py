"""goldsmith predict profile; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.arguments import Parser
from builder.cli.files import golden_document, public_keys
from builder.cli.profiles import profile_name, tell_profile
from builder.errors import BuilderError, UsageError
from measurements import profile
from measurements.errors import MeasurementError
from measurements.golden import GoldenDocument
from measurements.profile import PlatformProfile


def main(arguments: list[str]) -> int:
    """Cut a platform profile out of the launches of a golden document; returns 0."""
    given = _parser().parse_args(arguments)
    document = golden_document(given.golden, public_keys(given.key))
    tell_profile(_profile(given, document), given.out, json=given.json)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "predict profile",
        "Cut a platform profile out of the launches of a golden document: what their firmware and shape decide, "
        "whatever image is started. goldsmith predict tpm, snp and tdx make one of other firmware with --as-profile.",
    )
    add = parser.add_argument
    add(
        "golden",
        metavar="GOLDEN",
        type=Path,
        help="golden.json, its signed envelope, or a release folder: of any image",
    )
    add("--key", metavar="PEM", type=Path, action="append", default=[],
        help="public key that must have signed it; may be repeated. Without, signatures are not looked at")  # fmt: skip
    add("--launch", metavar="NAME", action="append", default=[], help="a launch of it; otherwise all")
    add("--name", metavar="NAME", help="the profile's name; otherwise the image's")
    add("--out", metavar="FILE", type=Path, help="file to write; otherwise standard output")
    add("--json", action="store_true", help="with --out, print a JSON object about it")
    return parser


def _profile(given: argparse.Namespace, document: GoldenDocument) -> PlatformProfile:
    if document.image_layer is None:
        raise BuilderError(
            f"{given.golden} has no image layer, so what its image decides cannot be told from the rest",
            hint="build that release anew",
        )
    unknown = sorted(set(given.launch) - set(document.launch_names))
    if unknown:
        raise UsageError(
            f"--launch {unknown[0]}: {given.golden} has no such launch",
            hint=f"its launches: {', '.join(document.launch_names)}",
        )
    wanted = set(given.launch or document.launch_names)
    try:
        return profile.profile_of(
            document.image_layer,
            name=profile_name(given.name or document.image.name),
            predictions=[each for each in document.predictions if each.shape.name in wanted],
            sev_snp=[each for each in document.sev_snp if each.name in wanted],
            tdx=[each for each in document.tdx if each.name in wanted],
        )
    except MeasurementError as error:
        raise BuilderError(f"{given.golden}: {error}", hint="--launch NAME leaves out the others") from error
