"""Image layers and profiles of the machines that tests/vectors/eventlog recorded: one image, two firmware builds."""

from __future__ import annotations

from dataclasses import replace

from attester import VECTORS, Machine, Record, document, prediction, real_records, record

from measurements.events import EventType
from measurements.formats import eventlog
from measurements.golden import GoldenDocument
from measurements.image_layer import ImageEvent, ImageLayer, Slot
from measurements.prediction import FirmwareIdentity, LaunchShape, Prediction
from measurements.profile import PlatformProfile, profile_of
from measurements.snp.hashes import KernelHashes
from measurements.tpm.boot import not_pinned

IMAGE_EVENTS = (EventType.EFI_BOOT_SERVICES_APPLICATION, EventType.EFI_GPT_EVENT)


def rolled_records() -> list[Record]:
    """The same image and disk on OVMF 2026.08."""
    log = eventlog.parse((VECTORS / "eventlog" / "qemu-ovmf-2026.08.bin").read_bytes())
    banks = real_records()[0].digests
    return [
        Record(item.register, item.type, {bank: item.digests[bank] for bank in banks}, item.data)
        for item in log.records
        if item.extends
    ]


def rolled() -> Machine:
    """The machine after the firmware roll."""
    return Machine(records=rolled_records())


def with_other_image(machine: Machine) -> Machine:
    """The same machine, were it to start another image from another disk."""
    records = [
        record(item.register, item.type, b"of another image " + item.data, item.data)
        if item.register >= 8 or item.type in IMAGE_EVENTS
        else item
        for item in machine.records
    ]
    return Machine(records=records)


def layer_of(machine: Machine) -> ImageLayer:
    """What the machine's image decided, read off its records by register and type alone."""
    application, kernel = (
        item for item in machine.records if (item.register, item.type) == (4, IMAGE_EVENTS[0])
    )
    (table,) = (item for item in machine.records if (item.register, item.type) == (5, IMAGE_EVENTS[1]))
    return ImageLayer(
        events={
            Slot.APPLICATION: ImageEvent(digests=application.digests, data=application.data),
            Slot.KERNEL: ImageEvent(digests=kernel.digests, data=kernel.data),
            Slot.PARTITION_TABLE: ImageEvent(digests=table.digests, data=table.data),
        },
        kernel_hashes=KernelHashes.of(b"uki"),
        registers=prediction(machine).registers[8:],
        rtmrs=(not_pinned(2, "no trust domain"), not_pinned(3, "no trust domain")),
    )


def shape(**changes: object) -> LaunchShape:
    firmware = FirmwareIdentity(name="ovmf-2026.08", sha256="ef" * 32, sha384="01" * 48)
    return replace(prediction().shape, **{"firmware": firmware, **changes})


def launch(machine: Machine, /, **changes: object) -> Prediction:
    """The prediction of a machine with the new firmware."""
    return replace(prediction(machine), shape=shape(**changes))


def profile() -> PlatformProfile:
    """The new firmware as its author saw it, who started another image with it."""
    other = with_other_image(rolled())
    return profile_of(layer_of(other), name="ovmf-2026.08", predictions=[launch(other)])


def released() -> GoldenDocument:
    """A release that knows the old firmware alone."""
    return replace(document(prediction()), image_layer=layer_of(Machine()))
