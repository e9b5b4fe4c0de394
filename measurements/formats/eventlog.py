"""TCG event logs: SHA-1 format, crypto-agile format, and the CCEL of confidential VMs.

TCG PC Client Platform Firmware Profile 1.06, section 10 (TCG_PCClientPCREvent, TCG_PCR_EVENT2,
TCG_EfiSpecIdEvent); Intel Guest-Host Communication Interface 1.5, "TD Event Log" for the CCEL, which has the
crypto-agile layout with measurement register indexes in place of PCRs.

The parser follows the bytes. What a well-formed log claims is judged by ``measurements.replay``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.events import Digest, EventType, HashAlgorithm
from measurements.formats.reader import Reader

MAX_LOG_SIZE: Final = 16 << 20
MAX_RECORDS: Final = 1 << 16
MAX_EVENT_SIZE: Final = 1 << 20
#: Digests of one record, and algorithms that the header may declare.
MAX_DIGESTS: Final = 8
#: Size of a hash that the header may declare, in bytes.
MAX_DIGEST_SIZE: Final = 128

SPEC_ID_SIGNATURE: Final = b"Spec ID Event03\0"
STARTUP_LOCALITY_SIGNATURE: Final = b"StartupLocality\0"

#: PCR indexes of a TPM (PC Client Platform TPM Profile 1.05, 4.6).
PCR_COUNT: Final = 24
#: CC measurement register indexes: MRTD, RTMR0 to RTMR3.
CC_REGISTERS: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")

_NO_REGISTER = 0xFFFFFFFF


class LogKind(StrEnum):
    """Layout of a log, and what its register field counts."""

    SHA1 = "sha1"
    CRYPTO_AGILE = "crypto-agile"
    CCEL = "ccel"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One record.

    Attributes:
        register: PCR index, or CC measurement register index in a CCEL (0 MRTD, 1 RTMR0, 2 RTMR1, 3 RTMR2).
        type: event type as it stands in the log, known or not.
        digests: by algorithm; those of algorithms that this package does not know are left out.
        data: the event field.
        offset: of the record in the log, in bytes.
    """

    register: int
    type: int
    digests: Mapping[HashAlgorithm, Digest]
    data: bytes = field(repr=False)
    offset: int

    @property
    def extends(self) -> bool:
        """Whether the record stands for an extend; EV_NO_ACTION never does (PFP 1.06, 10.4.5)."""
        return self.type != EventType.NO_ACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A parsed log.

    Attributes:
        kind: layout.
        algorithms: banks that the log covers, in the header's order.
        unknown_algorithms: TPM_ALG_IDs that the header declares and this package does not know.
        records: every record in order, the header of a crypto-agile log included.
        startup_locality: of the first StartupLocality event; ``None`` when there is none.
    """

    kind: LogKind
    algorithms: tuple[HashAlgorithm, ...]
    unknown_algorithms: tuple[int, ...] = ()
    records: tuple[LogRecord, ...]
    startup_locality: int | None

    def register_name(self, register: int) -> str:
        """Return the register's name: ``"7"`` for PCR 7, ``"rtmr0"`` for register 1 of a CCEL."""
        if self.kind is LogKind.CCEL and register < len(CC_REGISTERS):
            return CC_REGISTERS[register]
        return str(register)


def parse(data: bytes, *, kind: LogKind | None = None) -> EventLog:
    """Parse a log; padding of zeros or ff after the last record is passed over.

    Args:
        data: up to ``MAX_LOG_SIZE`` bytes.
        kind: what the log must be. Without it, a Spec ID header makes the log crypto-agile; such a log is a
            CCEL when SHA-384 is its only algorithm and it extends registers 1 to 3 only: every TPM log
            extends PCR 0 (the firmware's version), and MRTD, index 0, cannot be extended.

    Raises:
        FormatError: a record is cut or contradicts the header, or the log is not of ``kind``.
        LimitError: a limit of this module is exceeded.
    """
    if len(data) > MAX_LOG_SIZE:
        raise LimitError(f"event log has {len(data)} bytes; the limit is {MAX_LOG_SIZE}")
    reader = Reader(data, "event log")
    if not reader.remaining:
        raise FormatError("event log is empty; expected at least one record")
    first = _sha1_record(reader)
    if first.type == EventType.NO_ACTION and first.data.startswith(SPEC_ID_SIGNATURE):
        sizes = _spec_id_algorithms(first)
        records = _records(reader, data, sizes, first)
        found = LogKind.CCEL if _looks_like_ccel(sizes, records) else LogKind.CRYPTO_AGILE
        if kind is LogKind.SHA1:
            raise FormatError('event log has a "Spec ID Event03" header, so it is not in the SHA-1 format')
    else:
        sizes = {HashAlgorithm.SHA1.tcg_id: HashAlgorithm.SHA1.size}
        records = _records(reader, data, None, first)
        found = LogKind.SHA1
        if kind in (LogKind.CRYPTO_AGILE, LogKind.CCEL):
            raise FormatError(f'event log has no "Spec ID Event03" header; expected a {kind} log')
    log_kind = kind or found
    _check_registers(records, log_kind)
    localities = [startup_locality(record) for record in records]
    return EventLog(
        kind=log_kind,
        algorithms=tuple(HashAlgorithm.from_tcg_id(code) for code in sizes if _known(code)),
        unknown_algorithms=tuple(code for code in sizes if not _known(code)),
        records=records,
        startup_locality=next((locality for locality in localities if locality is not None), None),
    )


def startup_locality(record: LogRecord) -> int | None:
    """Return the locality that a StartupLocality event states (PFP 1.06, 10.4.5.3), or ``None``.

    Raises:
        FormatError: the event has another size than its signature and one byte.
    """
    if record.type != EventType.NO_ACTION or not record.data.startswith(STARTUP_LOCALITY_SIGNATURE):
        return None
    if len(record.data) != len(STARTUP_LOCALITY_SIGNATURE) + 1:
        raise FormatError(
            f"StartupLocality event at offset {record.offset} has {len(record.data)} bytes, expected 17"
        )
    return record.data[-1]


def _records(
    reader: Reader, data: bytes, sizes: Mapping[int, int] | None, first: LogRecord
) -> tuple[LogRecord, ...]:
    # What follows these offsets is zeros or ff to the end: padding of the table, which no record can be.
    zeros_from = len(data.rstrip(b"\0"))
    ones_from = len(data.rstrip(b"\xff"))
    records = [first]
    while reader.remaining and reader.offset < min(zeros_from, ones_from):
        if len(records) == MAX_RECORDS:
            raise LimitError(f"event log has more than {MAX_RECORDS} records")
        records.append(_sha1_record(reader) if sizes is None else _agile_record(reader, sizes))
    return tuple(records)


def _sha1_record(reader: Reader) -> LogRecord:
    offset = reader.offset
    register, event_type = reader.u32("register"), reader.u32("event type")
    digest = Digest(HashAlgorithm.SHA1, reader.take(HashAlgorithm.SHA1.size, "SHA-1 digest"))
    return LogRecord(
        register=register,
        type=event_type,
        digests={HashAlgorithm.SHA1: digest},
        data=_event_data(reader),
        offset=offset,
    )


def _agile_record(reader: Reader, sizes: Mapping[int, int]) -> LogRecord:
    offset = reader.offset
    register, event_type = reader.u32("register"), reader.u32("event type")
    count = reader.u32("number of digests")
    if count == 0:
        raise reader.error("the record has no digest", offset=offset)
    if count > MAX_DIGESTS:
        raise LimitError(
            f"event log record at offset {offset} claims {count} digests; the limit is {MAX_DIGESTS}"
        )
    seen: set[int] = set()
    digests: dict[HashAlgorithm, Digest] = {}
    for _ in range(count):
        code = reader.u16("digest algorithm")
        if code not in sizes:
            raise reader.error(
                f"digest algorithm 0x{code:04x} is not declared in the log's header", offset=offset
            )
        if code in seen:
            raise reader.error(f"two digests of algorithm 0x{code:04x} in one record", offset=offset)
        seen.add(code)
        value = reader.take(sizes[code], "digest")
        if _known(code):
            algorithm = HashAlgorithm.from_tcg_id(code)
            digests[algorithm] = Digest(algorithm, value)
    return LogRecord(
        register=register, type=event_type, digests=digests, data=_event_data(reader), offset=offset
    )


def _event_data(reader: Reader) -> bytes:
    offset = reader.offset
    size = reader.u32("event size")
    if size > MAX_EVENT_SIZE:
        raise LimitError(f"event at offset {offset} claims {size} bytes; the limit is {MAX_EVENT_SIZE}")
    return reader.take(size, "event")


def _spec_id_algorithms(header: LogRecord) -> dict[int, int]:
    """Return digest sizes by TPM_ALG_ID from a TCG_EfiSpecIdEvent (PFP 1.06, 10.4.5.1)."""
    reader = Reader(header.data, "Spec ID event", base=header.offset + 32)
    reader.skip(len(SPEC_ID_SIGNATURE), "signature")
    reader.skip(8, "platform class and version")
    count = reader.u32("number of algorithms")
    if count == 0:
        raise reader.error("no algorithm is declared")
    if count > MAX_DIGESTS:
        raise LimitError(f"event log header declares {count} algorithms; the limit is {MAX_DIGESTS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        code, size = reader.u16("algorithm"), reader.u16("digest size")
        if code in sizes:
            raise reader.error(f"algorithm 0x{code:04x} is declared twice")
        if _known(code) and size != HashAlgorithm.from_tcg_id(code).size:
            expected = HashAlgorithm.from_tcg_id(code)
            raise reader.error(f"{expected} is declared with {size} bytes, it has {expected.size}")
        if not 0 < size <= MAX_DIGEST_SIZE:
            raise LimitError(
                f"event log header declares 0x{code:04x} with {size} bytes; expected 1 to {MAX_DIGEST_SIZE}"
            )
        sizes[code] = size
    reader.skip(reader.u8("vendor information size"), "vendor information")
    return sizes


def _looks_like_ccel(sizes: Mapping[int, int], records: tuple[LogRecord, ...]) -> bool:
    extended = {record.register for record in records if record.extends}
    return list(sizes) == [HashAlgorithm.SHA384.tcg_id] and bool(extended) and extended <= {1, 2, 3}


def _check_registers(records: tuple[LogRecord, ...], kind: LogKind) -> None:
    count = len(CC_REGISTERS) if kind is LogKind.CCEL else PCR_COUNT
    for record in records:
        # Informative events may name no register at all.
        if record.register >= count and (record.extends or record.register != _NO_REGISTER):
            raise FormatError(
                f"event log record at offset {record.offset} names register {record.register}; "
                f"a {kind} log has registers 0 to {count - 1}"
            )


def _known(code: int) -> bool:
    return any(algorithm.tcg_id == code for algorithm in HashAlgorithm)
