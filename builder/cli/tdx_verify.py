"""goldsmith tdx verify; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from builder.cli import console, tdx_arguments
from builder.cli.arguments import Parser, hex_bytes, timestamp
from builder.cli.checks import print_checks, print_conclusion
from builder.cli.reading import parse_file, read_limited
from measurements import strictjson
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.tdx.policy import REGISTER_SIZE, RegisterPolicy, TdxPolicy
from measurements.tdx.verify import verify_quote
from measurements.verify.verdict import to_json

_MAX_PREDICTION: Final = 64 << 20
_PREDICTED = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def main(arguments: list[str]) -> int:
    """Verify a TDX quote; returns 0 or 1."""
    given = _parser().parse_args(arguments)
    result = verify_quote(read_limited(given.quote, tdx_arguments.LARGEST), _policy(given))
    if given.json:
        told = to_json(result.verdict)
        console.emit_json(
            {name: told[name] for name in ("verdict", "checks")} | {"warnings": list(result.warnings)}
        )
    else:
        print_checks(result.verdict)
        print_conclusion(result.verdict)
    for warning in result.warnings:
        console.warn(warning)
    return 0 if result.passed else 1


def _parser() -> Parser:
    parser = Parser("tdx verify", "Decide whether a quote comes from a trust domain that is as expected.")
    add = parser.add_argument
    add("quote", metavar="QUOTE", type=Path, help="version 4 or 5, as bytes")
    tdx_arguments.add_quote_options(parser)
    add("--prediction", metavar="FILE", type=Path, help="what predict tdx --json said: MRTD and RTMRs")
    for name in _PREDICTED:
        add(
            f"--{name}", metavar="HEX", type=hex_bytes(REGISTER_SIZE), action="append", help="may be repeated"
        )
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339, with a time zone)")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _policy(given: argparse.Namespace) -> TdxPolicy:
    data = tdx_arguments.report_data(given)
    predicted = {} if given.prediction is None else parse_file(given.prediction, _MAX_PREDICTION, _prediction)
    registers = {name: _register(name, getattr(given, name), predicted) for name in _PREDICTED}
    return TdxPolicy(
        roots=tdx_arguments.roots(given),
        now=given.at or datetime.now(UTC),
        tcb=tdx_arguments.tcb(given),
        report_data=data,
        mrtd=registers["mrtd"],
        rtmrs=(registers["rtmr0"], registers["rtmr1"], registers["rtmr2"], registers["rtmr3"]),
        mrconfigid=tdx_arguments.vmm_register(given, "mrconfigid"),
        mrowner=tdx_arguments.vmm_register(given, "mrowner"),
        mrownerconfig=tdx_arguments.vmm_register(given, "mrownerconfig"),
        attributes=tdx_arguments.attributes(given),
        xfam=tdx_arguments.xfam(given),
    )


def _register(name: str, given: list[bytes] | None, predicted: dict[str, frozenset[bytes]]) -> RegisterPolicy:
    values = frozenset(given or ()) | predicted.get(name, frozenset())
    return values or Unproven(reason=f"no --{name}, no prediction of it")


def _prediction(data: bytes) -> dict[str, frozenset[bytes]]:
    """Return the acceptable values of each register that a prediction has."""
    value = strictjson.loads(data, what="prediction", max_bytes=_MAX_PREDICTION)
    if not isinstance(value, dict):
        raise FormatError("prediction: expected the object that predict tdx --json prints")
    found: dict[str, list[Any]] = {name: [value.get(name)] for name in _PREDICTED[1:]}
    mrtd, alternatives = value.get("mrtd"), value.get("alternatives")
    if not isinstance(mrtd, dict) or not isinstance(alternatives, dict):
        raise FormatError("prediction: no mrtd or no alternatives; expected what predict tdx --json prints")
    found["mrtd"] = list(mrtd.values())
    for name, courses in alternatives.items():
        if name not in found or not isinstance(courses, list):
            raise FormatError("prediction: alternatives are malformed")
        found[name] += [course.get("value") if isinstance(course, dict) else course for course in courses]
    return {
        name: frozenset(_digest(text) for text in texts if text is not None) for name, texts in found.items()
    }


def _digest(text: object) -> bytes:
    if not isinstance(text, str):
        raise FormatError("prediction: a value is no text")
    try:
        return hex_bytes(REGISTER_SIZE)(text)
    except argparse.ArgumentTypeError as error:
        raise FormatError(f"prediction: {error}") from None
