"""Which launch an unexpected SEV-SNP digest belongs to: the declared one that differs in the fewest options.

A digest tells nothing by itself, but another number of vCPUs, CPU model, SEV_FEATURES, host kernel, or kernel hashes
left out can be tried: what is found is proven, because no other pages have this digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from measurements.golden import SevSnpReference
from measurements.golden.sev_snp import Step
from measurements.snp import cpu, features, vmsa
from measurements.snp.pages import PageType, extend_page
from measurements.snp.vmsa import RESET_VECTOR, Vmm

#: vCPU counts that are tried.
MAX_VCPUS: Final = 512
#: Firmware builds and boot paths that are tried; further ones of a document are not.
MAX_BASES: Final = 16
#: Where OVMF starts every vCPU but the first (its SEV-ES reset block): the same in every build of edk2 that is known.
_AP_START: Final = 0x80B004
_KERNEL_HASHES = "kernel hashes"
#: Offsets of MXCSR and the x87 control word, which hosts before Linux 6.10 leave out of the measured page.
_FPU = (slice(0x408, 0x40C), slice(0x410, 0x412))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """A declared launch, and what was done otherwise.

    Attributes:
        reference: the declared launch.
        differences: what differs, in words.
    """

    reference: SevSnpReference
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return f"it is {self.reference.name} but for {', '.join(self.differences)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What a host chose; the defaults are those of a host kernel since Linux 6.10."""

    hashes: bool = True
    signature: int | None
    features: int
    fpu: bool = True
    vcpus: int


def nearest(measured: bytes, references: Iterable[SevSnpReference]) -> Nearest | None:
    """Return the declared launch nearest to a digest of 48 bytes, or ``None`` where no option explains it."""
    families: dict[tuple[object, ...], list[SevSnpReference]] = {}
    for reference in references:
        key = (reference.firmware, reference.vmm, reference.loaded, _before_vcpus(reference))
        families.setdefault(key, []).append(reference)
    for members in [*families.values()][:MAX_BASES]:
        options = _find(measured, members)
        if options is not None:
            return min(
                (Nearest(reference=item, differences=tuple(_differences(item, options))) for item in members),
                key=lambda found: (len(found.differences), abs(found.reference.vcpus - options.vcpus)),
            )
    return None


def _find(measured: bytes, members: list[SevSnpReference]) -> _Options | None:
    first = members[0]
    vcpu = next((step for step in first.steps if step.type is PageType.VMSA), None)
    if vcpu is None or any(step.type is PageType.VMSA for step in _before_vcpus(first)):
        return None
    for hashes, start in _starts(first):
        for signature in _signatures(first.vmm, members):
            for wanted in dict.fromkeys((*(item.features for item in members), features.DEFAULT, 0x21)):
                for fpu in (True, False) if first.vmm is Vmm.QEMU else (True,):
                    count = _vcpus(measured, start, vcpu.address, first.vmm, signature or 0, wanted, fpu=fpu)
                    if count is not None:
                        return _Options(
                            hashes=hashes, signature=signature, features=wanted, fpu=fpu, vcpus=count
                        )
    return None


def _before_vcpus(reference: SevSnpReference) -> tuple[Step, ...]:
    """Return the pages that are added before the first vCPU."""
    steps = reference.steps
    last = next((at for at, step in enumerate(steps) if step.type is PageType.VMSA), len(steps))
    return steps[:last]


def _starts(reference: SevSnpReference) -> Iterator[tuple[bool, bytes]]:
    """Yield the digest before the first vCPU, as declared and with the kernel hashes left out."""
    steps = _before_vcpus(reference)
    yield True, _fold(reference.loaded, steps, hashes=True)
    if any(step.cause == _KERNEL_HASHES for step in steps):
        yield False, _fold(reference.loaded, steps, hashes=False)


def _fold(digest: bytes, steps: Iterable[Step], *, hashes: bool) -> bytes:
    for step in steps:
        omitted = not hashes and step.cause == _KERNEL_HASHES
        for number in range(step.pages * step.times):
            digest = extend_page(
                digest,
                type=PageType.ZERO if omitted else step.type,
                address=step.address + number % step.pages * 4096,
                contents=None if omitted else step.contents,
            )
    return digest


def _signatures(vmm: Vmm, members: list[SevSnpReference]) -> tuple[int | None, ...]:
    if not vmsa.needs_signature(vmm):
        return (None,)
    return tuple(dict.fromkeys((*(item.signature for item in members), *cpu.MODELS.values())))


def _vcpus(
    measured: bytes, digest: bytes, address: int, vmm: Vmm, signature: int, wanted: int, *, fpu: bool
) -> int | None:
    """Return the number of vCPUs with which the digest is the measured one."""
    contents = [
        _contents(vmm, start=start, signature=signature, wanted=wanted, fpu=fpu)
        for start in (RESET_VECTOR, _AP_START)
    ]
    for count in range(1, MAX_VCPUS + 1):
        digest = extend_page(
            digest, type=PageType.VMSA, address=address, contents=contents[0 if count == 1 else 1]
        )
        if digest == measured:
            return count
    return None


def _contents(vmm: Vmm, *, start: int, signature: int, wanted: int, fpu: bool) -> bytes:
    page = bytearray(vmsa.reset_page(vmm, start=start, signature=signature, features=wanted))
    if not fpu:
        for part in _FPU:
            page[part] = bytes(part.stop - part.start)
    return hashlib.sha384(page).digest()


def _differences(reference: SevSnpReference, options: _Options) -> Iterator[str]:
    if not options.hashes:
        yield "the kernel hashes, which the host left out: it may start any kernel"
    if options.vcpus != reference.vcpus:
        yield f"{options.vcpus} vCPUs in place of {reference.vcpus}"
    if options.signature != reference.signature:
        yield f"a CPU model like {_model(options.signature)} in place of {reference.cpu}"
    if options.features != reference.features:
        yield f"SEV_FEATURES 0x{options.features:x} in place of 0x{reference.features:x}"
    if not options.fpu:
        yield "the host's kernel, which is older than Linux 6.10"


def _model(signature: int | None) -> str:
    return next((name for name, value in cpu.MODELS.items() if value == signature), "none")
