"""The image layer in a golden document: what a verifier composes with a platform profile of its own.

docs/golden-format.md, "Image layer".
"""

from __future__ import annotations

from typing import Any, Final

from measurements.errors import FormatError
from measurements.events import HashAlgorithm, RegisterPrediction
from measurements.golden import model, tdx
from measurements.golden.registers import Table, identifier, read_digests, read_table, write_table
from measurements.image_layer import PCRS, RTMRS, ImageEvent, ImageLayer, Slot
from measurements.snp.hashes import KernelHashes
from measurements.strictjson import Fields

MEMBER: Final = "image_layer"
_HASH_SIZE = HashAlgorithm.SHA256.size


def write(layer: ImageLayer) -> dict[str, Any]:
    """Return an image layer as JSON values."""
    return {
        "events": {slot.value: _write_event(layer.events.get(slot), layer.banks) for slot in Slot},
        "kernel_hashes": {
            "kernel": layer.kernel_hashes.kernel.hex(),
            "initrd": layer.kernel_hashes.initrd.hex(),
            "cmdline": layer.kernel_hashes.cmdline.hex(),
        },
        "registers": _write_registers(layer.registers, layer.banks),
        "rtmrs": _write_registers(layer.rtmrs, tdx.BANKS),
    }


def _write_event(event: ImageEvent | None, banks: tuple[HashAlgorithm, ...]) -> dict[str, Any] | None:
    if event is None:
        return None
    return {
        "digests": {bank.value: event.digests[bank].hex() for bank in banks},
        "data": None if event.data is None else event.data.hex(),
    }


def _write_registers(
    registers: tuple[RegisterPrediction, ...], banks: tuple[HashAlgorithm, ...]
) -> list[dict[str, Any]]:
    table: Table[RegisterPrediction] = {}
    for register in registers:
        identifier(register, table)
    return write_table(table, banks)


def read(fields: Fields, banks: tuple[HashAlgorithm, ...]) -> ImageLayer:
    """Read an image layer and refold its registers.

    Raises:
        FormatError: a member is missing, unknown or of the wrong type; a stated value is not the fold; a register
            is missing or none of the image's.
        LimitError: a named limit of ``measurements.golden.model`` is exceeded.
    """
    events = fields.fields("events")
    found = {slot: _read_event(events, slot, banks) for slot in Slot}
    events.end()
    hashes = fields.fields("kernel_hashes")
    kernel = KernelHashes(
        kernel=hashes.hex("kernel", size=_HASH_SIZE),
        initrd=hashes.hex("initrd", size=_HASH_SIZE),
        cmdline=hashes.hex("cmdline", size=_HASH_SIZE),
    )
    hashes.end()
    layer = ImageLayer(
        events={slot: event for slot, event in found.items() if event is not None},
        kernel_hashes=kernel,
        registers=_read_registers(fields, "registers", banks, last_index=PCRS[-1]),
        rtmrs=_read_registers(fields, "rtmrs", tdx.BANKS, last_index=RTMRS[-1]),
    )
    fields.end()
    return layer


def _read_event(fields: Fields, slot: Slot, banks: tuple[HashAlgorithm, ...]) -> ImageEvent | None:
    if fields.raw(slot.value) is None:
        return None
    entry = fields.fields(slot.value)
    event = ImageEvent(
        digests=read_digests(entry, "digests", banks),
        data=None if entry.raw("data") is None else entry.hex("data", max_size=model.MAX_EVENT_DATA),
    )
    entry.end()
    return event


def _read_registers(
    fields: Fields, name: str, banks: tuple[HashAlgorithm, ...], *, last_index: int
) -> tuple[RegisterPrediction, ...]:
    table = read_table(fields, banks, last_index=last_index, min_items=1, name=name)
    for identity, register in table.items():
        if identity != f"{register.index}.1":
            raise FormatError(f"{fields.where}: {name}: id {identity}; expected {register.index}.1")
    return tuple(table.values())
