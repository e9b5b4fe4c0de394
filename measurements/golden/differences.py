"""One thing that differs between two golden documents, down to the event; and which input moved which registers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from measurements.events import Event, HashAlgorithm, RegisterPrediction, Sequence
from measurements.image_layer import ImageEvent

#: After this many differing events in one register the rest adds nothing.
MAX_EVENT_DIFFERENCES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs.

    Attributes:
        where: what it belongs to: "output disk.raw", "inputs", "qemu-vtpm/…: PCR 11".
        what: what about it: an event's description, a field's name.
        cause: the input that decides it, in the event's words; ``None`` where the thing is an input itself.
        old: the value in the first document (hex or text); ``None`` where it has none.
        new: likewise in the second.
        shape: name of the launch shape, for what belongs to one.
        register: "PCR 11", "launch digest", "MRTD" or "RTMR1", for what belongs to one.
    """

    where: str
    what: str
    cause: str | None
    old: str | None
    new: str | None
    shape: str | None = None
    register: str | None = None

    def __str__(self) -> str:
        because = "" if self.cause is None else f", because of {self.cause}"
        return f"{self.where}: {self.what}{because}: {self.old or 'absent'} -> {self.new or 'absent'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An input that changed, and what it moved.

    Attributes:
        cause: the input, in the events' words ("uki .cmdline").
        registers: each register that it moved -> names of the launch shapes in which it did, in the documents'
            order.
    """

    cause: str
    registers: Mapping[str, tuple[str, ...]]


def moves(differences: Iterable[Difference]) -> tuple[Move, ...]:
    """Turn differences around: from each guilty input to the registers that it moved, in order of appearance."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for each in differences:
        if each.cause is not None and each.register is not None and each.shape is not None:
            found.setdefault(each.cause, {}).setdefault(each.register, {})[each.shape] = None
    return tuple(
        Move(cause=cause, registers={name: tuple(shapes) for name, shapes in registers.items()})
        for cause, registers in found.items()
    )


def register_differences(
    where: str, old: RegisterPrediction, new: RegisterPrediction
) -> Iterator[Difference]:
    """Yield what differs between two predictions of one register, each event once."""
    for what, first_text, second_text in (
        ("stability", old.stability.value, new.stability.value),
        ("reason", old.reason, new.reason),
    ):
        if first_text != second_text:
            yield Difference(where=where, what=what, cause=None, old=first_text, new=second_text)
    seen: set[tuple[str, str | None, str | None]] = set()
    for kind, before, after in (
        ("alternative", old.alternatives, new.alternatives),
        ("phase", old.phases, new.phases),
    ):
        first_by_label = {sequence.label: sequence for sequence in before}
        second_by_label = {sequence.label: sequence for sequence in after}
        for label in dict.fromkeys([*first_by_label, *second_by_label]):
            first, second = first_by_label.get(label), second_by_label.get(label)
            if first is None or second is None:
                yield Difference(
                    where=where,
                    what=f"{kind} {label!r}",
                    cause=None,
                    old=_some_value(first),
                    new=_some_value(second),
                )
                continue
            for difference in _sequences(where, first, second):
                # Alternatives and phases share most events: say each once.
                key = (difference.what, difference.old, difference.new)
                if key not in seen:
                    seen.add(key)
                    yield difference
        if list(first_by_label) != list(second_by_label) and set(first_by_label) == set(second_by_label):
            yield Difference(
                where=where,
                what=f"order of the {kind}s",
                cause=None,
                old=", ".join(first_by_label),
                new=", ".join(second_by_label),
            )


def _some_value(sequence: Sequence | None) -> str | None:
    if sequence is None:
        return None
    banks = [bank for bank in HashAlgorithm if all(bank in event.digests for event in sequence.events)]
    bank = HashAlgorithm.SHA256 if HashAlgorithm.SHA256 in banks else banks[0]
    return f"{bank} {sequence.value(bank).hex()}"


def _sequences(where: str, old: Sequence, new: Sequence) -> Iterator[Difference]:
    if old.events == new.events:
        return
    before, after = [_key(event) for event in old.events], [_key(event) for event in new.events]
    count = 0
    for tag, start, stop, other_start, other_stop in SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        for removed, added in _paired(old.events[start:stop], new.events[other_start:other_stop]):
            if count == MAX_EVENT_DIFFERENCES:
                return
            count += 1
            yield _event(where, removed, added)


def _paired(
    removed: tuple[Event, ...], added: tuple[Event, ...]
) -> Iterator[tuple[Event | None, Event | None]]:
    """Pair events of one cause, in order; one whose cause the other side does not have stands alone."""
    matcher = SequenceMatcher(
        None, [event.cause for event in removed], [event.cause for event in added], autojunk=False
    )
    for tag, start, stop, other_start, other_stop in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(removed[start:stop], added[other_start:other_stop], strict=True)
            continue
        yield from ((event, None) for event in removed[start:stop])
        yield from ((None, event) for event in added[other_start:other_stop])


def _key(event: Event) -> tuple[object, ...]:
    return (event.type, event.description, event.cause, event.data, tuple(sorted(event.digests.items())))


def _event(where: str, old: Event | None, new: Event | None) -> Difference:
    known = new or old
    assert known is not None
    what = f"event {known.description!r}"
    if old is not None and new is not None and old.digests == new.digests:
        return Difference(
            where=where,
            what=f"{what}: its text only",
            cause=None,  # no input moved the register
            old=f"{old.description!r} ({old.cause})",
            new=f"{new.description!r} ({new.cause})",
        )
    return Difference(where=where, what=what, cause=known.cause, old=digest_text(old), new=digest_text(new))


def digest_text(event: Event | ImageEvent | None) -> str | None:
    """Return an event's digest with its bank, SHA-256 where it has that; ``None`` for no event."""
    if event is None:
        return None
    bank = HashAlgorithm.SHA256 if HashAlgorithm.SHA256 in event.digests else next(iter(event.digests))
    return f"{bank} {event.digests[bank].hex()}"
