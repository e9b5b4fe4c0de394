"""The facts of one boot that several registers need, each worked out once."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from measurements.errors import FormatError, NotPredictableError
from measurements.events import (
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Sequence,
    Stability,
    digests_of,
)
from measurements.formats import ovmf
from measurements.formats.ovmf import OvmfFirmware
from measurements.formats.uki import BootImage, ImageKind
from measurements.platforms.firmware import FirmwareProfile, find_profile
from measurements.tpm.image import ImageFacts, examine_image
from measurements.tpm.inputs import TpmInputs
from measurements.tpm.secure_boot import SecureBoot, secure_boot_state

#: Label of a register that has one course of events.
USUAL: Final = "boot"

#: The reason that goes with every value that only an observed boot of the firmware could give.
CALIBRATE: Final = (
    "not predictable: calibrate; no profile knows this firmware, so boot it alone once "
    "(goldsmith calibrate) and pass the profile that this yields"
)
FOREIGN_LOADER: Final = (
    "not predictable: the image is neither a unified kernel image nor a kernel, so what it loads and "
    "measures does not follow from it"
)
SYSTEMD_BOOT: Final = (
    "not predictable: the image is systemd-boot, which picks what it starts from the files and variables that "
    "it finds, and measures loader.conf; predict for the UKI at the removable path instead"
)
_SYSTEMD_BOOT_MAGIC = b"#### LoaderInfo: systemd-boot "


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot, parsed.

    Attributes:
        inputs: what it was parsed from.
        profile: of the firmware; ``None`` when no profile knows the file.
        firmware: the firmware's volumes; ``None`` when the file is not laid out as OVMF.
        firmware_problem: why ``firmware`` is ``None``.
        facts: the image that the firmware starts, and its digests.
        secure_boot: state and variables.
    """

    inputs: TpmInputs
    profile: FirmwareProfile | None
    firmware: OvmfFirmware | None = field(repr=False)
    firmware_problem: str | None
    facts: ImageFacts = field(repr=False)
    secure_boot: SecureBoot = field(repr=False)

    @property
    def image(self) -> BootImage:
        """The image that the firmware starts."""
        return self.facts.image

    @property
    def banks(self) -> tuple[HashAlgorithm, ...]:
        """Banks to predict."""
        return self.inputs.banks

    def event(
        self,
        register: int,
        event_type: EventType | None,
        content: bytes,
        *,
        description: str,
        cause: str,
        data: bytes | None = None,
    ) -> Event:
        """Return the event that extends the digest of ``content``."""
        return Event(
            register=register,
            type=event_type,
            digests=digests_of(content, self.banks),
            description=description,
            cause=cause,
            data=data,
        )

    def require_profile(self) -> FirmwareProfile:
        """Return the firmware's profile.

        Raises:
            NotPredictableError: there is none.
        """
        if self.profile is None:
            raise NotPredictableError(CALIBRATE)
        return self.profile

    def require_firmware(self) -> OvmfFirmware:
        """Return the firmware's volumes.

        Raises:
            NotPredictableError: the file is not laid out as OVMF.
        """
        if self.firmware is None:
            raise NotPredictableError(f"not predictable: {self.firmware_problem}")
        return self.firmware

    def require_known_loader(self) -> None:
        """Let UKIs and kernels pass.

        Raises:
            NotPredictableError: the image is another EFI application.
        """
        if self.image.kind is not ImageKind.FOREIGN:
            return
        magic = self.image.image.section(".sdmagic")
        if magic is not None and self.image.image.section_data(magic).startswith(_SYSTEMD_BOOT_MAGIC):
            raise NotPredictableError(SYSTEMD_BOOT)
        raise NotPredictableError(FOREIGN_LOADER)


def examine(inputs: TpmInputs) -> Boot:
    """Parse the inputs.

    Raises:
        FormatError: the image is no PE image, or the variable store is corrupt.
        PredictionError: the image can not boot.
    """
    firmware, problem = None, None
    try:
        firmware = _parse_firmware(inputs.firmware)
    except FormatError as error:
        problem = str(error)
    profile = find_profile(inputs.firmware, inputs.profiles)
    return examine_boot(inputs, profile=profile, firmware=firmware, firmware_problem=problem)


def examine_boot(
    inputs: TpmInputs,
    *,
    profile: FirmwareProfile | None,
    firmware: OvmfFirmware | None,
    firmware_problem: str | None,
) -> Boot:
    """Parse the image of a boot whose firmware was looked at before; raises as ``examine``."""
    facts = examine_image(inputs.image, inputs.banks)
    return Boot(
        inputs=inputs,
        profile=profile,
        firmware=firmware,
        firmware_problem=firmware_problem,
        facts=facts,
        secure_boot=secure_boot_state(inputs.variables, profile, facts.image),
    )


@functools.lru_cache(maxsize=4)
def _parse_firmware(firmware: bytes) -> OvmfFirmware:
    return ovmf.parse(firmware)


def separator(boot: Boot, register: int) -> Event:
    """EV_SEPARATOR: the firmware hands over (TCG PFP 1.06, 10.4.1; Tcg2Dxe.c MeasureSeparatorEvent)."""
    return boot.event(
        register,
        EventType.SEPARATOR,
        bytes(4),
        description="separator before the boot attempt",
        cause="firmware boot sequence",
        data=bytes(4),
    )


def action(boot: Boot, register: int, text: str) -> Event:
    """EV_EFI_ACTION: ASCII text without terminator (TCG PFP 1.06, 10.4.4)."""
    content = text.encode("ascii")
    return boot.event(
        register,
        EventType.EFI_ACTION,
        content,
        description=text,
        cause="firmware boot sequence",
        data=content,
    )


def pinned(
    index: int, stability: Stability, events: Iterable[Event], *, reason: str | None = None
) -> RegisterPrediction:
    """Return a register with one course of events."""
    return RegisterPrediction(
        index=index,
        stability=stability,
        alternatives=(Sequence(label=USUAL, events=tuple(events)),),
        reason=reason,
    )


def not_pinned(index: int, reason: str) -> RegisterPrediction:
    """Return a register without a value."""
    return RegisterPrediction(index=index, stability=Stability.NOT_PINNED, alternatives=(), reason=reason)
