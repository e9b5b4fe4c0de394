"""Two golden documents, side by side: which value moved, and because of which input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from measurements.events import Digest, Event, HashAlgorithm, RegisterPrediction, Sequence
from measurements.golden.model import GoldenDocument
from measurements.golden.sev_snp import SevSnpReference, Step
from measurements.golden.tdx import TdxReference
from measurements.image_layer import ImageEvent, ImageLayer, Slot
from measurements.moments import format_time
from measurements.prediction import Prediction
from measurements.tdx.mrtd import PageOrder

#: After this many differing events in one register the rest adds nothing.
MAX_EVENT_DIFFERENCES = 4
_LAYER = "image layer: "


_SLOT_CAUSES = {
    Slot.APPLICATION: "uki",
    Slot.KERNEL: "uki .linux",
    Slot.PARTITION_TABLE: "disk partition table",
    Slot.AUTHORITY: "uki signature",
}


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


def compare(old: GoldenDocument, new: GoldenDocument) -> tuple[Difference, ...]:
    """List what differs: inputs, outputs, each launch shape's registers with the guilty events, the image layer.

    Returns an empty tuple exactly when the documents are equal.
    """
    return (
        *_fields(old, new),
        *_outputs(old, new),
        *_shapes(old, new),
        *_confidential(old, new),
        *_layers(old.image_layer, new.image_layer),
    )


def image_moves(differences: Iterable[Difference]) -> tuple[str, ...]:
    """Return the parts of the image layer that differ ("application", "PCR 11"), in order of appearance.

    None of them moved where the platform alone did: by its firmware, shape or settings.
    """
    return tuple(
        dict.fromkeys(
            each.where.removeprefix(_LAYER) for each in differences if each.where.startswith(_LAYER)
        )
    )


def _fields(old: GoldenDocument, new: GoldenDocument) -> Iterator[Difference]:
    fields: tuple[tuple[str, str, Callable[[GoldenDocument], str]], ...] = (
        ("image", "name", lambda document: document.image.name),
        ("image", "version", lambda document: document.image.version),
        ("image", "svn", lambda document: str(document.image.svn)),
        ("document", "source_date_epoch", lambda document: str(document.source_date_epoch)),
        ("validity", "not_before", lambda document: format_time(document.validity.not_before)),
        ("validity", "not_after", lambda document: format_time(document.validity.not_after)),
        ("inputs", "recipe sha256", lambda document: document.inputs.recipe),
        ("inputs", "lock sha256", lambda document: document.inputs.lock),
        ("calculator", "name", lambda document: document.calculator.name),
        ("calculator", "version", lambda document: document.calculator.version),
        ("document", "banks", lambda document: " ".join(document.banks)),
    )
    for where, what, read in fields:
        if read(old) != read(new):
            yield Difference(where=where, what=what, cause=None, old=read(old), new=read(new))


def _outputs(old: GoldenDocument, new: GoldenDocument) -> Iterator[Difference]:
    before = {output.name: output for output in old.outputs}
    after = {output.name: output for output in new.outputs}
    for name in sorted({*before, *after}):
        first, second = before.get(name), after.get(name)
        if first != second:
            same_digest = first is not None and second is not None and first.sha256 == second.sha256
            yield Difference(
                where=f"output {name}",
                what="size" if same_digest else "sha256",
                cause=None,
                old=None if first is None else str(first.size) if same_digest else first.sha256,
                new=None if second is None else str(second.size) if same_digest else second.sha256,
            )


def _shapes(old: GoldenDocument, new: GoldenDocument) -> Iterator[Difference]:
    before = {prediction.shape.name: prediction for prediction in old.predictions}
    after = {prediction.shape.name: prediction for prediction in new.predictions}
    for name in dict.fromkeys([*before, *after]):
        first, second = before.get(name), after.get(name)
        if first is None or second is None:
            yield Difference(
                where=name,
                what="launch shape",
                cause=None,
                old=None if first is None else "present",
                new=None if second is None else "present",
                shape=name,
            )
        elif first != second:
            for difference in _prediction(name, first, second):
                yield replace(difference, shape=name)
    if list(before) != list(after) and set(before) == set(after):
        yield Difference(where="document", what="order of launch shapes", cause=None, old=" ".join(before),
                         new=" ".join(after))  # fmt: skip


def _prediction(name: str, old: Prediction, new: Prediction) -> Iterator[Difference]:
    if old.shape != new.shape:
        for what, first, second in (
            ("firmware sha256", old.shape.firmware.sha256, new.shape.firmware.sha256),
            ("firmware sha384", old.shape.firmware.sha384, new.shape.firmware.sha384),
            ("machine", old.shape.machine, new.shape.machine),
        ):
            if first != second:
                yield Difference(where=name, what=what, cause=None, old=first, new=second)
    before = {register.index: register for register in old.registers}
    after = {register.index: register for register in new.registers}
    for index in sorted({*before, *after}):
        first_register, second_register = before.get(index), after.get(index)
        where = f"{name}: PCR {index}"
        if first_register is None or second_register is None:
            yield Difference(
                where=where,
                what="register",
                cause=None,
                old=None if first_register is None else "present",
                new=None if second_register is None else "present",
                register=f"PCR {index}",
            )
        elif first_register != second_register:
            for difference in _register(where, first_register, second_register):
                yield replace(difference, register=f"PCR {index}")


def _register(where: str, old: RegisterPrediction, new: RegisterPrediction) -> Iterator[Difference]:
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


def _confidential(old: GoldenDocument, new: GoldenDocument) -> Iterator[Difference]:
    before, after = _named(old), _named(new)
    for name in dict.fromkeys([*before, *after]):
        first, second = before.get(name), after.get(name)
        if isinstance(first, SevSnpReference) and isinstance(second, SevSnpReference):
            found = _sev_snp(name, first, second)
        elif isinstance(first, TdxReference) and isinstance(second, TdxReference):
            found = _tdx(name, first, second)
        else:
            found = iter(
                (
                    Difference(
                        where=name,
                        what="launch shape",
                        cause=None,
                        old=None if first is None else "present",
                        new=None if second is None else "present",
                    ),
                )
            )
        for difference in found:
            yield replace(difference, shape=name)
    if list(before) != list(after) and set(before) == set(after):
        yield Difference(where="document", what="order of launch shapes", cause=None, old=" ".join(before),
                         new=" ".join(after))  # fmt: skip


def _named(document: GoldenDocument) -> dict[str, SevSnpReference | TdxReference]:
    named: dict[str, SevSnpReference | TdxReference] = {each.name: each for each in document.sev_snp}
    return named | {each.name: each for each in document.tdx}


def _sev_snp(name: str, old: SevSnpReference, new: SevSnpReference) -> Iterator[Difference]:
    where, register = f"{name}: launch digest", "launch digest"
    if (old.firmware, old.loaded) != (new.firmware, new.loaded):
        yield Difference(where=where, what="digest after the firmware", cause="firmware", register=register,
                         old=old.loaded.hex(), new=new.loaded.hex())  # fmt: skip
    for what, first_value, second_value in (
        ("vmm", old.vmm.value, new.vmm.value),
        ("CPU signature", str(old.signature), str(new.signature)),
    ):
        if first_value != second_value:
            yield Difference(where=where, what=what, cause=None, old=first_value, new=second_value)
    for position in range(max(len(old.steps), len(new.steps))):
        first = old.steps[position] if position < len(old.steps) else None
        second = new.steps[position] if position < len(new.steps) else None
        if first != second:
            known = second or first
            assert known is not None
            yield Difference(where=where, what=f"pages at 0x{known.address:x}", cause=known.cause, register=register,
                             old=_step(first), new=_step(second))  # fmt: skip


def _step(step: Step | None) -> str | None:
    if step is None:
        return None
    contents = "" if step.contents is None else f" {step.contents.hex()}"
    return f"{step.times} times {step.pages} {step.type.name.lower()} at 0x{step.address:x}{contents}"


def _tdx(name: str, old: TdxReference, new: TdxReference) -> Iterator[Difference]:
    if old.firmware != new.firmware:
        yield Difference(where=name, what="firmware sha384", cause=None, old=old.firmware.sha384,
                         new=new.firmware.sha384)  # fmt: skip
    for what, first_text, second_text in (
        ("vmm", old.vmm.value, new.vmm.value),
        ("machine", old.machine, new.machine),
    ):
        if first_text != second_text:
            yield Difference(where=name, what=what, cause=None, old=first_text, new=second_text)
    for order in PageOrder:
        if old.mrtd[order] != new.mrtd[order]:
            yield Difference(where=f"{name}: MRTD", what=order.value, cause="firmware", register="MRTD",
                             old=old.mrtd[order].hex(), new=new.mrtd[order].hex())  # fmt: skip
    if old.td_hob != new.td_hob:
        yield Difference(where=name, what="TD HOB", cause=None, old=_hex(old.td_hob), new=_hex(new.td_hob))
    for first, second in zip(old.registers, new.registers, strict=True):
        if first != second:
            register = f"RTMR{first.index}"
            for difference in _register(f"{name}: {register}", first, second):
                yield replace(difference, register=register)


def _layers(old: ImageLayer | None, new: ImageLayer | None) -> Iterator[Difference]:
    if old is None or new is None:
        if old is not new:
            yield Difference(where="document", what="image layer", cause=None, old=None if old is None else "present",
                             new=None if new is None else "present")  # fmt: skip
        return
    for slot in Slot:
        first, second = old.events.get(slot), new.events.get(slot)
        if first != second:
            yield Difference(where=f"{_LAYER}{slot}", what="event", cause=_SLOT_CAUSES[slot], old=_digest(first),
                             new=_digest(second))  # fmt: skip
    for what in ("kernel", "initrd", "cmdline"):
        before, after = getattr(old.kernel_hashes, what), getattr(new.kernel_hashes, what)
        if before != after:
            yield Difference(
                where=f"{_LAYER}kernel hashes", what=what, cause="uki", old=before.hex(), new=after.hex()
            )
    for name, registers, others in (("PCR ", old.registers, new.registers), ("RTMR", old.rtmrs, new.rtmrs)):
        for left, right in zip(registers, others, strict=True):
            if left != right:
                yield from _register(f"{_LAYER}{name}{left.index}", left, right)


def _hex(digest: Digest | None) -> str | None:
    return None if digest is None else digest.hex()


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
        removed, added = old.events[start:stop], new.events[other_start:other_stop]
        for position in range(max(len(removed), len(added))):
            if count == MAX_EVENT_DIFFERENCES:
                return
            count += 1
            yield _event(
                where,
                removed[position] if position < len(removed) else None,
                added[position] if position < len(added) else None,
            )


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
            cause=known.cause,
            old=f"{old.description!r} ({old.cause})",
            new=f"{new.description!r} ({new.cause})",
        )
    return Difference(where=where, what=what, cause=known.cause, old=_digest(old), new=_digest(new))


def _digest(event: Event | ImageEvent | None) -> str | None:
    if event is None:
        return None
    bank = HashAlgorithm.SHA256 if HashAlgorithm.SHA256 in event.digests else next(iter(event.digests))
    return f"{bank} {event.digests[bank].hex()}"
