"""The evidence file (docs/golden-format.md, "Evidence"): what a guest answers to a nonce, as strict JSON.

Its quotes and logs stay bytes here; ``measurements.verify`` looks into them one check at a time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from measurements.chains import MAX_CERTIFICATES
from measurements.errors import FormatError
from measurements.events import Digest, HashAlgorithm
from measurements.evidence.tpm import MAX_ATTEST_BYTES, MAX_SIGNATURE_BYTES
from measurements.gpu.evidence import MAX_GPU_EVIDENCE_BYTES
from measurements.strictjson import Fields, decode_hex, loads

FORMAT = "goldsmith-evidence/1"

MAX_EVIDENCE_BYTES = 8 * 1024 * 1024
MAX_EVENT_LOG_BYTES = 2 * 1024 * 1024
MAX_USERSPACE_LOG_BYTES = 1024 * 1024
MAX_PEM_CHARACTERS = 16 * 1024
MAX_QUOTES = 4
MIN_NONCE_BYTES = 16
MAX_NONCE_BYTES = 64
MAX_REGISTER_INDEX = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteEvidence:
    """One bank's quote, as a TPM made it.

    Attributes:
        bank: the bank it says it is about.
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        registers: PCR index to value; believed only once they hash to the quote's digest.
    """

    bank: HashAlgorithm
    attest: bytes
    signature: bytes
    registers: Mapping[int, Digest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an attester hands in.

    Attributes:
        nonce: 16 to 64 bytes, the verifier's.
        attestation_key: the quote key as PEM ``PUBLIC KEY``.
        certificates: PEM, the key's own first, each issued by the next; may be empty.
        quotes: one per bank, ascending by bank.
        event_log: the firmware's TCG event log.
        userspace_log: systemd's tpm2-measure.log, or ``None`` where there is none.
        gpu: what the machine says of its GPUs (``measurements.gpu.evidence``), or ``None`` on images without.
    """

    nonce: bytes
    attestation_key: str
    certificates: tuple[str, ...]
    quotes: tuple[QuoteEvidence, ...]
    event_log: bytes
    userspace_log: bytes | None
    gpu: bytes | None = None


def parse(data: bytes) -> Evidence:
    """Parse an evidence file.

    Raises:
        FormatError: not JSON, another format, a name missing, unknown or doubled, a wrong type or length.
        LimitError: a named limit of this module is exceeded.
    """
    fields = Fields(loads(data, what="evidence", max_bytes=MAX_EVIDENCE_BYTES), "evidence")
    if fields.raw("format") != FORMAT:
        raise FormatError(f"evidence: format is {str(fields.raw('format'))[:40]!r}; expected {FORMAT!r}")
    nonce = fields.hex("nonce", max_size=MAX_NONCE_BYTES)
    if len(nonce) < MIN_NONCE_BYTES:
        raise FormatError(f"evidence: 'nonce' has {len(nonce)} bytes; at least {MIN_NONCE_BYTES}")
    key = fields.fields("attestation_key")
    public = key.text("public", max_length=MAX_PEM_CHARACTERS)
    certificates = key.array("certificates", max_items=MAX_CERTIFICATES)
    for item in certificates:
        if not isinstance(item, str) or len(item) > MAX_PEM_CHARACTERS:
            raise FormatError(f"{key.where}: 'certificates' holds something that is no PEM text")
    key.end()
    quotes = tuple(
        _quote(Fields(item, f"evidence: quotes[{position}]"))
        for position, item in enumerate(fields.array("quotes", max_items=MAX_QUOTES, min_items=1))
    )
    if len({quote.bank for quote in quotes}) != len(quotes):
        raise FormatError("evidence: two quotes are about one bank; expected one quote per bank")
    userspace = fields.raw("userspace_log")
    evidence = Evidence(
        nonce=nonce,
        attestation_key=public,
        certificates=tuple(certificates),
        quotes=tuple(sorted(quotes, key=lambda quote: list(HashAlgorithm).index(quote.bank))),
        event_log=fields.base64("event_log", max_size=MAX_EVENT_LOG_BYTES),
        userspace_log=None
        if userspace is None
        else fields.base64("userspace_log", max_size=MAX_USERSPACE_LOG_BYTES),
        gpu=fields.base64("gpu", max_size=MAX_GPU_EVIDENCE_BYTES)
        if fields.has("gpu") and fields.raw("gpu") is not None
        else None,
    )
    fields.end()
    return evidence


def _quote(fields: Fields) -> QuoteEvidence:
    name = fields.text("bank", max_length=16)
    if name not in list(HashAlgorithm):
        raise FormatError(
            f"{fields.where}: bank {name!r}; expected one of {[item.value for item in HashAlgorithm]}"
        )
    bank = HashAlgorithm(name)
    values = fields.raw("pcrs")
    if not isinstance(values, dict):
        raise FormatError(f"{fields.where}: 'pcrs' is not an object")
    known = {str(index): index for index in range(MAX_REGISTER_INDEX + 1)}
    registers = {}
    for text, value in values.items():
        if text not in known:
            raise FormatError(
                f"{fields.where}: 'pcrs' names {text[:16]!r}; expected 0 to {MAX_REGISTER_INDEX}"
            )
        digest = decode_hex(value, where=f"{fields.where}: PCR {text}", size=bank.size)
        registers[known[text]] = Digest(bank, digest)
    quote = QuoteEvidence(
        bank=bank,
        attest=fields.base64("attest", max_size=MAX_ATTEST_BYTES),
        signature=fields.base64("signature", max_size=MAX_SIGNATURE_BYTES),
        registers=dict(sorted(registers.items())),
    )
    fields.end()
    return quote


def serialize(evidence: Evidence) -> bytes:
    """Return the evidence file; ``parse`` reads it back to an equal value."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "nonce": evidence.nonce.hex(),
        "attestation_key": {
            "public": evidence.attestation_key,
            "certificates": list(evidence.certificates),
        },
        "quotes": [
            {
                "bank": quote.bank.value,
                "attest": _base64(quote.attest),
                "signature": _base64(quote.signature),
                "pcrs": {str(index): digest.hex() for index, digest in quote.registers.items()},
            }
            for quote in evidence.quotes
        ],
        "event_log": _base64(evidence.event_log),
        "userspace_log": None if evidence.userspace_log is None else _base64(evidence.userspace_log),
        **({} if evidence.gpu is None else {"gpu": _base64(evidence.gpu)}),
    }
    return (json.dumps(value, indent=2) + "\n").encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
