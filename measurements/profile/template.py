"""A register as a platform profile tells it: the firmware's own events, and slots where the image's events go.

Order is the specification. What the image measures never stands in a profile: the type of a slot's event and its
digests are the image layer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from measurements.errors import FormatError, LimitError, PredictionError
from measurements.events import Event, EventType, HashAlgorithm, RegisterPrediction, Sequence, Stability
from measurements.golden import model
from measurements.golden.registers import (
    IDENTIFIER,
    Table,
    choice,
    identity,
    read_event,
    read_positions,
    write_event,
)
from measurements.image_layer import EVENT_TYPES, ImageLayer, Slot
from measurements.strictjson import Fields

#: Events of these types, and those that userspace logs without one, are about an image and never the firmware's own.
IMAGE_EVENT_TYPES: Final = frozenset({*EVENT_TYPES.values(), EventType.IPL, None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Where an event of the image goes.

    Attributes:
        slot: which.
        description: what happened, for readers ("image at the removable path").
        cause: the input that decides it, for readers ("uki").
    """

    slot: Slot
    description: str
    cause: str


TemplateEvent: TypeAlias = Event | Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCourse:
    """One course of events, with the label that tells it from its alternatives."""

    label: str
    events: tuple[TemplateEvent, ...]

    def count(self, slot: Slot) -> int:
        """Return how often the course has the slot."""
        return sum(isinstance(event, Gap) and event.slot is slot for event in self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTemplate:
    """One register of the firmware's.

    Attributes:
        index: of the PCR or RTMR.
        stability: as in a golden document.
        alternatives: every acceptable course, the usual one first.
        reason: likewise.
    """

    index: int
    stability: Stability
    alternatives: tuple[TemplateCourse, ...]
    reason: str | None = None

    def __post_init__(self) -> None:
        where = f"register {self.index}"
        if self.stability is Stability.PHASE:
            raise FormatError(f"{where}: boot phases are the image's to tell; expected another stability")
        if (self.stability is Stability.NOT_PINNED and self.reason is None) or (
            self.stability is not Stability.NOT_PINNED and not self.alternatives
        ):
            raise FormatError(f"{where}: expected events, or not-pinned and a reason")
        labels = [course.label for course in self.alternatives]
        if len(set(labels)) != len(labels):
            raise FormatError(f"{where}: two alternatives share one label among {labels}")
        for event in self._events():
            if isinstance(event, Event) and event.type in IMAGE_EVENT_TYPES:
                kind = "userspace" if event.type is None else f"EV_{event.type.name}"
                raise FormatError(
                    f"{where}: {event.description!r} is an event of an image ({kind}): expected a slot, which the "
                    "signed image layer fills"
                )

    @property
    def pinned(self) -> bool:
        """Whether the register has a value that must be met."""
        return self.stability is not Stability.NOT_PINNED

    def holds(self, slot: Slot) -> bool:
        """Whether any course has the slot."""
        return any(course.count(slot) for course in self.alternatives)

    def holds_once(self, slot: Slot) -> bool:
        """Whether every course has the slot, once."""
        return all(course.count(slot) == 1 for course in self.alternatives)

    def fill(self, layer: ImageLayer, banks: tuple[HashAlgorithm, ...]) -> RegisterPrediction:
        """Return the register with the image's events in the slots.

        Raises:
            PredictionError: the image has no event for a slot that needs one.
        """
        return RegisterPrediction(
            index=self.index,
            stability=self.stability,
            alternatives=tuple(
                Sequence(
                    label=course.label,
                    events=tuple(
                        filled
                        for event in course.events
                        for filled in _filled(event, self.index, layer, banks)
                    ),
                )
                for course in self.alternatives
            ),
            reason=self.reason,
        )

    def _events(self) -> Iterator[TemplateEvent]:
        for course in self.alternatives:
            yield from course.events


def _filled(
    event: TemplateEvent, index: int, layer: ImageLayer, banks: tuple[HashAlgorithm, ...]
) -> Iterator[Event]:
    if isinstance(event, Event):
        yield Event(
            register=index,
            type=event.type,
            digests={bank: event.digest(bank) for bank in banks},
            description=event.description,
            cause=event.cause,
            data=event.data,
        )
        return
    found = layer.events.get(event.slot)
    if found is None:
        if event.slot is Slot.KERNEL:  # a stub that starts its kernel itself: the firmware never sees it
            return
        raise PredictionError(f"the image layer has no event for the slot {event.slot}: {_LACKS[event.slot]}")
    yield Event(
        register=index,
        type=EVENT_TYPES[event.slot],
        digests={bank: found.digests[bank] for bank in banks},
        description=event.description,
        cause=event.cause,
        data=found.data,
    )


_LACKS = {
    Slot.APPLICATION: "it names no image",
    Slot.PARTITION_TABLE: "the release has no disk",
    Slot.AUTHORITY: "the release is not sealed for Secure Boot",
}


def cut(register: RegisterPrediction, layer: ImageLayer) -> RegisterTemplate:
    """Return a register with slots in place of the image's events, which are known by type and digests.

    Raises:
        FormatError: it has an event of another image, or phases.
    """
    if register.phases:
        raise FormatError(f"register {register.index}: boot phases are the image's to tell")
    return RegisterTemplate(
        index=register.index,
        stability=register.stability,
        alternatives=tuple(
            TemplateCourse(label=course.label, events=tuple(_cut(event, layer) for event in course.events))
            for course in register.alternatives
        ),
        reason=register.reason,
    )


def _cut(event: Event, layer: ImageLayer) -> TemplateEvent:
    for slot, of_image in layer.events.items():
        same = all(of_image.digests.get(bank) == digest for bank, digest in event.digests.items())
        if same and event.type is EVENT_TYPES[slot]:
            return Gap(slot=slot, description=event.description, cause=event.cause)
    return event


def write_table(table: Table[RegisterTemplate], banks: tuple[HashAlgorithm, ...]) -> list[dict[str, Any]]:
    """Return the table's entries, by index and first use; the tables are a golden document's, without values."""
    return [
        _write(f"{index}.{number}", register, banks)
        for index in sorted(table)
        for number, register in enumerate(table[index], 1)
    ]


def _write(identifier: str, register: RegisterTemplate, banks: tuple[HashAlgorithm, ...]) -> dict[str, Any]:
    events: dict[object, TemplateEvent] = {}
    for course in register.alternatives:
        for event in course.events:
            events.setdefault(_key(event), event)
    position = {key: number for number, key in enumerate(events)}
    return {
        "id": identifier,
        "index": register.index,
        "stability": register.stability.value,
        "reason": register.reason,
        "alternatives": [
            {"label": course.label, "events": [position[_key(event)] for event in course.events]}
            for course in register.alternatives
        ],
        "events": [
            {"slot": event.slot.value, "description": event.description, "cause": event.cause}
            if isinstance(event, Gap)
            else write_event(event, banks)
            for event in events.values()
        ],
    }


def _key(event: TemplateEvent) -> object:
    return event if isinstance(event, Gap) else identity(event)


def read_table(
    fields: Fields, banks: tuple[HashAlgorithm, ...], *, last_index: int
) -> dict[str, RegisterTemplate]:
    """Read the ``registers`` of ``fields``: id -> template.

    Raises:
        FormatError, LimitError: as ``measurements.profile.parse``.
    """
    registers: dict[str, RegisterTemplate] = {}
    folds = 0
    for item in fields.array("registers", max_items=model.MAX_REGISTERS):
        entry = Fields(item, f"{fields.where}: registers")
        identifier = entry.text("id", max_length=8, pattern=IDENTIFIER)
        if identifier in registers:
            raise FormatError(f"{fields.where}: registers: id {identifier} appears twice")
        entry.where = f"{fields.where}: register {identifier}"
        register = registers[identifier] = _read(entry, banks, last_index)
        folds += sum(len(course.events) for course in register.alternatives)
        if folds > model.MAX_FOLDS:
            raise LimitError(f"{fields.where}: more than {model.MAX_FOLDS} events to fold")
    return registers


def _read(fields: Fields, banks: tuple[HashAlgorithm, ...], last_index: int) -> RegisterTemplate:
    index = fields.integer("index", maximum=last_index)
    events = [
        _read_event(Fields(item, f"{fields.where}: events[{position}]"), index, banks)
        for position, item in enumerate(fields.array("events", max_items=model.MAX_EVENTS))
    ]
    register = RegisterTemplate(
        index=index,
        stability=choice(Stability, fields.raw("stability"), f"{fields.where}: stability"),
        alternatives=tuple(
            _read_course(Fields(item, f"{fields.where}: alternatives"), events)
            for item in fields.array("alternatives", max_items=model.MAX_SEQUENCES)
        ),
        reason=fields.optional_text("reason", max_length=model.MAX_TEXT),
    )
    fields.end()
    return register


def _read_event(fields: Fields, index: int, banks: tuple[HashAlgorithm, ...]) -> TemplateEvent:
    if not fields.has("slot"):
        return read_event(fields, index, banks)
    gap = Gap(
        slot=choice(Slot, fields.raw("slot"), f"{fields.where}: slot"),
        description=fields.text("description", max_length=model.MAX_TEXT),
        cause=fields.text("cause", max_length=model.MAX_TEXT),
    )
    fields.end()
    return gap


def _read_course(fields: Fields, events: list[TemplateEvent]) -> TemplateCourse:
    course = TemplateCourse(
        label=fields.text("label", max_length=model.MAX_TEXT),
        events=read_positions(fields, events),
    )
    fields.end()
    return course
