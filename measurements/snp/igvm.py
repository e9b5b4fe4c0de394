"""The SEV-SNP launch digest that follows from an IGVM file.

Follows the headers in their order, as coconut-svsm igvmmeasure and microsoft/igvm igvm/src/measurement/snp.rs do.
Two loaders differ: a page without data is a page of zeros by the format's specification, and a page of type ZERO under
QEMU, which also adds shared pages like others (backends/igvm.c qigvm_type_to_cgs_type).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from measurements.errors import PredictionError
from measurements.formats.igvm import IgvmFile
from measurements.formats.igvmheaders import (
    Other,
    PageData,
    PageKind,
    ParameterArea,
    ParameterInsert,
    Platform,
    VpContext,
    platform_name,
)
from measurements.snp.pages import PAGE_SIZE, PageType, Region
from measurements.snp.vmsa import VMSA_ADDRESS

#: 2 GiB; real files measure 10 to 200 MiB.
MAX_PAGES: Final = 1 << 19

_CR0_OFFSET = 0x158
#: KVM sets CR0.ET and CR0.NE of what it measures; the file must say the same.
_KVM_CR0 = (0x30, 0x31)


class Loader(StrEnum):
    """Who reads the file."""

    SPECIFICATION = "specification"
    QEMU = "qemu"


def compatibility_mask(file: IgvmFile) -> int:
    """Return the bit by which headers name SEV-SNP.

    Raises:
        PredictionError: the file is not for SEV-SNP, or names it twice.
    """
    masks = [item.mask for item in file.platforms() if item.platform == Platform.SEV_SNP]
    if len(masks) != 1:
        found = ", ".join(platform_name(item.platform) for item in file.platforms()) or "none"
        raise PredictionError(
            f"the IGVM file names SEV-SNP {len(masks)} times among its platforms ({found}); expected once"
        )
    return masks[0]


def regions(file: IgvmFile, loader: Loader = Loader.SPECIFICATION) -> Iterator[Region]:
    """Yield what the loader adds to a guest, in the order of the file.

    Raises:
        PredictionError: the file is not for SEV-SNP, holds a header or page of a type that is not known, refers to
            a parameter area that is not there, or (QEMU) has vCPU state that KVM would not start.
    """
    mask, areas, pages = compatibility_mask(file), dict[int, int](), 0
    contexts: list[VpContext] = []
    for header in file.headers:
        region = None
        match header:
            case ParameterArea():
                areas[header.index] = header.size
            # QEMU knows no shared pages and adds them like others.
            case PageData() if header.mask & mask and (loader is Loader.QEMU or not header.shared):
                region = _page(header, loader)
            case ParameterInsert() if header.mask & mask:
                # Inserted once: the index becomes invalid with it.
                size = areas.pop(header.index, None)
                if size is None:
                    raise PredictionError(
                        f"the IGVM file inserts parameter area {header.index}, which it does not have (any more)"
                    )
                region = Region(
                    type=PageType.UNMEASURED,
                    address=header.address,
                    size=size,
                    cause=f"parameter area {header.index}",
                )
            case VpContext() if header.mask & mask:
                contexts.append(header)
                region = Region(
                    type=PageType.VMSA,
                    address=header.address,
                    size=PAGE_SIZE,
                    data=header.data,
                    cause=f"vCPU {header.index + 1}",
                )
            case Other() if not header.known and not header.ignorable:
                raise PredictionError(
                    f"the IGVM file has a header of type 0x{header.type:x}, which is not known here and says that "
                    "a loader must not leave it out"
                )
        if region is None:
            continue
        pages += region.pages
        if pages > MAX_PAGES:
            raise PredictionError(f"the IGVM file adds more than {MAX_PAGES} pages, the limit here")
        if loader is Loader.QEMU:
            _check_kvm(contexts, region)
        yield region
    if not contexts:
        raise PredictionError("the IGVM file holds no vCPU state for SEV-SNP: nothing would start")


def _page(page: PageData, loader: Loader) -> Region:
    match page.kind:
        case PageKind.SECRETS:
            kind = PageType.SECRETS
        case PageKind.CPUID_DATA | PageKind.CPUID_XF:
            kind = PageType.CPUID
        case PageKind.NORMAL if page.unmeasured:
            kind = PageType.UNMEASURED
        case PageKind.NORMAL if page.data is None and loader is Loader.QEMU:
            kind = PageType.ZERO
        case PageKind.NORMAL:
            kind = PageType.NORMAL
        case _:
            raise PredictionError(
                f"the IGVM file's page at 0x{page.address:x} is of type {page.kind}; known are 0 to 3"
            )
    data = None
    if kind is PageType.NORMAL:
        data = memoryview(bytes(page.size)) if page.data is None else page.data
    return Region(
        type=kind,
        address=page.address,
        size=page.size,
        data=data,
        cause="page" if page.data is not None else "page without data",
    )


def _check_kvm(contexts: list[VpContext], region: Region) -> None:
    """Raise PredictionError where KVM would measure another VMSA than the file's, or at another time."""
    if not contexts:
        return
    context = contexts[-1]
    if len(contexts) > 1:
        raise PredictionError(
            "the IGVM file holds the state of several vCPUs; KVM takes that of the first only"
        )
    if region.type is not PageType.VMSA:
        raise PredictionError(
            f"the IGVM file adds 0x{region.address:x} behind the vCPU's state; KVM measures that last of all"
        )
    if context.address != VMSA_ADDRESS:
        raise PredictionError(
            f"the IGVM file places the vCPU's state at 0x{context.address:x}; KVM measures it at 0x{VMSA_ADDRESS:x}"
        )
    (cr0,) = struct.unpack_from("<Q", context.data, _CR0_OFFSET)
    if cr0 not in _KVM_CR0:
        raise PredictionError(
            f"the IGVM file's vCPU starts with CR0 0x{cr0:x}; KVM makes it 0x30 or 0x31 before it measures"
        )
