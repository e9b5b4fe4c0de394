"""TPM 2.0 quotes: the attestation structure, its signature, and the values it covers.

Specification: TPM 2.0 Library Part 2: Structures, revision 1.59, and Part 3, 18.4 (TPM2_Quote).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from measurements.chains import MIN_RSA_BITS, AttestationPublicKey
from measurements.errors import FormatError, LimitError, SignatureError
from measurements.events import Digest, HashAlgorithm

#: A TPM's own bound: TPMS_ATTEST carries one name, 64 bytes of extra data, and a few selections.
MAX_ATTEST_BYTES = 4096
MAX_SIGNATURE_BYTES = 2048
MAX_SELECTIONS = 8
#: TPM 2.0 Part 2, 10.6.2: a PCR select has at least 3 bytes (24 PCRs); nobody has more than 4.
MAX_SELECT_BYTES = 4

GENERATED = 0xFF544347  # TPM_GENERATED_VALUE, Part 2, 6.2
ATTEST_QUOTE = 0x8018  # TPM_ST_ATTEST_QUOTE, Part 2, 6.9

RSASSA = 0x0014  # TPM_ALG_ID, TCG Algorithm Registry 1.34, table 3
RSAPSS = 0x0016
ECDSA = 0x0018
_SCHEMES = {RSASSA: "RSASSA", RSAPSS: "RSAPSS", ECDSA: "ECDSA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrSelection:
    """One bank and the PCRs chosen in it (TPMS_PCR_SELECTION, Part 2, 10.6.2)."""

    bank: HashAlgorithm
    registers: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed TPMS_ATTEST of type quote (Part 2, 10.12).

    Attributes:
        qualified_signer: name of the key, as the TPM knows it.
        extra_data: the qualifying data: the verifier's nonce.
        clock: milliseconds the TPM was powered.
        reset_count: boots since the owner hierarchy was cleared.
        restart_count: resumes since the last reset.
        safe: whether ``clock`` never ran backwards.
        firmware_version: the TPM's own.
        selections: banks and PCRs the digest covers, in order.
        pcr_digest: hash of the selected PCR values, with the signing scheme's hash.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSignature:
    """A parsed TPMT_SIGNATURE (Part 2, 11.3.4).

    Attributes:
        scheme: RSASSA, RSAPSS or ECDSA.
        hash: the scheme's hash, SHA-256, SHA-384 or SHA-512.
        value: RSA: the signature; ECDSA: DER of (r, s).
    """

    scheme: int
    hash: HashAlgorithm
    value: bytes


class _Reader:
    """Big-endian fields of one structure; running out of bytes is a FormatError that names the field."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, size: int, name: str) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise FormatError(f"{self._what}: ends inside {name}; {size} bytes expected, {len(part)} left")
        self._at += size
        return part

    def number(self, code: str, name: str) -> int:
        return int(struct.unpack(f">{code}", self.take(struct.calcsize(f">{code}"), name))[0])

    def sized(self, name: str, limit: int) -> bytes:
        """Read a TPM2B: u16 size, then so many bytes."""
        size = self.number("H", f"{name} size")
        if size > limit:
            raise LimitError(f"{self._what}: {name} has {size} bytes; at most {limit}")
        return self.take(size, name)

    def end(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise FormatError(f"{self._what}: {left} bytes follow its end")


def parse_quote(data: bytes) -> Quote:
    """Parse TPMS_ATTEST.

    Raises:
        FormatError: truncated, trailing bytes, no TPM_GENERATED_VALUE, another type than a quote, or a bank
            this program does not know.
        LimitError: a named limit of this module is exceeded.
    """
    if len(data) > MAX_ATTEST_BYTES:
        raise LimitError(f"TPMS_ATTEST: {len(data)} bytes; at most {MAX_ATTEST_BYTES}")
    reader = _Reader(data, "TPMS_ATTEST")
    magic = reader.number("I", "magic")
    if magic != GENERATED:
        raise FormatError(
            f"TPMS_ATTEST: magic is 0x{magic:08x}; expected TPM_GENERATED_VALUE 0x{GENERATED:08x}"
        )
    kind = reader.number("H", "type")
    if kind != ATTEST_QUOTE:
        raise FormatError(
            f"TPMS_ATTEST: type is 0x{kind:04x}; expected TPM_ST_ATTEST_QUOTE 0x{ATTEST_QUOTE:04x}"
        )
    quote = Quote(
        qualified_signer=reader.sized("qualifiedSigner", 2 + 64),
        extra_data=reader.sized("extraData", 2 + 64),
        clock=reader.number("Q", "clock"),
        reset_count=reader.number("I", "resetCount"),
        restart_count=reader.number("I", "restartCount"),
        safe=_yes_no(reader.number("B", "safe")),
        firmware_version=reader.number("Q", "firmwareVersion"),
        selections=_selections(reader),
        pcr_digest=reader.sized("pcrDigest", 64),
    )
    reader.end()
    return quote


def _yes_no(value: int) -> bool:
    if value not in (0, 1):  # TPMI_YES_NO, Part 2, 9.2
        raise FormatError(f"TPMS_ATTEST: safe is {value}; expected 0 or 1")
    return value == 1


def _selections(reader: _Reader) -> tuple[PcrSelection, ...]:
    count = reader.number("I", "pcrSelect count")
    if count > MAX_SELECTIONS:
        raise LimitError(f"TPMS_ATTEST: {count} PCR selections; at most {MAX_SELECTIONS}")
    selections = []
    for _ in range(count):
        bank = HashAlgorithm.from_tcg_id(reader.number("H", "PCR selection hash"))
        size = reader.number("B", "sizeofSelect")
        if size > MAX_SELECT_BYTES:
            raise LimitError(f"TPMS_ATTEST: a PCR selection of {size} bytes; at most {MAX_SELECT_BYTES}")
        bits = int.from_bytes(reader.take(size, "pcrSelect"), "little")
        selections.append(
            PcrSelection(bank=bank, registers=frozenset(i for i in range(8 * size) if bits >> i & 1))
        )
    return tuple(selections)


def parse_signature(data: bytes) -> QuoteSignature:
    """Parse TPMT_SIGNATURE of RSASSA, RSAPSS or ECDSA.

    Raises:
        FormatError: truncated, trailing bytes, another scheme, or SHA-1.
        LimitError: longer than ``MAX_SIGNATURE_BYTES``.
    """
    if len(data) > MAX_SIGNATURE_BYTES:
        raise LimitError(f"TPMT_SIGNATURE: {len(data)} bytes; at most {MAX_SIGNATURE_BYTES}")
    reader = _Reader(data, "TPMT_SIGNATURE")
    scheme = reader.number("H", "sigAlg")
    if scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES.values())
        raise FormatError(f"TPMT_SIGNATURE: scheme 0x{scheme:04x}; expected one of {known}")
    algorithm = HashAlgorithm.from_tcg_id(reader.number("H", "hash"))
    if algorithm is HashAlgorithm.SHA1:
        raise FormatError("TPMT_SIGNATURE: signed with SHA-1; expected SHA-256, SHA-384 or SHA-512")
    if scheme == ECDSA:
        r = int.from_bytes(reader.sized("signatureR", 128), "big")
        s = int.from_bytes(reader.sized("signatureS", 128), "big")
        value = utils.encode_dss_signature(r, s)
    else:
        value = reader.sized("sig", 1024)
    reader.end()
    return QuoteSignature(scheme=scheme, hash=algorithm, value=value)


def verify_signature(key: AttestationPublicKey, signature: QuoteSignature, attest: bytes) -> None:
    """Verify ``signature`` over the bytes of a TPMS_ATTEST.

    Raises:
        SignatureError: it does not hold, the scheme is not one of the key's kind, or an RSA key is too short.
    """
    algorithm = _HASHES[signature.hash]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == ECDSA:
            key.verify(signature.value, attest, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and signature.scheme in (RSASSA, RSAPSS):
            if key.key_size < MIN_RSA_BITS:
                raise SignatureError(f"attestation key: RSA of {key.key_size} bits; at least {MIN_RSA_BITS}")
            scheme: padding.AsymmetricPadding = padding.PKCS1v15()
            if signature.scheme == RSAPSS:
                # Part 1, B.7: the salt is as long as the digest, or as long as fits: read it off.
                scheme = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
            key.verify(signature.value, attest, scheme, algorithm)
        else:
            raise SignatureError(
                f"quote: {_SCHEMES[signature.scheme]} signature, but the key is of another kind"
            )
    except InvalidSignature:
        raise SignatureError("quote: the signature does not hold under the attestation key") from None


_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


def digest_of_registers(values: dict[int, Digest], algorithm: HashAlgorithm) -> bytes:
    """Return pcrDigest: the hash of the values, ascending by index (Part 1, 17.5)."""
    return Digest.of(algorithm, b"".join(values[index].value for index in sorted(values))).value
