"""goldsmith verify; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.cli import console, verify_release
from builder.cli.arguments import Parser
from builder.cli.checks import print_checks, print_conclusion, print_gpus
from builder.cli.files import parse_file, read_prefix
from builder.cli.profiles import read_profiles
from builder.errors import BuilderError, UsageError
from measurements import attestation_key
from measurements.errors import FormatError, MeasurementError
from measurements.events import HashAlgorithm, Stability
from measurements.evidence.document import MAX_EVIDENCE_BYTES
from measurements.gpu import appraise
from measurements.gpu.expectations import MAX_RIMS
from measurements.gpu.ocsp import MAX_OCSP_BYTES
from measurements.gpu.revocation import MAX_CRL_BYTES, MAX_STATUS_FILES
from measurements.gpu.rim import MAX_RIM_BYTES
from measurements.policy import (
    ALL_PINNED,
    CertificateChain,
    ExpectedNonce,
    GpuDemands,
    GpuPolicy,
    KeyPolicy,
    NoncePolicy,
    PinnedKey,
    Policy,
    Unproven,
)
from measurements.verify import RegisterVerdict, Verdict, to_json, verify
from measurements.verify.gpu import to_json as gpu_to_json

_LARGEST_PEM = attestation_key.MAX_ROOTS * attestation_key.MAX_PEM_BYTES

#: Evidence of other kinds -> the module that judges it.
_OTHER_EVIDENCE = {"--snp-report": "verify_snp", "--tdx-quote": "verify_tdx"}


def main(arguments: list[str]) -> int:
    """Verify evidence against a golden document; returns the exit code, 0 or 1."""
    named = {item.partition("=")[0] for item in arguments}
    kinds = [kind for kind in ("--evidence", *_OTHER_EVIDENCE) if kind in named]
    if len(kinds) > 1:
        raise UsageError(
            f"{' and '.join(kinds)} exclude each other: verify them one by one",
            hint="goldsmith verify --help",
        )
    if kinds and kinds[0] in _OTHER_EVIDENCE:
        judge = importlib.import_module(f"builder.cli.{_OTHER_EVIDENCE[kinds[0]]}")
        code: int = judge.main(arguments)
        return code
    given = _parser().parse_args(arguments)
    policy = _policy(given)
    envelope = verify_release.read_envelope(given)
    evidence = read_prefix(given.evidence, MAX_EVIDENCE_BYTES + 1)
    verdict = verify(envelope, evidence, policy)
    for warning in verdict.warnings:
        console.warn(f"UNPROVEN {warning}")
    if given.json:
        console.emit_json(
            {**to_json(verdict), "gpu": gpu_to_json(verdict.gpu), "warnings": list(verdict.warnings)}
        )
    else:
        _print(verdict)
    return 0 if verdict.passed else 1


def _parser() -> Parser:
    parser = Parser(
        "verify",
        "Decide whether evidence comes from a machine that runs the image of a golden document. "
        "Exits with 0 when every check holds, with 1 when one does not. Instead of --evidence: --snp-report FILE, "
        "or --tdx-quote FILE, the hardware's own report of a confidential virtual machine; each with --help explains "
        "its options.",
    )
    add = parser.add_argument
    verify_release.add_document_options(parser)
    add("--evidence", metavar="FILE", type=Path, required=True, help="what the machine sent")
    add("--nonce", metavar="HEX", type=_nonce, help="the nonce that the machine was asked with")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ak", metavar="PEM", type=Path, help="the machine's attestation key (public)")
    trust.add_argument(
        "--ak-ca", metavar="PEM", type=Path, help="roots that certify attestation keys and nothing else"
    )
    add("--secure-boot", action="store_true", help="accept launches with Secure Boot on alone")
    gpu = parser.add_mutually_exclusive_group()
    gpu.add_argument("--rim", metavar="FILE", type=Path, default=[], action="append",
        help="reference values of the image's GPU (SWID XML), which its document pins; may be repeated")  # fmt: skip
    gpu.add_argument("--without-gpu", action="store_true",
        help="judge the machine without its GPUs, and say so in the verdict")  # fmt: skip
    add("--gpu-crl", metavar="FILE", type=Path, default=[], action="append",
        help="revocation list of an issuer of GPUs or RIMs (DER or PEM); may be repeated")  # fmt: skip
    add("--gpu-ocsp", metavar="FILE", type=Path, default=[], action="append",
        help="recorded OCSP response about one of their certificates (DER); may be repeated")  # fmt: skip
    add("--unpin", metavar="KIND", type=Stability, action="append", default=[], choices=sorted(ALL_PINNED),
        help=f"leave out registers of a kind ({', '.join(sorted(ALL_PINNED))}); may be repeated")  # fmt: skip
    return parser


def _policy(given: argparse.Namespace) -> Policy:
    pin = ALL_PINNED - set(given.unpin)
    if not pin:
        raise UsageError("--unpin leaves no register to compare")
    now = given.at or datetime.now(UTC)
    return Policy(
        signers=verify_release.signers(given),
        threshold=given.threshold,
        nonce=_nonce_policy(given),
        attestation_key=_key_policy(given, now),
        now=now,
        minimum_svn=given.minimum_svn,
        image=given.image,
        shape=given.shape,
        secure_boot=given.secure_boot,
        profiles=read_profiles(given),
        pin=pin,
        gpu=_gpu_policy(given, now),
    )


def _gpu_policy(given: argparse.Namespace, now: datetime) -> GpuPolicy:
    for option, paths, most in (
        ("--rim", given.rim, MAX_RIMS),
        ("--gpu-crl", given.gpu_crl, MAX_STATUS_FILES),
        ("--gpu-ocsp", given.gpu_ocsp, MAX_STATUS_FILES),
    ):
        if len(paths) > most:
            raise UsageError(f"{option} is given {len(paths)} times; at most {most}")
    if given.without_gpu:
        return Unproven(reason="--without-gpu was given")
    return GpuDemands(
        rims=tuple(read_prefix(path, MAX_RIM_BYTES + 1) for path in given.rim),
        appraisal=appraise.Policy(
            at=now,
            rims_at=now,
            crls=tuple(read_prefix(path, MAX_CRL_BYTES + 1) for path in given.gpu_crl),
            ocsp=tuple(read_prefix(path, MAX_OCSP_BYTES + 1) for path in given.gpu_ocsp),
        ),
    )


def _nonce_policy(given: argparse.Namespace) -> NoncePolicy:
    nonce: ExpectedNonce | None = given.nonce
    return nonce or Unproven(reason="no --nonce was given")


def _key_policy(given: argparse.Namespace, now: datetime) -> KeyPolicy:
    if given.ak is not None:
        return PinnedKey(key=parse_file(given.ak, _LARGEST_PEM, _text(attestation_key.load_attestation_key)))
    if given.ak_ca is not None:
        roots = parse_file(given.ak_ca, _LARGEST_PEM, _text(attestation_key.load_certificates))
        if not roots:
            raise BuilderError(f"{given.ak_ca}: no certificate in it")
        return CertificateChain(roots=roots, now=now)
    return Unproven(reason="neither --ak nor --ak-ca was given")


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    def decoded(data: bytes) -> Any:
        try:
            return parse(data.decode("ascii"))
        except UnicodeDecodeError:
            raise FormatError("not PEM: it holds bytes that are not ASCII") from None

    return decoded


def _nonce(text: str) -> ExpectedNonce:
    try:
        return ExpectedNonce(value=bytes.fromhex(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None
    except MeasurementError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print(verdict: Verdict) -> None:
    print_checks(verdict)
    print_gpus(verdict)
    if verdict.registers:
        console.out("")
        _print_registers(verdict)
    print_conclusion(verdict)


def _print_registers(verdict: Verdict) -> None:
    banks = list(dict.fromkeys(item.bank for item in verdict.registers))
    by_index: dict[int, dict[HashAlgorithm, RegisterVerdict]] = {}
    for item in verdict.registers:
        by_index.setdefault(item.index, {})[item.bank] = item
    rows = []
    for index, of_bank in sorted(by_index.items()):
        reasons = dict.fromkeys(item.reason for item in of_bank.values() if item.reason)
        rows.append([str(index), *(_word(of_bank.get(bank)) for bank in banks), "\n".join(reasons)])
    console.table(f"registers of {verdict.shape}", ["PCR", *banks, "why"], rows)
    for item in verdict.registers:
        if item.pinned and not item.equal:
            console.out(f"\nPCR {item.index}, {item.bank}: observed {item.observed or 'nothing'}")
            console.out("\n".join(f"  expected {value}" for value in item.predicted))


def _word(item: RegisterVerdict | None) -> str:
    if item is None:
        return "-"
    if not item.pinned:
        return "not pinned"
    return "equal" if item.equal else "DIFFERS"
