"""goldsmith tdx verify; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from builder.cli import console
from builder.cli.arguments import Parser, hex_bytes, split_names, timestamp
from builder.cli.checks import print_checks, print_conclusion
from builder.cli.reading import parse_file, read_limited
from builder.errors import UsageError
from measurements import strictjson
from measurements.attestation_key import load_certificates
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.tdx import intel
from measurements.tdx.collateral import Collateral
from measurements.tdx.policy import (
    REGISTER_SIZE,
    REPORT_DATA_SIZE,
    Bits,
    RegisterPolicy,
    ReportData,
    TcbPolicy,
    TdxPolicy,
)
from measurements.tdx.verify import verify_quote
from measurements.verify.verdict import to_json

#: Longer files are not read at all; shorter ones that are malformed fail a check.
_LARGEST: Final = 1 << 20
_MAX_PREDICTION: Final = 64 << 20
_MIN_NONCE: Final = 16
#: Registers that the VMM sets, zeros unless it was told otherwise.
_VMM_REGISTERS = ("mrconfigid", "mrowner", "mrownerconfig")
_PREDICTED = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def main(arguments: list[str]) -> int:
    """Verify a TDX quote; returns 0 or 1."""
    given = _parser().parse_args(arguments)
    result = verify_quote(read_limited(given.quote, _LARGEST), _policy(given))
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
    add(
        "--collateral",
        metavar="DIR",
        type=Path,
        help="Intel's statements: tcb-info.json, qe-identity.json, signing-chain.pem, pck.crl, root.crl",
    )
    add(
        "--without-collateral",
        action="store_true",
        help="look at neither the quoting enclave's identity, revocation nor the platform's age",
    )
    add(
        "--accept-tcb", metavar="NAMES", type=split_names, default=["UpToDate"], help="TCB statuses; UpToDate"
    )
    add("--root", metavar="PEM", type=Path, help="roots to trust instead of Intel's")
    add("--nonce", metavar="HEX", type=_nonce, help="the report data is this nonce and zeros")
    add("--report-data", metavar="HEX", type=hex_bytes(REPORT_DATA_SIZE), help="or these 64 bytes")
    add("--prediction", metavar="FILE", type=Path, help="what predict tdx --json said: MRTD and RTMRs")
    for name in _PREDICTED:
        add(
            f"--{name}", metavar="HEX", type=hex_bytes(REGISTER_SIZE), action="append", help="may be repeated"
        )
    for name in _VMM_REGISTERS:
        add(f"--{name}", metavar="HEX", type=hex_bytes(REGISTER_SIZE), help="zeros unless said")
    add("--attributes", metavar="HEX", type=_bits, help="TDATTRIBUTES, exactly")
    add("--xfam", metavar="HEX", type=_bits, help="XFAM, exactly")
    add("--at", metavar="TIME", type=timestamp, help="verify as of this time (RFC 3339, with a time zone)")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _policy(given: argparse.Namespace) -> TdxPolicy:
    if given.nonce is not None and given.report_data is not None:
        raise UsageError("--nonce and --report-data exclude each other")
    predicted = {} if given.prediction is None else parse_file(given.prediction, _MAX_PREDICTION, _prediction)
    registers = {name: _register(name, getattr(given, name), predicted) for name in _PREDICTED}
    data = given.report_data or given.nonce
    return TdxPolicy(
        roots=(intel.sgx_root_ca(),) if given.root is None else parse_file(given.root, _LARGEST, _roots),
        now=given.at or datetime.now(UTC),
        tcb=_tcb(given),
        report_data=Unproven(reason="no --nonce and no --report-data")
        if data is None
        else ReportData(value=data),
        mrtd=registers["mrtd"],
        rtmrs=(registers["rtmr0"], registers["rtmr1"], registers["rtmr2"], registers["rtmr3"]),
        mrconfigid=frozenset({given.mrconfigid or bytes(REGISTER_SIZE)}),
        mrowner=frozenset({given.mrowner or bytes(REGISTER_SIZE)}),
        mrownerconfig=frozenset({given.mrownerconfig or bytes(REGISTER_SIZE)}),
        attributes=given.attributes or Unproven(reason="no --attributes"),
        xfam=given.xfam or Unproven(reason="no --xfam"),
    )


def _tcb(given: argparse.Namespace) -> TcbPolicy | Unproven:
    folder: Path | None = given.collateral
    if (folder is None) is not given.without_collateral:
        raise UsageError("give --collateral DIR, or --without-collateral to do without what it proves")
    if folder is None:
        return Unproven(reason="--without-collateral: any enclave of the machine may have signed this")
    return TcbPolicy(
        collateral=Collateral(
            tcb_info=read_limited(folder / "tcb-info.json", _LARGEST),
            qe_identity=read_limited(folder / "qe-identity.json", _LARGEST),
            signing_chain=read_limited(folder / "signing-chain.pem", _LARGEST),
            pck_crl=read_limited(folder / "pck.crl", _LARGEST),
            root_crl=read_limited(folder / "root.crl", _LARGEST),
        ),
        accepted=frozenset(given.accept_tcb),
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


def _roots(data: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return load_certificates(data.decode("ascii"))
    except UnicodeDecodeError:
        raise FormatError("roots: not PEM") from None


def _nonce(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
    if not _MIN_NONCE <= len(value) <= REPORT_DATA_SIZE:
        raise argparse.ArgumentTypeError(f"{len(value)} bytes; expected {_MIN_NONCE} to {REPORT_DATA_SIZE}")
    return value.ljust(REPORT_DATA_SIZE, b"\0")


def _bits(text: str) -> Bits:
    try:
        value = int(text, 16)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} has more than 64 bits")
    return Bits.exactly(value)
