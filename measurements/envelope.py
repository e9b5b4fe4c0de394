"""The signed golden document, and what else is signed so: an in-toto Statement v1 in a DSSE envelope.

Specifications: DSSE 1.0.2 (envelope.md, protocol.md of secure-systems-lab/dsse), in-toto Attestation
Framework v1 (spec/v1/statement.md). What was signed is bytes: ``verify_envelope`` first, ``parse_statement``
of what it returns next, and only then is anything of the document used.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import rfc8785

from measurements.errors import FormatError, SignatureError
from measurements.golden import FORMAT, GoldenDocument, parse_value, to_value
from measurements.golden.model import MAX_DOCUMENT_BYTES
from measurements.keys import PublicKey, SigningKey
from measurements.strictjson import Fields, loads

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
#: A TypeURI (in-toto spec/v1/field_types.md); a new major version of the document gets a new one.
PREDICATE_TYPE = "urn:goldsmith:golden:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

MAX_STATEMENT_BYTES = MAX_DOCUMENT_BYTES + 64 * 1024
MAX_ENVELOPE_BYTES = 2 * MAX_STATEMENT_BYTES
MAX_SIGNATURES = 16
#: More than the outputs of a golden document, or the firmware files of a platform profile.
MAX_SUBJECTS = 4096
#: Room for post-quantum signatures beside ours; they count for no key of this version.
MAX_SIGNATURE_BYTES = 8192
MAX_KEYS = 16
MAX_KEY_ID = 1024

#: ``keyid`` where there is one, and the signature.
_Signature: TypeAlias = tuple[str | None, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPayload:
    """Bytes whose signatures hold.

    Attributes:
        payload: the signed bytes.
        key_ids: the distinct keys of the caller that signed them, in the caller's order.
    """

    payload: bytes
    key_ids: tuple[str, ...]


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: what is really signed (DSSE protocol.md, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement_of(document: GoldenDocument) -> bytes:
    """Return the in-toto Statement as canonical JSON: subjects are the outputs, predicate is the document."""
    return write_statement(PREDICATE_TYPE, _subjects(document), to_value(document))


def write_statement(predicate_type: str, subjects: list[Any], predicate: Any) -> bytes:
    """Return an in-toto Statement v1 as canonical JSON."""
    return rfc8785.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def sign_document(document: GoldenDocument, keys: Iterable[SigningKey]) -> bytes:
    """Sign ``document`` with every key; returns the envelope as one line of JSON with a final newline.

    Raises:
        SignatureError: no key, one key twice, or a key that cannot sign deterministically.
    """
    return sign_payload(statement_of(document), keys)


def sign_payload(payload: bytes, keys: Iterable[SigningKey]) -> bytes:
    """Sign a statement with every key; as `sign_document`."""
    return _write(payload, _sign(payload, keys))


def add_signatures(
    data: bytes, keys: Iterable[SigningKey], *, check: Callable[[bytes], object] | None = None
) -> bytes:
    """Sign an envelope's payload with further keys; returns an envelope that holds all signatures.

    The signatures that are there are kept as they are, and not verified: their keys are not known here. What
    the new keys sign is known to be a golden document, or what ``check`` does not refuse.

    Raises:
        FormatError: not an envelope of such a document.
        LimitError: a named limit of this module is exceeded.
        SignatureError: a key signed this envelope before, or as in `sign_document`.
    """
    payload, before = _open(data)
    (check or _parse)(payload)
    return _write(payload, [*before, *_sign(payload, keys, before)])


def unverified_document(data: bytes) -> GoldenDocument:
    """Return the document in an envelope without verifying any signature: for those who are about to sign it.

    Raises:
        FormatError: not an envelope of a golden document.
        LimitError: a named limit of this module is exceeded.
    """
    return _parse(unverified_payload(data))


def unverified_payload(data: bytes) -> bytes:
    """Return the payload of an envelope without verifying any signature; raises as ``unverified_document``."""
    payload, _ = _open(data)
    return payload


def _sign(payload: bytes, keys: Iterable[SigningKey], before: Sequence[_Signature] = ()) -> list[_Signature]:
    message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    signatures: dict[str | None, bytes] = {}
    for key in keys:
        key_id = key.public().key_id
        if key_id in signatures:
            raise SignatureError(f"key {key_id} is given twice; expected distinct keys")
        if any(_holds(key.public(), signature, message) for _, signature in before):
            raise SignatureError(f"key {key_id} has signed this envelope already")
        signatures[key_id] = key.sign(message)
    if not signatures:
        raise SignatureError(f"0 keys to sign with; expected 1 to {MAX_SIGNATURES}")
    if len(before) + len(signatures) > MAX_SIGNATURES:
        raise SignatureError(
            f"{len(before) + len(signatures)} signatures in one envelope; at most {MAX_SIGNATURES}"
        )
    return list(signatures.items())


def _write(payload: bytes, signatures: Iterable[_Signature]) -> bytes:
    envelope: dict[str, Any] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"sig": base64.b64encode(signature).decode()} | ({} if key_id is None else {"keyid": key_id})
            for key_id, signature in signatures
        ],
    }
    return rfc8785.dumps(envelope) + b"\n"


def _open(data: bytes) -> tuple[bytes, list[_Signature]]:
    """Return payload and signatures, none of which is verified."""
    envelope = Fields(loads(data, what="DSSE envelope", max_bytes=MAX_ENVELOPE_BYTES), "DSSE envelope")
    if envelope.value.get("format") == FORMAT:
        raise FormatError(
            "this is a golden document without any signature; expected its signed envelope, golden.dsse.json"
        )
    kind = envelope.text("payloadType", max_length=255)
    if kind != PAYLOAD_TYPE:
        raise FormatError(f"DSSE envelope: payloadType is {kind!r}; expected {PAYLOAD_TYPE!r}")
    payload = envelope.base64("payload", max_size=MAX_STATEMENT_BYTES)
    signatures = []
    for item in envelope.array("signatures", max_items=MAX_SIGNATURES, min_items=1):
        fields = Fields(item, "DSSE envelope: signatures")
        # A hint, and optional (DSSE envelope.md): kept when an envelope is written again, never believed.
        key_id = item.get("keyid")
        known = key_id if isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID else None
        signatures.append((known, fields.base64("sig", max_size=MAX_SIGNATURE_BYTES)))
    return payload, signatures


def verify_envelope(data: bytes, keys: Iterable[PublicKey], threshold: int = 1) -> VerifiedPayload:
    """Verify that at least ``threshold`` distinct ``keys`` signed the payload.

    A key counts once, however many signatures it made and under whatever ``keyid``: the ``keyid`` of an
    envelope is an unauthenticated hint (DSSE protocol.md) and decides nothing here. Unknown names are ignored
    as DSSE demands.

    Raises:
        FormatError: not a DSSE envelope, or its payload is of another type.
        LimitError: a named limit of this module is exceeded.
        SignatureError: fewer than ``threshold`` keys signed; or the threshold or the keys make no sense.
    """
    trusted = {key.key_id: key for key in keys}
    if not 1 <= threshold <= len(trusted) <= MAX_KEYS:
        raise SignatureError(
            f"threshold {threshold} of {len(trusted)} distinct keys; expected at least 1, no more than there "
            f"are keys, and at most {MAX_KEYS} keys"
        )
    payload, signatures = _open(data)
    message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    signers = tuple(
        key_id
        for key_id, key in trusted.items()
        if any(_holds(key, signature, message) for _, signature in signatures)
    )
    if len(signers) < threshold:
        raise SignatureError(
            f"{len(signers)} of {len(trusted)} trusted keys signed this envelope; expected {threshold}. "
            f"Trusted: {', '.join(trusted)}"
        )
    return VerifiedPayload(payload=payload, key_ids=signers)


def _holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except SignatureError:
        return False
    return True


def parse_statement(verified: VerifiedPayload) -> GoldenDocument:
    """Parse the golden document out of a verified payload.

    Raises:
        FormatError: not the canonical JSON of an in-toto Statement v1 about a golden document, or its
            subjects are not the document's outputs.
        LimitError: a named limit is exceeded.
    """
    return _parse(verified.payload)


def _parse(payload: bytes) -> GoldenDocument:
    subjects, predicate = read_statement(payload, PREDICATE_TYPE)
    document = parse_value(predicate)
    if subjects != _subjects(document):
        raise FormatError("in-toto statement: its subjects are not the outputs of the document")
    return document


def read_statement(payload: bytes, predicate_type: str) -> tuple[list[Any], Any]:
    """Return subjects and predicate of a canonical in-toto Statement v1 of this type, as JSON values.

    Raises:
        FormatError: it is none.
        LimitError: a named limit is exceeded.
    """
    statement = loads(payload, what="in-toto statement", max_bytes=MAX_STATEMENT_BYTES)
    try:
        canonical = rfc8785.dumps(statement)
    except rfc8785.CanonicalizationError as error:
        raise FormatError(f"in-toto statement: has no canonical form: {error}") from None
    if canonical != payload:
        raise FormatError("in-toto statement: is not canonical JSON (RFC 8785)")
    fields = Fields(statement, "in-toto statement")
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", predicate_type)):
        value = fields.text(name, max_length=255)
        if value != expected:
            raise FormatError(f"in-toto statement: {name} is {value!r}; expected {expected!r}")
    subjects = fields.array("subject", max_items=MAX_SUBJECTS, min_items=1)
    predicate = fields.raw("predicate")
    fields.end()
    return subjects, predicate


def _subjects(document: GoldenDocument) -> list[Any]:
    return [{"name": output.name, "digest": {"sha256": output.sha256}} for output in document.outputs]


__all__ = [
    "MAX_ENVELOPE_BYTES",
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "VerifiedPayload",
    "add_signatures",
    "parse_statement",
    "pre_authentication_encoding",
    "read_statement",
    "sign_document",
    "sign_payload",
    "statement_of",
    "unverified_document",
    "unverified_payload",
    "verify_envelope",
    "write_statement",
]
