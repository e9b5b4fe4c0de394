"""SEV-SNP launch digests of OVMF, with or without an SVSM, as QEMU, EC2 and GCE start it.

Everything that VMs of one firmware share is computed once: ``LaunchDigests`` keeps the digest after the
firmware, after the metadata and after every vCPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from measurements.errors import PredictionError
from measurements.formats.sevmetadata import Section, SectionType
from measurements.snp import features, vmsa
from measurements.snp.cpu import MAX_SIGNATURE
from measurements.snp.hashes import TABLE_SIZE, KernelHashes
from measurements.snp.image import END_OF_FIRMWARE, LaunchImage
from measurements.snp.pages import (
    INITIAL_DIGEST,
    PAGE_SIZE,
    MeasuredPage,
    PageType,
    Region,
    extend,
    repeat,
    walk,
)
from measurements.snp.vmsa import Vmm

MAX_VCPUS: Final = 4096
#: The sections of a real build have 0.2 MiB.
MAX_METADATA_SIZE: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a VMM is told, beside the files that it loads.

    Attributes:
        vmm: who starts the guest.
        vcpus: 1 to 4096.
        signature: CPUID Fn0000_0001_EAX of the CPU model; ``None`` where the VMM does not measure it.
        features: SEV_FEATURES.
        kernel: ``-kernel`` with ``kernel-hashes=on``; ``None`` for a boot from disk.
        vmsa_address: the address under which VMSAs are measured.
    """

    vmm: Vmm
    vcpus: int
    signature: int | None = None
    features: int = features.DEFAULT
    kernel: KernelHashes | None = None
    vmsa_address: int = vmsa.VMSA_ADDRESS


class LaunchDigests:
    """Launch digests of one firmware, or of one firmware and one SVSM; remembers what launches share."""

    def __init__(self, firmware: LaunchImage, svsm: LaunchImage | None = None) -> None:
        self._firmware, self._svsm = firmware, svsm
        if svsm is not None and svsm.svsm_entry is None:
            raise PredictionError(
                "the SVSM's table names no entry point; expected a coconut-svsm image for QEMU"
            )
        self._loaded: bytes | None = None
        self._prepared: dict[tuple[Vmm, KernelHashes | None], bytes] = {}
        self._running: dict[Launch, list[bytes]] = {}

    def digest(self, launch: Launch) -> bytes:
        """Return the launch digest, 48 bytes.

        Raises:
            PredictionError: the options contradict each other, or the firmware lacks what the launch needs.
        """
        self._check(launch)
        family = replace(launch, vcpus=1)
        running = self._running.get(family)
        if running is None:
            running = self._running[family] = [extend(self._prepare(launch), [self._vcpu(launch, 0)])]
        if len(running) < launch.vcpus:
            running.extend(repeat(running[-1], self._vcpu(launch, 1), launch.vcpus - len(running)))
        return running[launch.vcpus - 1]

    def regions(self, launch: Launch) -> Iterator[Region]:
        """Yield what the VMM adds, in its order; raises like ``digest``."""
        self._check(launch)
        yield from self._files()
        yield from self.added(launch)

    def loaded(self) -> tuple[bytes, int]:
        """Return the digest after the files that every launch begins with, and how many pages they have."""
        if self._loaded is None:
            self._loaded = extend(INITIAL_DIGEST, self._files())
        return self._loaded, sum(region.pages for region in self._files())

    def added(self, launch: Launch) -> Iterator[Region]:
        """Yield what the VMM adds after the files, in its order; raises like ``digest``."""
        self._check(launch)
        yield from self._metadata(launch)
        for number in range(launch.vcpus):
            yield self._vcpu(launch, number)

    def walk(self, launch: Launch) -> Iterator[MeasuredPage]:
        """Yield every page with the digest after it, sharing nothing; raises like ``digest``."""
        return walk(self.regions(launch))

    def pages(self, launch: Launch) -> int:
        """Return how many pages are measured; raises like ``digest``."""
        self._check(launch)
        before = (*self._files(), *self._metadata(launch))
        return sum(region.pages for region in before) + launch.vcpus

    def _prepare(self, launch: Launch) -> bytes:
        key = launch.vmm, launch.kernel
        if key not in self._prepared:
            self._prepared[key] = extend(self.loaded()[0], self._metadata(launch))
        return self._prepared[key]

    def _files(self) -> Iterator[Region]:
        yield _file(self._firmware, "firmware")
        if self._svsm is not None:
            yield _file(self._svsm, "SVSM")

    def _metadata(self, launch: Launch) -> Iterator[Region]:
        # QEMU target/i386/sev.c snp_populate_metadata_pages: the order of the table.
        # An SVSM brings the metadata; that of the firmware is the SVSM's business.
        image = self._svsm or self._firmware
        sections = _sections(image, self._firmware, "SVSM" if self._svsm else "firmware")
        if launch.vmm is Vmm.EC2:  # all CPUID pages come last
            sections = sorted(sections, key=lambda section: section.type == SectionType.CPUID)
        for section in sections:
            yield _prepared(section, image, launch)

    def _vcpu(self, launch: Launch, number: int) -> Region:
        signature = launch.signature or 0
        if self._svsm is not None:
            entry = self._svsm.svsm_entry
            assert entry is not None
            data = vmsa.svsm_page(
                start=self._svsm.address + entry, signature=signature, features=launch.features
            )
        else:
            start = vmsa.RESET_VECTOR if number == 0 else self._firmware.ap_start
            assert start is not None
            data = vmsa.reset_page(launch.vmm, start=start, signature=signature, features=launch.features)
        return Region(
            type=PageType.VMSA,
            address=launch.vmsa_address,
            size=PAGE_SIZE,
            data=data,
            cause=f"vCPU {number + 1}",
        )

    def _check(self, launch: Launch) -> None:
        check_vcpus(launch.vmm, launch.vcpus, launch.signature)
        if not launch.features & features.SevFeatures.SNP_ACTIVE or launch.features > features.MAX_FEATURES:
            raise PredictionError(
                f"guest features 0x{launch.features:x}: expected a 64-bit number with bit 0, which makes the "
                "guest an SEV-SNP one"
            )
        if launch.vmsa_address % PAGE_SIZE or not 0 < launch.vmsa_address < 1 << 52:
            raise PredictionError(f"VMSA address 0x{launch.vmsa_address:x}: expected a page below 2^52")
        if self._svsm is not None:
            self._check_svsm(launch)
            return
        if launch.kernel is not None:
            _check_hash_area(self._firmware)
        check_ap_start(self._firmware, launch.vcpus)

    def _check_svsm(self, launch: Launch) -> None:
        if launch.vmm is not Vmm.QEMU:
            raise PredictionError(f"an SVSM is loaded by QEMU; {launch.vmm} loads none of the user's")
        if launch.kernel is not None:
            raise PredictionError(
                "kernel hashes and an SVSM exclude each other: its metadata has no page for them"
            )
        if launch.features != features.DEFAULT:
            raise PredictionError(
                f"guest features 0x{launch.features:x} with an SVSM: it starts with 0x{features.DEFAULT:x}"
            )


def check_vcpus(vmm: Vmm, vcpus: int, signature: int | None) -> None:
    """Raise PredictionError unless the number is one that a VMM takes and the signature is there where needed."""
    if not 1 <= vcpus <= MAX_VCPUS:
        raise PredictionError(f"{vcpus} vCPUs; expected 1 to {MAX_VCPUS}")
    if signature is None:
        if vmsa.needs_signature(vmm):
            raise PredictionError(f"{vmm} measures the CPU's signature: name the CPU model or the signature")
    elif not 0 <= signature <= MAX_SIGNATURE:
        raise PredictionError(f"CPU signature 0x{signature:x}: expected 32 bits")


def check_ap_start(firmware: LaunchImage, vcpus: int) -> None:
    """Raise PredictionError when there are vCPUs that the firmware names no start address for."""
    if vcpus > 1 and firmware.ap_start is None:
        raise PredictionError(
            f"the firmware lacks the SEV-ES reset block: it says not where vCPU 2 to {vcpus} start. "
            "Use an OVMF build with SEV-ES, or one vCPU"
        )


def _check_hash_area(firmware: LaunchImage) -> None:
    if firmware.hash_table is None:
        raise PredictionError(
            "the firmware lacks a kernel hash table, so that it would start any kernel: "
            "use a build that verifies hashes, as OVMF.amdsev.fd, or boot from disk"
        )
    areas = [section for section in firmware.sections or () if section.type == SectionType.KERNEL_HASHES]
    offset = firmware.hash_table % PAGE_SIZE
    if not any(section.size for section in areas):
        raise PredictionError(
            "the firmware's SEV metadata lacks a kernel hashes section (0x10): SEV-SNP does not measure "
            "its hash table. Use a build with one, as OVMF.amdsev.fd"
        )
    if offset + TABLE_SIZE > PAGE_SIZE:
        raise PredictionError(
            f"the firmware's kernel hash table at 0x{firmware.hash_table:x} leaves its page: "
            f"expected room for {TABLE_SIZE} bytes"
        )


def _sections(image: LaunchImage, firmware: LaunchImage, what: str) -> list[Section]:
    """Return the sections in use, checked: kinds, alignment, no page twice."""
    if image.sections is None:
        raise PredictionError(f"the {what} lacks SEV metadata: it is a build without SEV-SNP")
    used = [section for section in image.sections if section.size]
    for section in used:
        if section.address % PAGE_SIZE or section.size % PAGE_SIZE:
            raise PredictionError(
                f"the {what}'s section {section.name} at 0x{section.address:x} with 0x{section.size:x} bytes "
                "is no whole number of pages"
            )
        if section.type not in set(SectionType):
            raise PredictionError(
                f"the {what}'s SEV metadata has a section of type {section.name}, and how a VMM measures that is "
                f"not known; known are {', '.join(f'0x{kind:x}' for kind in SectionType)}"
            )
        if section.type == SectionType.CPUID and section.size != PAGE_SIZE:
            raise PredictionError(
                f"the {what}'s CPUID section has 0x{section.size:x} bytes; expected one page"
            )
    _check_overlaps(used, {image.address: image, firmware.address: firmware}, what)
    return used


def _check_overlaps(used: list[Section], images: dict[int, LaunchImage], what: str) -> None:
    total = sum(section.size for section in used)
    if total > MAX_METADATA_SIZE:
        raise PredictionError(
            f"the {what}'s SEV metadata covers {total} bytes; the limit is {MAX_METADATA_SIZE}"
        )
    spans = [(section.address, section.address + section.size, section.name) for section in used]
    spans += [(image.address, image.end, "the loaded file") for image in images.values()]
    spans.sort()
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise PredictionError(
                f"the {what}'s SEV metadata adds 0x{start:x} twice: {first} and {second} overlap"
            )
    if spans[-1][1] > END_OF_FIRMWARE:
        raise PredictionError(f"the {what}'s SEV metadata reaches 0x{spans[-1][1]:x}; expected at most 4 GiB")


def _prepared(section: Section, image: LaunchImage, launch: Launch) -> Region:
    data = None
    match section.type:
        case SectionType.SNP_SEC_MEM:
            kind = PageType.UNMEASURED if launch.vmm is Vmm.GCE else PageType.ZERO
        case SectionType.SNP_SECRETS:
            kind = PageType.SECRETS
        case SectionType.CPUID:
            kind = PageType.CPUID
        case SectionType.KERNEL_HASHES if launch.kernel is not None:
            assert image.hash_table is not None
            kind = PageType.NORMAL
            data = (bytes(image.hash_table % PAGE_SIZE) + launch.kernel.table()).ljust(section.size, b"\0")
        case _:  # a calling area, or room for hashes that nobody gives
            kind = PageType.ZERO
    return Region(
        type=kind,
        address=section.address,
        size=section.size,
        data=data,
        cause="kernel hashes" if data else f"metadata {section.name}",
    )


def _file(image: LaunchImage, cause: str) -> Region:
    return Region(
        type=PageType.NORMAL, address=image.address, size=len(image.data), data=image.data, cause=cause
    )
