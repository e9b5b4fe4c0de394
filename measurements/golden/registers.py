"""Tables of registers in a golden document: each register once, each event of it once, every value refolded.

docs/golden-format.md, 5. The TPM's registers are one such table, a trust domain's RTMRs another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.events import (
    Digest,
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Sequence,
    Stability,
    event_type_name,
)
from measurements.golden import model
from measurements.strictjson import Fields, decode_hex

_EVENT_TYPES = {event_type_name(item): item for item in EventType}
IDENTIFIER = re.compile(r"(?:0|[1-9][0-9]?)\.[1-9][0-9]{0,4}")


class Indexed(Protocol):
    """Anything that stands in a table: a register's values, or a profile's template of them."""

    @property
    def index(self) -> int:
        """Index of the register."""


_Indexed = TypeVar("_Indexed", bound=Indexed)
_Event = TypeVar("_Event")
_Document = TypeVar("_Document")
_Choice = TypeVar("_Choice", bound=StrEnum)

#: Index -> the distinct registers of that index, in the order of their first use.
Table: TypeAlias = dict[int, list[_Indexed]]


def write_table(table: Table[RegisterPrediction], banks: tuple[HashAlgorithm, ...]) -> list[dict[str, Any]]:
    """Return the table's entries, by index and first use."""
    return [
        _write(f"{index}.{number}", register, banks)
        for index in sorted(table)
        for number, register in enumerate(table[index], 1)
    ]


def identifier(register: _Indexed, table: Table[_Indexed]) -> str:
    """Return the id of a register, which joins the table if it is not there yet."""
    known = table.setdefault(register.index, [])
    if register not in known:
        known.append(register)
    return f"{register.index}.{known.index(register) + 1}"


def _write(identifier: str, register: RegisterPrediction, banks: tuple[HashAlgorithm, ...]) -> dict[str, Any]:
    events: dict[tuple[object, ...], Event] = {}
    return {
        "id": identifier,
        "index": register.index,
        "stability": register.stability.value,
        "reason": register.reason,
        "alternatives": [_write_sequence(sequence, events, banks) for sequence in register.alternatives],
        "phases": [_write_sequence(sequence, events, banks) for sequence in register.phases],
        "events": [write_event(event, banks) for event in events.values()],
    }


def _write_sequence(
    sequence: Sequence, events: dict[tuple[object, ...], Event], banks: tuple[HashAlgorithm, ...]
) -> dict[str, Any]:
    for event in sequence.events:
        events.setdefault(identity(event), event)
    position = {identity: number for number, identity in enumerate(events)}
    return {
        "label": sequence.label,
        "values": {bank.value: sequence.value(bank).hex() for bank in banks},
        "events": [position[identity(event)] for event in sequence.events],
    }


def identity(event: Event) -> tuple[object, ...]:
    """Return what makes an event equal to another, as something hashable."""
    return (event.type, event.description, event.cause, event.data, tuple(sorted(event.digests.items())))


def write_event(event: Event, banks: tuple[HashAlgorithm, ...]) -> dict[str, Any]:
    """Return an event as JSON values."""
    return {
        "type": None if event.type is None else event_type_name(event.type),
        "description": event.description,
        "cause": event.cause,
        "digests": {bank.value: event.digest(bank).hex() for bank in banks},
        "data": None if event.data is None else event.data.hex(),
    }


def read_table(
    fields: Fields,
    banks: tuple[HashAlgorithm, ...],
    *,
    last_index: int,
    min_items: int,
    name: str = "registers",
) -> dict[str, RegisterPrediction]:
    """Read and refold the table ``name`` of ``fields``: id -> register.

    Raises:
        FormatError, LimitError: as ``measurements.golden.parse``.
    """
    registers: dict[str, RegisterPrediction] = {}
    folds = 0
    for item in fields.array(name, max_items=model.MAX_REGISTERS, min_items=min_items):
        entry = Fields(item, f"{fields.where}: {name}")
        identifier = entry.text("id", max_length=8, pattern=IDENTIFIER)
        if identifier in registers:
            raise FormatError(f"{fields.where}: {name}: id {identifier} appears twice")
        entry.where = f"{fields.where}: register {identifier}"
        register = registers[identifier] = _read(entry, banks, last_index)
        folds += sum(len(sequence.events) for sequence in (*register.alternatives, *register.phases))
        if folds > model.MAX_FOLDS:
            raise LimitError(f"{fields.where}: more than {model.MAX_FOLDS} events to fold")
    return registers


def _read(fields: Fields, banks: tuple[HashAlgorithm, ...], last_index: int) -> RegisterPrediction:
    index = fields.integer("index", maximum=last_index)
    events = [
        read_event(Fields(item, f"{fields.where}: events[{position}]"), index, banks)
        for position, item in enumerate(fields.array("events", max_items=model.MAX_EVENTS))
    ]
    register = RegisterPrediction(
        index=index,
        stability=choice(Stability, fields.raw("stability"), f"{fields.where}: stability"),
        alternatives=_sequences(fields, "alternatives", events, banks),
        reason=fields.optional_text("reason", max_length=model.MAX_TEXT),
        phases=_sequences(fields, "phases", events, banks),
    )
    fields.end()
    return register


def _sequences(
    fields: Fields, name: str, events: list[Event], banks: tuple[HashAlgorithm, ...]
) -> tuple[Sequence, ...]:
    result = []
    for item in fields.array(name, max_items=model.MAX_SEQUENCES):
        entry = Fields(item, f"{fields.where}: {name}")
        label = entry.text("label", max_length=model.MAX_TEXT)
        sequence = Sequence(label=label, events=read_positions(entry, events))
        for bank, stated in read_digests(entry, "values", banks).items():
            folded = sequence.value(bank)
            if folded != stated:
                raise FormatError(
                    f"{entry.where}: {label!r} states {bank} {stated.hex()}; "
                    f"its events fold to {folded.hex()}"
                )
        entry.end()
        result.append(sequence)
    return tuple(result)


def read_positions(fields: Fields, events: list[_Event]) -> tuple[_Event, ...]:
    """Return the events that a course names by position; raises FormatError, LimitError."""
    positions = fields.array("events", max_items=model.MAX_EVENTS)
    for position in positions:
        if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < len(events):
            raise FormatError(f"{fields.where}: event {str(position)[:20]!r} is not there")
    return tuple(events[position] for position in positions)


def read_digests(fields: Fields, name: str, banks: tuple[HashAlgorithm, ...]) -> dict[HashAlgorithm, Digest]:
    """Read an object with one digest for each bank; raises FormatError."""
    entry = fields.fields(name)
    result = {
        bank: Digest(
            bank, decode_hex(entry.raw(bank.value), where=f"{entry.where}: {bank.value}", size=bank.size)
        )
        for bank in banks
    }
    entry.end()
    return result


def read_event(fields: Fields, register: int, banks: tuple[HashAlgorithm, ...]) -> Event:
    """Read what ``write_event`` writes; raises FormatError, LimitError."""
    name = fields.optional_text("type", max_length=model.MAX_NAME)
    if name is not None and name not in _EVENT_TYPES:
        raise FormatError(f"{fields.where}: event type {name!r} is not in the TCG table")
    event = Event(
        register=register,
        type=None if name is None else _EVENT_TYPES[name],
        digests=read_digests(fields, "digests", banks),
        description=fields.text("description", max_length=model.MAX_TEXT),
        cause=fields.text("cause", max_length=model.MAX_TEXT),
        data=None if fields.raw("data") is None else fields.hex("data", max_size=model.MAX_EVENT_DATA),
    )
    fields.end()
    return event


def read_ids(fields: Fields, registers: Mapping[str, _Indexed], *, max_items: int) -> tuple[_Indexed, ...]:
    """Return the registers that a launch shape names by id."""
    chosen = []
    for identifier in fields.array("registers", max_items=max_items, min_items=1):
        if not isinstance(identifier, str) or identifier not in registers:
            raise FormatError(f"{fields.where}: register {str(identifier)[:40]!r} is not in 'registers'")
        chosen.append(registers[identifier])
    return tuple(chosen)


def choice(kind: type[_Choice], value: Any, where: str) -> _Choice:
    """Return the member whose value this is; raises FormatError."""
    for item in kind:
        if value == item.value:
            return item
    raise FormatError(f"{where}: {str(value)[:40]!r}; expected one of {[item.value for item in kind]}")


def read_exactly(
    value: Any, read: Callable[[Any], _Document], write: Callable[[_Document], Any], *, what: str
) -> _Document:
    """Return what ``read`` makes of JSON values, if ``write`` makes the same values of it again.

    So one document has one JSON value: order of tables, numbering and use of every entry follow.

    Raises:
        FormatError: ``read`` refuses the values, or the tables are not those that the content prescribes.
        LimitError: as ``read``.
    """
    try:
        document = read(value)
    except FormatError:
        raise
    except MeasurementError as error:
        raise FormatError(f"{what}: {error}") from error
    if write(document) != value:
        raise FormatError(
            f"{what}: its tables are not the ones its content prescribes: an entry is unused, doubled, "
            "or out of order (docs/golden-format.md, 'Tables')"
        )
    return document
