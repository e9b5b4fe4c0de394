"""Attestation keys: reading them, and proving one by its certificates (`measurements.chains`)."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from measurements.chains import (
    MAX_PEM_BYTES,
    MAX_ROOTS,
    AttestationPublicKey,
    check_attestation_key,
    check_chain,
    load_certificates,
    same_key,
)
from measurements.errors import FormatError, LimitError

__all__ = [
    "MAX_PEM_BYTES",
    "MAX_ROOTS",
    "AttestationPublicKey",
    "check_attestation_key",
    "check_chain",
    "load_attestation_key",
    "load_certificates",
    "same_key",
]


def load_attestation_key(pem: str) -> AttestationPublicKey:
    """Load an attestation key from PEM ``PUBLIC KEY``: ECC on P-256, P-384 or P-521, or RSA.

    Raises:
        FormatError: not a PEM public key, another kind of key, or RSA shorter than 2048 bits.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise LimitError(f"attestation key: {len(pem)} characters of PEM; at most {MAX_PEM_BYTES}")
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("attestation key: not a PEM public key (-----BEGIN PUBLIC KEY-----)") from None
    return check_attestation_key(key)
