"""What an attester hands in: the evidence file, TPM quotes, and userspace's measurement log."""

from __future__ import annotations

from measurements.chains import AttestationPublicKey
from measurements.evidence.document import Evidence, QuoteEvidence, parse, serialize
from measurements.evidence.tpm import (
    PcrSelection,
    Quote,
    QuoteSignature,
    parse_quote,
    parse_signature,
)
from measurements.evidence.userspace import UserspaceRecord
from measurements.evidence.userspace import parse as parse_userspace_log

__all__ = [
    "AttestationPublicKey",
    "Evidence",
    "PcrSelection",
    "Quote",
    "QuoteEvidence",
    "QuoteSignature",
    "UserspaceRecord",
    "parse",
    "parse_quote",
    "parse_signature",
    "parse_userspace_log",
    "serialize",
]
