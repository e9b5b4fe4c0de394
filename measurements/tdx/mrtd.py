"""MRTD: the pages of the firmware that the VMM adds while it builds the trust domain.

Intel TDX Module Base Architecture Specification (348549), "Measurement and Attestation", MRTD; leaf functions
TDH.MEM.PAGE.ADD and TDH.MR.EXTEND of the ABI specification (348551). MRTD is one SHA-384 over everything that
these two put into it. Nothing but the firmware file decides it: not memory size, vCPUs or devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from measurements.errors import NotPredictableError
from measurements.events import Digest, HashAlgorithm
from measurements.formats.tdvf import PAGE_SIZE, Section, SectionAttribute, SectionType, Tdvf

_BUFFER_SIZE = 128
_CHUNK_SIZE = 256
BANK: Final = HashAlgorithm.SHA384
_PAGE_ADD: Final = b"MEM.PAGE.ADD"
_MR_EXTEND: Final = b"MR.EXTEND"


class PageOrder(StrEnum):
    """In which order a VMM adds the pages of one section and measures their contents."""

    ONE_PASS = "one_pass"  # each page is added, then measured: QEMU since 9, GCE
    TWO_PASS = "two_pass"  # all pages of a section are added, then all are measured: QEMU 8 with TDX patches


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStep:
    """One page that goes into MRTD.

    Attributes:
        section: index in the metadata.
        type: of the section.
        address: guest-physical address of the page.
        added: whether this step adds the page.
        extended: whether this step measures its contents.
        value: MRTD as it would be if the build ended here.
    """

    section: int
    type: SectionType
    address: int
    added: bool
    extended: bool
    value: Digest


def measure(tdvf: Tdvf, order: PageOrder) -> Digest:
    """Return MRTD (SHA-384).

    Raises:
        NotPredictableError: the metadata ask for a measurement of what the VMM writes.
    """
    state = hashlib.sha384(usedforsecurity=False)
    for _, section, page, add, extend in _pages(tdvf, order):
        state.update(_stream(section, page, add=add, extend=extend))
    return Digest(BANK, state.digest())


def explain(tdvf: Tdvf, order: PageOrder) -> Iterator[PageStep]:
    """Yield every page in the order in which it is measured; the last step's value is MRTD.

    Raises:
        NotPredictableError: as ``measure``.
    """
    state = hashlib.sha384(usedforsecurity=False)
    for index, section, page, add, extend in _pages(tdvf, order):
        state.update(_stream(section, page, add=add, extend=extend))
        yield PageStep(
            section=index,
            type=section.type,
            address=section.address + page,
            added=add,
            extended=extend,
            value=Digest(BANK, state.digest()),
        )


def _pages(tdvf: Tdvf, order: PageOrder) -> Iterator[tuple[int, Section, int, bool, bool]]:
    """Yield (section index, section, offset of the page, added, extended)."""
    for index, section in enumerate(tdvf.sections):
        extend = SectionAttribute.MR_EXTEND in section.attributes
        add = SectionAttribute.PAGE_AUG not in section.attributes
        if extend and section.type is SectionType.TD_HOB:
            raise NotPredictableError(
                "not predictable: the firmware's metadata measure the TD HOB into MRTD, so MRTD would depend on "
                "the machine's memory"
            )
        if extend and not add:
            raise NotPredictableError(
                f"not predictable: the metadata measure the {section.type.title} section at "
                f"0x{section.address:x} and add its pages only after MRTD is final"
            )
        pages = range(0, section.size, PAGE_SIZE)
        # order is the specification
        if order is PageOrder.TWO_PASS and extend:
            yield from ((index, section, page, True, False) for page in pages)
            yield from ((index, section, page, False, True) for page in pages)
        elif add:
            yield from ((index, section, page, True, extend) for page in pages)


def _stream(section: Section, page: int, *, add: bool, extend: bool) -> bytes:
    """Return what one page contributes to the SHA-384."""
    address = section.address + page
    parts = [_buffer(_PAGE_ADD, address)] if add else []
    if extend:
        content = bytes(section.data[page : page + PAGE_SIZE]) or bytes(PAGE_SIZE)
        for chunk in range(0, PAGE_SIZE, _CHUNK_SIZE):
            parts += (_buffer(_MR_EXTEND, address + chunk), content[chunk : chunk + _CHUNK_SIZE])
    return b"".join(parts)


def _buffer(name: bytes, address: int) -> bytes:
    # TDH.MEM.PAGE.ADD, TDH.MR.EXTEND: leaf function's name at 0, guest-physical address at 16, zeros.
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(_BUFFER_SIZE, b"\0")
