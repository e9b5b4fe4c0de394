"""What a machine really measured: the firmware's event log and userspace's log as one course of events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from measurements.errors import FormatError
from measurements.events import Digest, Digests, HashAlgorithm, digests_of
from measurements.evidence.userspace import UserspaceRecord
from measurements.explain.describe import describe, printable
from measurements.formats.eventlog import EventLog, LogKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedEvent:
    """One extend that a log states.

    Attributes:
        register: PCR index; RTMR index in the observation of a trust domain.
        type: TCG event type as it stands in the log; ``None`` for userspace's.
        digests: per bank.
        data: the event field; empty for userspace's.
        text: the event in readable, printable words.
    """

    register: int
    type: int | None
    digests: Digests
    data: bytes = field(repr=False)
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Every extend of every PCR, in order, and where PCR 0 started.

    Attributes:
        events: the firmware's, then userspace's.
        banks: the banks that the firmware's log states.
        startup_locality: the last byte of PCR 0's start value.
    """

    events: tuple[ObservedEvent, ...]
    banks: tuple[HashAlgorithm, ...]
    startup_locality: int = 0

    def of(self, register: int) -> tuple[ObservedEvent, ...]:
        """Return the events of one PCR, in order."""
        return tuple(event for event in self.events if event.register == register)

    def start(self, register: int, bank: HashAlgorithm) -> Digest:
        """Return the PCR's value before its first event (TCG PFP 1.06, 10.4.5.3; PTP 1.05, 4.6.2)."""
        if register == 0:
            return Digest(bank, bytes(bank.size - 1) + bytes([self.startup_locality]))
        return Digest(bank, b"\xff" * bank.size) if 17 <= register <= 22 else Digest.zero(bank)

    def fold(self, register: int, bank: HashAlgorithm) -> Digest:
        """Return the PCR's value after its events.

        Raises:
            FormatError: an event has no digest for ``bank``.
        """
        value = self.start(register, bank)
        for event in self.of(register):
            if bank not in event.digests:
                raise FormatError(f"the event log has no {bank} digest for {event.text!r} in PCR {register}")
            value = value.extend(event.digests[bank])
        return value


def observe(log: EventLog, userspace: Iterable[UserspaceRecord] = ()) -> Observation:
    """Join the logs: firmware first, since userspace starts after ExitBootServices.

    Raises:
        FormatError: ``log`` is a CCEL, whose registers are no PCRs.
    """
    if log.kind is LogKind.CCEL:
        raise FormatError("the event log is a CCEL, which holds RTMRs; expected a TPM's event log")
    events = [
        ObservedEvent(
            register=record.register,
            type=record.type,
            digests=record.digests,
            data=record.data,
            text=describe(record.type, record.data),
        )
        for record in log.records
        if record.extends
    ]
    events.extend(
        ObservedEvent(
            register=record.register,
            type=None,
            digests=record.digests,
            data=b"",
            text=_userspace_text(record),
        )
        for record in userspace
    )
    return Observation(events=tuple(events), banks=log.algorithms, startup_locality=log.startup_locality or 0)


def observe_ccel(log: EventLog) -> Observation:
    """Return what a trust domain's event log (CCEL) states, by RTMR: 0 to 3.

    Raises:
        FormatError: ``log`` is no CCEL, or claims to extend MRTD, which nothing can.
    """
    if log.kind is not LogKind.CCEL:
        raise FormatError(f"the event log is {log.kind}; expected a CCEL, the log of a trust domain")
    events = []
    for record in log.records:
        if not record.extends:
            continue
        if record.register == 0:
            raise FormatError(
                f"event log record at offset {record.offset} extends MRTD, which nothing can extend"
            )
        events.append(
            ObservedEvent(
                register=record.register - 1,
                type=record.type,
                digests=record.digests,
                data=record.data,
                text=describe(record.type, record.data),
            )
        )
    return Observation(events=tuple(events), banks=log.algorithms)


def _userspace_text(record: UserspaceRecord) -> str:
    kind = printable(record.event_type or "measurement")
    if record.text is None:
        return f"userspace {kind}"
    proven = digests_of(record.text.encode(), record.digests) == dict(record.digests)
    claim = "" if proven else " (as the log claims; the digest does not prove it)"
    return f"userspace {kind} {printable(record.text)!r}{claim}"
