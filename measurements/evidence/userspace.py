"""systemd's measurement log, /run/log/systemd/tpm2-measure.log: what userspace extended after the firmware.

Format: JSON text sequences (RFC 7464), one record per extend, in the shape of the TCG Canonical Event Log
(CEL-JSON): ``pcr``, ``digests`` [{hashAlg, digest}], ``content_type``, ``content``. systemd 257,
src/shared/tpm2-util.c and src/shared/tpm2-event-log.c. Names that this reader does not know are left alone:
the log grows with systemd, and only digests decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from measurements.errors import FormatError, LimitError
from measurements.events import Digest, HashAlgorithm
from measurements.evidence.document import MAX_REGISTER_INDEX, MAX_USERSPACE_LOG_BYTES
from measurements.strictjson import Fields, decode_hex, loads

MAX_RECORDS = 4096
MAX_RECORD_BYTES = 64 * 1024
MAX_TEXT = 4096

_SEPARATOR = b"\x1e"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserspaceRecord:
    """One extend that userspace made.

    Attributes:
        register: PCR index.
        digests: per bank, those of the record that this program knows.
        event_type: systemd's word ("phase", "machine-id", "filesystem", ...), or ``None``.
        text: the measured text as the log states it, or ``None``; believed where it hashes to the digest.
    """

    register: int
    digests: Mapping[HashAlgorithm, Digest]
    event_type: str | None
    text: str | None


def parse(data: bytes) -> tuple[UserspaceRecord, ...]:
    """Parse the log; an empty one gives an empty tuple.

    Raises:
        FormatError: no JSON text sequence, a truncated record, or a record without register or digests.
        LimitError: a named limit of this module is exceeded.
    """
    if len(data) > MAX_USERSPACE_LOG_BYTES:
        raise LimitError(f"userspace log: {len(data)} bytes; at most {MAX_USERSPACE_LOG_BYTES}")
    if not data:
        return ()
    if not data.startswith(_SEPARATOR):
        raise FormatError("userspace log: does not start with the record separator 0x1e (RFC 7464)")
    parts = data[1:].split(_SEPARATOR, MAX_RECORDS)
    if len(parts) > MAX_RECORDS:
        raise LimitError(f"userspace log: more than {MAX_RECORDS} records")
    return tuple(_record(part, f"userspace log: record {number}") for number, part in enumerate(parts))


def _record(data: bytes, where: str) -> UserspaceRecord:
    if not data.endswith(b"\n"):  # RFC 7464, 2.4: without its end a record may be cut short
        raise FormatError(f"{where}: does not end with a line feed; it may be truncated")
    fields = Fields(loads(data, what=where, max_bytes=MAX_RECORD_BYTES), where)
    register = fields.integer("pcr", maximum=MAX_REGISTER_INDEX)
    digests: dict[HashAlgorithm, Digest] = {}
    for item in fields.array("digests", max_items=16, min_items=1):
        entry = Fields(item, f"{where}: digests")
        name = entry.text("hashAlg", max_length=32)
        if name not in list(HashAlgorithm):
            continue
        bank = HashAlgorithm(name)
        if bank in digests:
            raise FormatError(f"{where}: two digests of {bank}")
        digests[bank] = Digest(
            bank, decode_hex(entry.raw("digest"), where=f"{where}: {bank}", size=bank.size)
        )
    content = fields.value.get("content")
    return UserspaceRecord(
        register=register,
        digests=digests,
        event_type=_text(content, "eventType"),
        text=_text(content, "string"),
    )


def _text(content: Any, name: str) -> str | None:
    value = content.get(name) if isinstance(content, dict) else None
    return value[:MAX_TEXT] if isinstance(value, str) else None
