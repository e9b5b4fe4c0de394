"""Two golden documents, side by side: which value moved, and because of which input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from measurements.golden.differences import Difference, Move, digest_text, moves, register_differences
from measurements.golden.gpu import gpu_differences
from measurements.golden.launches import launch_differences
from measurements.golden.model import GoldenDocument
from measurements.image_layer import ImageLayer, Slot
from measurements.moments import format_time

__all__ = ["Difference", "Move", "compare", "image_moves", "moves"]

_LAYER = "image layer: "


_SLOT_CAUSES = {
    Slot.APPLICATION: "uki",
    Slot.KERNEL: "uki .linux",
    Slot.PARTITION_TABLE: "disk partition table",
    Slot.AUTHORITY: "uki signature",
}


def compare(old: GoldenDocument, new: GoldenDocument) -> tuple[Difference, ...]:
    """List what differs: inputs, outputs, GPUs, each launch shape's registers with the guilty events, the image layer.

    Returns an empty tuple exactly when the documents are equal.
    """
    return (
        *_fields(old, new),
        *_outputs(old, new),
        *gpu_differences(old.gpu, new.gpu),
        *launch_differences(old, new),
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


def _layers(old: ImageLayer | None, new: ImageLayer | None) -> Iterator[Difference]:
    if old is None or new is None:
        if old is not new:
            yield Difference(where="document", what="image layer", cause=None, old=None if old is None else "present",
                             new=None if new is None else "present")  # fmt: skip
        return
    for slot in Slot:
        first, second = old.events.get(slot), new.events.get(slot)
        if first != second:
            yield Difference(where=f"{_LAYER}{slot}", what="event", cause=_SLOT_CAUSES[slot], old=digest_text(first),
                             new=digest_text(second))  # fmt: skip
    for what in ("kernel", "initrd", "cmdline"):
        before, after = getattr(old.kernel_hashes, what), getattr(new.kernel_hashes, what)
        if before != after:
            yield Difference(
                where=f"{_LAYER}kernel hashes", what=what, cause="uki", old=before.hex(), new=after.hex()
            )
    for name, registers, others in (("PCR ", old.registers, new.registers), ("RTMR", old.rtmrs, new.rtmrs)):
        for left, right in zip(registers, others, strict=True):
            if left != right:
                yield from register_differences(f"{_LAYER}{name}{left.index}", left, right)
