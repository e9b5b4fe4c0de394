"""What the verbs that judge a TDX quote have in common: its options, and how they are read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cryptography import x509

from builder.cli.arguments import Parser, hex_bytes, split_names
from builder.cli.reading import parse_file, read_limited
from builder.errors import UsageError
from measurements.attestation_key import load_certificates
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.tdx import intel
from measurements.tdx.collateral import Collateral
from measurements.tdx.policy import REGISTER_SIZE, REPORT_DATA_SIZE, Bits, ReportData, TcbPolicy

#: Longer files are not read at all; shorter ones that are malformed fail a check.
LARGEST: Final = 1 << 20
_MIN_NONCE: Final = 16
#: Registers that the VMM sets, zeros unless it was told otherwise.
_VMM_REGISTERS: Final = ("mrconfigid", "mrowner", "mrownerconfig")


def add_quote_options(parser: Parser) -> None:
    """Add the options that say what a quote must hold, MRTD and RTMRs not among them."""
    add = parser.add_argument
    add("--collateral", metavar="DIR", type=Path,
        help="Intel's statements: tcb-info.json, qe-identity.json, signing-chain.pem, pck.crl, root.crl")  # fmt: skip
    add("--without-collateral", action="store_true",
        help="look at neither the quoting enclave's identity, revocation nor the platform's age")  # fmt: skip
    add(
        "--accept-tcb", metavar="NAMES", type=split_names, default=["UpToDate"], help="TCB statuses; UpToDate"
    )
    add("--root", metavar="PEM", type=Path, help="roots to trust instead of Intel's")
    add("--nonce", metavar="HEX", type=_nonce, help="the report data is this nonce and zeros")
    add("--report-data", metavar="HEX", type=hex_bytes(REPORT_DATA_SIZE), help="or these 64 bytes")
    for name in _VMM_REGISTERS:
        add(f"--{name}", metavar="HEX", type=hex_bytes(REGISTER_SIZE), help="zeros unless said")
    add("--attributes", metavar="HEX", type=_bits, help="TDATTRIBUTES, exactly")
    add("--xfam", metavar="HEX", type=_bits, help="XFAM, exactly")


def report_data(given: argparse.Namespace) -> ReportData | Unproven:
    """Return what the quote must be bound to."""
    if given.nonce is not None and given.report_data is not None:
        raise UsageError("--nonce and --report-data exclude each other")
    data: bytes | None = given.report_data or given.nonce
    return Unproven(reason="no --nonce and no --report-data") if data is None else ReportData(value=data)


def tcb(given: argparse.Namespace) -> TcbPolicy | Unproven:
    """Return how current the platform must be."""
    folder: Path | None = given.collateral
    if (folder is None) is not given.without_collateral:
        raise UsageError("give --collateral DIR, or --without-collateral to do without what it proves")
    if folder is None:
        return Unproven(reason="--without-collateral: any enclave of the machine may have signed this")
    return TcbPolicy(
        collateral=Collateral(
            tcb_info=read_limited(folder / "tcb-info.json", LARGEST),
            qe_identity=read_limited(folder / "qe-identity.json", LARGEST),
            signing_chain=read_limited(folder / "signing-chain.pem", LARGEST),
            pck_crl=read_limited(folder / "pck.crl", LARGEST),
            root_crl=read_limited(folder / "root.crl", LARGEST),
        ),
        accepted=frozenset(given.accept_tcb),
    )


def roots(given: argparse.Namespace) -> tuple[x509.Certificate, ...]:
    """Return Intel's root, or those that stand in its place."""
    return (intel.sgx_root_ca(),) if given.root is None else parse_file(given.root, LARGEST, _roots)


def vmm_register(given: argparse.Namespace, name: str) -> frozenset[bytes]:
    """Return the acceptable value of a register that the VMM sets."""
    return frozenset({getattr(given, name) or bytes(REGISTER_SIZE)})


def attributes(given: argparse.Namespace) -> Bits | Unproven:
    """Return what TDATTRIBUTES must be."""
    wanted: Bits | None = given.attributes
    return wanted or Unproven(reason="no --attributes")


def xfam(given: argparse.Namespace) -> Bits | Unproven:
    """Return what XFAM must be."""
    wanted: Bits | None = given.xfam
    return wanted or Unproven(reason="no --xfam")


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
