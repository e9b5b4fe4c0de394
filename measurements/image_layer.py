"""The image layer: what our bytes alone decide, on every platform and in every launch shape.

TCG PC Client Platform Firmware Profile 1.06, 3.3.3: PCR 0-7 are the firmware's, PCR 8-15 the operating system's; of a
trust domain's registers RTMR2 and RTMR3 are (edk2 OvmfPkg/Tcg/TdTcg2Dxe). So the image layer holds whole registers
where nothing but the image speaks, and single events for the registers in which the firmware speaks of the image. The
rest is a platform profile's (``measurements.profile``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from measurements.errors import FormatError, NotPredictableError, PredictionError
from measurements.events import (
    DEFAULT_BANKS,
    Digests,
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Stability,
)
from measurements.formats import varstore
from measurements.formats.efivar import IMAGE_SECURITY_DATABASE
from measurements.formats.gpt import Gpt
from measurements.formats.uki import ImageKind
from measurements.prediction import BootPath
from measurements.snp.hashes import KernelHashes
from measurements.tdx import rtmr2
from measurements.tdx.boot import BANKS as TDX_BANKS
from measurements.tdx.predict import RTMR3
from measurements.tpm import constant, pcr04, pcr05, pcr07, pcr09, pcr10, pcr11, pcr15
from measurements.tpm.authority import authorise
from measurements.tpm.boot import Boot, examine_boot, not_pinned, pinned
from measurements.tpm.inputs import TpmInputs

#: The operating system's registers.
PCRS: Final = tuple(range(8, 16))
RTMRS: Final = (2, 3)

#: What predicts them, in order.
OPERATING_SYSTEM: Final[tuple[Callable[[Boot], RegisterPrediction], ...]] = (
    constant.predict_pcr08,
    pcr09.predict,
    pcr10.predict,
    pcr11.predict,
    constant.predict_pcr12,
    constant.predict_pcr13,
    constant.predict_pcr14,
    pcr15.predict,
)


class Slot(StrEnum):
    """An event that the firmware measures about the image."""

    APPLICATION = "application"  # the image itself
    KERNEL = "kernel"  # the kernel inside it, where the stub lets the firmware load that
    PARTITION_TABLE = "partition-table"  # of the disk that holds it
    AUTHORITY = "authority"  # the entry of db that allowed it to start, under Secure Boot


EVENT_TYPES: Final[Mapping[Slot, EventType]] = {
    Slot.APPLICATION: EventType.EFI_BOOT_SERVICES_APPLICATION,
    Slot.KERNEL: EventType.EFI_BOOT_SERVICES_APPLICATION,
    Slot.PARTITION_TABLE: EventType.EFI_GPT_EVENT,
    Slot.AUTHORITY: EventType.EFI_VARIABLE_AUTHORITY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEvent:
    """What fills a slot.

    Attributes:
        digests: per bank.
        data: the event field; ``None`` where it is not predictable.
    """

    digests: Digests
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayer:
    """What an image decides.

    Attributes:
        events: what fills each slot. The application is always there; a slot without event means that the image
            brings none: a stub that starts its kernel itself, no disk, no signature.
        kernel_hashes: what SEV-SNP's kernel hashes page is made of.
        registers: PCR 8-15.
        rtmrs: RTMR2 and RTMR3, SHA-384 alone.
    """

    events: Mapping[Slot, ImageEvent] = field(repr=False)
    kernel_hashes: KernelHashes
    registers: tuple[RegisterPrediction, ...] = field(repr=False)
    rtmrs: tuple[RegisterPrediction, ...] = field(repr=False)

    def __post_init__(self) -> None:
        for what, registers, expected in (("PCR", self.registers, PCRS), ("RTMR", self.rtmrs, RTMRS)):
            indexes = tuple(register.index for register in registers)
            if indexes != expected:
                raise FormatError(f"image layer: {what} {indexes}; expected {expected}, each once")
        if Slot.APPLICATION not in self.events:
            raise FormatError("image layer: the digest of the image itself ('application') is missing")
        for slot, event in self.events.items():
            if set(event.digests) != set(self.banks):
                raise FormatError(
                    f"image layer: {slot} has the banks {sorted(event.digests)}; expected {sorted(self.banks)}"
                )

    @property
    def banks(self) -> tuple[HashAlgorithm, ...]:
        """The banks of every event, in the order of ``HashAlgorithm``."""
        found = self.events[Slot.APPLICATION].digests
        return tuple(bank for bank in HashAlgorithm if bank in found)


def predict_image(
    uki: bytes,
    *,
    disk: Gpt | None,
    variables: bytes | None = None,
    measures_machine: bool = False,
    banks: tuple[HashAlgorithm, ...] = DEFAULT_BANKS,
) -> ImageLayer:
    """Work out the image layer of a unified kernel image.

    Args:
        uki: its bytes, signature included.
        disk: the partition table of the disk that holds it; ``None`` for an image that only ``-kernel`` starts.
        variables: a variable store with the keys that it is signed for; ``None`` where it is not signed.
        measures_machine: whether userspace extends PCR 15 (systemd-pcrmachine, systemd-pcrfs).
        banks: PCR banks.

    Raises:
        FormatError: the image or the variable store is malformed.
        PredictionError: it is no unified kernel image of a stub that is known, cannot boot, or is not signed for
            these keys.
    """
    from_disk, direct = (_boot(uki, path, banks, disk, measures_machine) for path in BootPath)
    if from_disk.image.kind is not ImageKind.UKI:
        raise PredictionError("an image layer is one of a unified kernel image; this file is none")
    found = {
        Slot.APPLICATION: pcr04.image_event(from_disk.facts.authenticode, "", ""),
        Slot.KERNEL: pcr04.image_event(from_disk.facts.kernel_authenticode, "", "")
        if pcr04.stub_loads_kernel(from_disk)
        else None,
        Slot.PARTITION_TABLE: None if disk is None else pcr05.partition_table_event(from_disk),
        Slot.AUTHORITY: None if variables is None else _authority(from_disk, variables),
    }
    return ImageLayer(
        events={
            slot: ImageEvent(digests=event.digests, data=event.data)
            for slot, event in found.items()
            if event is not None
        },
        kernel_hashes=KernelHashes.of(uki),
        registers=tuple(_common(predict(from_disk), predict(direct)) for predict in OPERATING_SYSTEM),
        rtmrs=(
            _common(*(_rtmr2(_boot(uki, path, TDX_BANKS, disk, measures_machine)) for path in BootPath)),
            not_pinned(3, RTMR3),
        ),
    )


def _boot(
    uki: bytes, path: BootPath, banks: tuple[HashAlgorithm, ...], disk: Gpt | None, measures_machine: bool
) -> Boot:
    """Return a boot on a machine of which nothing is known."""
    inputs = TpmInputs(
        firmware_name="any",
        firmware=b"",
        boot=path,
        machine="any",
        memory_mib=1,
        vcpus=1,
        image=uki,
        disk=disk,
        measures_machine=measures_machine,
        banks=banks,
    )
    return examine_boot(
        inputs, profile=None, firmware=None, firmware_problem="the image layer is of no firmware"
    )


def _common(first: RegisterPrediction, second: RegisterPrediction) -> RegisterPrediction:
    """Return what holds from disk and by ``-kernel``: where one is open, the machine has a say."""
    return second if second.stability is Stability.NOT_PINNED else first


def _rtmr2(boot: Boot) -> RegisterPrediction:
    try:
        return pinned(RTMRS[0], Stability.IMAGE, rtmr2.uki_events(boot))
    except NotPredictableError as error:
        return not_pinned(RTMRS[0], str(error))


def _authority(boot: Boot, store: bytes) -> Event:
    variables = varstore.parse(store)
    entry = authorise(
        boot.image.image,
        variables.get((IMAGE_SECURITY_DATABASE, "db"), b""),
        variables.get((IMAGE_SECURITY_DATABASE, "dbx"), b""),
    )
    return pcr07.authority_event(boot, entry)
