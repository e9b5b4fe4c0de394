"""A platform profile as values: what firmware and launch shape decide, for each launch that its author vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.events import Event, HashAlgorithm, Stability
from measurements.golden import model as golden
from measurements.golden.sev_snp import MAX_FOLDS, SevSnpReference, Step, check_pages
from measurements.golden.tdx import BANKS as TDX_BANKS
from measurements.golden.tdx import TdxReference
from measurements.image_layer import ImageLayer, Slot
from measurements.prediction import BootPath, FirmwareIdentity, LaunchShape, Prediction
from measurements.profile.template import RegisterTemplate
from measurements.snp.hashes import TABLE_SIZE, KernelHashes
from measurements.snp.pages import PAGE_SIZE, PageType

FORMAT: Final = "goldsmith-profile"
FORMAT_VERSION: Final = 1
MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024

#: The firmware's registers.
PCRS: Final = tuple(range(8))
RTMRS: Final = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmTemplate:
    """A launch with a TPM: the shape, and PCR 0-7."""

    shape: LaunchShape
    registers: tuple[RegisterTemplate, ...] = field(repr=False)

    def __post_init__(self) -> None:
        where = f"launch shape {self.name}"
        _check_indexes(where, self.registers, PCRS)
        _check_image(where, self.registers, self.shape.boot)
        sealed = [register for register in self.registers if register.holds(Slot.AUTHORITY)]
        if not self.shape.secure_boot:
            if sealed:
                raise FormatError(f"{where}: has the slot authority, and Secure Boot is off")
        elif len(sealed) != 1 or not _binds(sealed[0], Slot.AUTHORITY, Stability.KEYS):
            raise FormatError(
                f"{where}: Secure Boot is on; expected the slot authority once in each course of one register of "
                "stability keys"
            )

    @property
    def name(self) -> str:
        """The shape's name."""
        return self.shape.name

    def fill(self, layer: ImageLayer, banks: tuple[HashAlgorithm, ...]) -> Prediction:
        """Return what a TPM holds when the image is started so; raises PredictionError."""
        filled = tuple(register.fill(layer, banks) for register in self.registers)
        return Prediction(shape=self.shape, registers=(*filled, *layer.registers))


@dataclass(frozen=True, slots=True, kw_only=True)
class HashesPage:
    """Where the page with the kernel hashes goes.

    Attributes:
        position: how many steps come before it.
        address: guest physical address of the page.
        offset: where in the page the table lies.
        cause: the input that decides it, for readers.
    """

    position: int
    address: int
    offset: int
    cause: str

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= PAGE_SIZE - TABLE_SIZE:
            raise FormatError(
                f"kernel hashes at offset {self.offset}; a table of {TABLE_SIZE} bytes leaves its page of {PAGE_SIZE}"
            )

    def step(self, layer: ImageLayer) -> Step:
        """Return the page as it is measured."""
        return Step(
            type=PageType.NORMAL,
            address=self.address,
            pages=1,
            times=1,
            contents=hashlib.sha384(page_of(layer.kernel_hashes, self.offset)).digest(),
            cause=self.cause,
        )


def page_of(hashes: KernelHashes, offset: int) -> bytes:
    """Return the page that the VMM adds (QEMU target/i386/sev.c: the table, and zeros around it)."""
    return (bytes(offset) + hashes.table()).ljust(PAGE_SIZE, b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SevSnpTemplate:
    """An SEV-SNP launch: the digest after the firmware, and every further page but that of the kernel hashes.

    Attributes:
        launch: without that page.
        hashes: where it goes; ``None`` where the VMM binds no kernel, and the digest says nothing of what boots.
    """

    launch: SevSnpReference
    hashes: HashesPage | None

    def __post_init__(self) -> None:
        where = f"launch {self.name}"
        if (self.hashes is not None) != (self.launch.boot is BootPath.DIRECT):
            raise FormatError(
                f"{where}: expected the slot for kernel hashes in a launch with -kernel, where they bind the image, "
                "and in no other"
            )
        if self.hashes is not None and not 0 <= self.hashes.position <= len(self.launch.steps):
            raise FormatError(f"{where}: the kernel hashes are step {self.hashes.position}; there are fewer")
        normal = [step for step in self.launch.steps if step.type is PageType.NORMAL]
        if normal:
            raise FormatError(
                f"{where}: a page with contents at 0x{normal[0].address:x} that is neither the firmware's nor the slot "
                "for kernel hashes"
            )
        check_pages(self.launch.steps, where)

    @property
    def name(self) -> str:
        """The launch's name."""
        return self.launch.name

    def fill(self, layer: ImageLayer) -> SevSnpReference:
        """Return what the launch of the image measures."""
        if self.hashes is None:
            return self.launch
        before, after = (
            self.launch.steps[: self.hashes.position],
            self.launch.steps[self.hashes.position :],
        )
        return replace(self.launch, steps=(*before, self.hashes.step(layer), *after))


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTemplate:
    """A trust domain: MRTD, and RTMR0 and RTMR1.

    Attributes:
        launch: without registers.
        registers: RTMR0 and RTMR1.
    """

    launch: TdxReference
    registers: tuple[RegisterTemplate, ...] = field(repr=False)

    def __post_init__(self) -> None:
        where = f"launch {self.name}"
        _check_indexes(where, self.registers, RTMRS)
        _check_image(where, self.registers, self.launch.boot)

    @property
    def name(self) -> str:
        """The launch's name."""
        return self.launch.name

    def fill(self, layer: ImageLayer) -> TdxReference:
        """Return what a trust domain that runs the image measures; raises PredictionError."""
        filled = tuple(register.fill(layer, TDX_BANKS) for register in self.registers)
        return replace(self.launch, registers=(*filled, *layer.rtmrs))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformProfile:
    """What firmware and launch shape decide, whatever image is started.

    Attributes:
        name: what its author calls it.
        banks: the PCR banks of every event.
        tpm: launches with a TPM, grouped by platform.
        sev_snp: SEV-SNP launches.
        tdx: trust domains.
    """

    name: str
    banks: tuple[HashAlgorithm, ...]
    tpm: tuple[TpmTemplate, ...] = ()
    sev_snp: tuple[SevSnpTemplate, ...] = ()
    tdx: tuple[TdxTemplate, ...] = ()

    def __post_init__(self) -> None:
        if golden.NAME.fullmatch(self.name) is None or len(self.name) > golden.MAX_NAME:
            raise FormatError(f"name {self.name[:80]!r}; expected characters like {golden.NAME.pattern}")
        if not set(self.banks) & {HashAlgorithm.SHA256, HashAlgorithm.SHA384} or self.banks != tuple(
            bank for bank in HashAlgorithm if bank in self.banks
        ):
            raise FormatError(f"banks {list(self.banks)}; expected sha256 or sha384 at least, in order")
        names = self.names
        for what, count, limit in (
            ("platforms", len(self.tpm), golden.MAX_SHAPES),
            ("sev_snp", len(self.sev_snp), golden.MAX_CONFIDENTIAL),
            ("tdx", len(self.tdx), golden.MAX_CONFIDENTIAL),
        ):
            if count > limit:
                raise LimitError(f"{what}: {count} launches; at most {limit}")
        if not names or len(set(names)) != len(names):
            raise FormatError(f"launches {sorted(names)}; expected at least one, and distinct names")
        if sum(_pages(template.launch) for template in self.sev_snp) > MAX_FOLDS:
            raise LimitError(f"sev_snp: more than {MAX_FOLDS} pages to fold")
        for template in self.tpm:
            for register in template.registers:
                _check_events(template.name, register, self.banks)
        for domain in self.tdx:
            for register in domain.registers:
                _check_events(domain.name, register, TDX_BANKS)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all launches."""
        return (
            *(each.name for each in self.tpm),
            *(each.name for each in self.sev_snp),
            *(each.name for each in self.tdx),
        )

    @property
    def firmware(self) -> tuple[FirmwareIdentity, ...]:
        """The firmware file of each launch, in their order."""
        return (
            *(each.shape.firmware for each in self.tpm),
            *(each.launch.firmware for each in self.sev_snp),
            *(each.launch.firmware for each in self.tdx),
        )


def _pages(launch: SevSnpReference) -> int:
    return launch.pages - launch.loaded_pages


def _check_indexes(where: str, registers: tuple[RegisterTemplate, ...], expected: tuple[int, ...]) -> None:
    indexes = tuple(register.index for register in registers)
    if indexes != expected:
        raise FormatError(
            f"{where}: registers {list(indexes)}; expected {list(expected)}, which are the firmware's, and none of "
            "those that the image layer tells"
        )


def _check_image(where: str, registers: Iterable[RegisterTemplate], boot: BootPath) -> None:
    """Make sure that the launch binds the image: its own event, and that of its disk."""
    for slot, wanted in ((Slot.APPLICATION, True), (Slot.PARTITION_TABLE, boot is BootPath.DISK)):
        holding = [register for register in registers if register.holds(slot)]
        if not wanted:
            if holding:
                raise FormatError(f"{where}: has the slot {slot}, which a boot of this kind does not measure")
        elif len(holding) != 1 or not _binds(holding[0], slot, Stability.IMAGE):
            raise FormatError(
                f"{where}: expected the slot {slot} once in each course of one register of stability image; without "
                "it any image would do"
            )
    if any(course.count(Slot.KERNEL) > 1 for register in registers for course in register.alternatives):
        raise FormatError(f"{where}: has the slot {Slot.KERNEL} twice in one course")


def _binds(register: RegisterTemplate, slot: Slot, stability: Stability) -> bool:
    # A policy leaves registers out by their stability: that of the image's events is not the profile's to choose.
    return register.stability is stability and register.holds_once(slot)


def _check_events(where: str, register: RegisterTemplate, banks: tuple[HashAlgorithm, ...]) -> None:
    for course in register.alternatives:
        for event in course.events:
            if isinstance(event, Event) and set(event.digests) != set(banks):
                raise FormatError(
                    f"{where}: register {register.index}: {event.description!r} has the banks "
                    f"{sorted(event.digests)}; expected {sorted(banks)}"
                )
