"""The TD HOB: the list of memory ranges that the VMM hands to the firmware, the first event of RTMR0.

Structures: UEFI Platform Initialization Specification 1.8, volume 3, 5.2 (PHIT HOB) and 5.4 (resource descriptor
HOB). Which ranges there are is the VMM's choice: QEMU target/i386/kvm/tdx.c and hw/i386/tdvf-hob.c; for Google
Compute Engine as google/gce-tcb-verifier reconstructs it (ovmf/, tdx/). The firmware hashes the list without the
end-of-list HOB (edk2 OvmfPkg/Library/TdxHelperLib, TdxHelperMeasureTdHob).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from measurements.errors import NotPredictableError
from measurements.formats.tdvf import SectionType, Tdvf

GIB: Final = 1 << 30
MAX_MEMORY: Final = 1 << 46

_HANDOFF, _RESOURCE = 1, 3
_HANDOFF_VERSION = 9
_HANDOFF_SIZE, _RESOURCE_SIZE, _END_SIZE = 56, 48, 8
_SYSTEM_MEMORY, _UNACCEPTED = 0, 7
#: Present, initialized, tested.
_ATTRIBUTES = 0x7
#: The same and encrypted, with which GCE marks memory that is not accepted yet.
_GCE_UNACCEPTED_ATTRIBUTES = 0x10000007

_FOUR_GIB = 4 * GIB
#: q35 hw/i386/pc_q35.c: memory below 4 GiB is cut to 2 GiB once there is 2.75 GiB or more.
_LOW_LIMIT, _LOW_SIZE = 0xB0000000, 0x80000000

#: GCE keeps 3 GiB below 4 GiB, and at most this much on one NUMA node (gce-tcb-verifier regionsForShape).
_GCE_LOW_SIZE, _GCE_NODE_SIZE = 3 * GIB, 176 * GIB

_Range = tuple[int, int, int, int]  # resource type, attributes, start, end


class Vmm(StrEnum):
    """Who builds the trust domain."""

    QEMU = "qemu"
    GCE = "gce"


def build(tdvf: Tdvf, memory: int, vmm: Vmm) -> bytes:
    """Return the measured part of the TD HOB.

    Args:
        tdvf: the firmware's metadata.
        memory: guest RAM in bytes.
        vmm: whose layout.

    Raises:
        FormatError: the metadata have not one TD_HOB section.
        NotPredictableError: the memory does not hold the sections that the firmware wants in it, or is of a size
            whose layout is not known.
    """
    address = tdvf.only(SectionType.TD_HOB).address
    if not 0 < memory <= MAX_MEMORY:
        raise NotPredictableError(
            f"not predictable: a machine with {memory} bytes of memory; expected 1 to {MAX_MEMORY}"
        )
    ranges = _qemu_ranges(tdvf, memory) if vmm is Vmm.QEMU else _gce_ranges(tdvf, memory)
    body = b"".join(_resource(*each) for each in ranges)
    end = address + _HANDOFF_SIZE + len(body)
    # QEMU lets the list end behind the end-of-list HOB, GCE in front of it.
    return _handoff(end + _END_SIZE if vmm is Vmm.QEMU else end) + body


def _qemu_ranges(tdvf: Tdvf, memory: int) -> list[_Range]:
    # tdx.c tdx_init_ram_entries, tdx_accept_ram_range: the sections split the memory below 4 GiB.
    low = _LOW_SIZE if memory >= _LOW_LIMIT else memory
    ranges: list[_Range] = [(_UNACCEPTED, _ATTRIBUTES, 0, low)]
    if memory > low:
        ranges.append((_UNACCEPTED, _ATTRIBUTES, _FOUR_GIB, _FOUR_GIB + memory - low))
    for section in tdvf.sections:
        if section.type not in (SectionType.TD_HOB, SectionType.TEMP_MEM):
            continue
        for index, (kind, _, start, end) in enumerate(ranges):
            if kind == _UNACCEPTED and start <= section.address and section.end <= end:
                pieces = (
                    (_UNACCEPTED, _ATTRIBUTES, start, section.address),
                    (_SYSTEM_MEMORY, _ATTRIBUTES, section.address, section.end),
                    (_UNACCEPTED, _ATTRIBUTES, section.end, end),
                )
                ranges[index : index + 1] = [piece for piece in pieces if piece[2] < piece[3]]
                break
        else:
            raise _no_room(section.type, section.address, memory)
    return ranges


def _gce_ranges(tdvf: Tdvf, memory: int) -> list[_Range]:
    # Every section first, in the order of the metadata, then what is left of the memory.
    ranges: list[_Range] = [
        (_SYSTEM_MEMORY, _ATTRIBUTES, section.address, section.end) for section in tdvf.sections
    ]
    banks = _gce_banks(memory)
    for section in tdvf.sections:
        in_memory = any(start <= section.address and section.end <= end for start, end in banks)
        if section.type in (SectionType.TD_HOB, SectionType.TEMP_MEM) and not in_memory:
            raise _no_room(section.type, section.address, memory)
    private = sorted((section.address, section.end) for section in tdvf.sections)
    for start, end in banks:
        ranges += (
            (_UNACCEPTED, _GCE_UNACCEPTED_ATTRIBUTES, low, high)
            for low, high in _without(start, end, private)
        )
    return ranges


def _gce_banks(memory: int) -> list[tuple[int, int]]:
    nodes = -(-memory // _GCE_NODE_SIZE)
    if memory <= _GCE_LOW_SIZE or (nodes > 1 and memory % _GCE_NODE_SIZE):
        raise NotPredictableError(
            f"not predictable: how Compute Engine lays out {memory // GIB} GiB is not known; expected more than "
            "3 and at most 176 GiB, or a multiple of 176 GiB (C3 machines)"
        )
    banks = [(0, _GCE_LOW_SIZE)]
    start, left = _FOUR_GIB, memory
    for node in range(nodes):
        size = min(left, _GCE_NODE_SIZE)
        left -= size
        size -= _GCE_LOW_SIZE if node == 0 else 0
        banks.append((start, start + size))
        start += size
    return banks


def _without(start: int, end: int, holes: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in holes:
        if high <= start or low >= end:
            continue
        if start < low:
            yield start, low
        start = high
    if start < end:
        yield start, end


def _no_room(kind: SectionType, address: int, memory: int) -> NotPredictableError:
    return NotPredictableError(
        f"not predictable: {memory >> 20} MiB of memory do not hold the firmware's {kind.title} section at "
        f"0x{address:x}; give the machine more"
    )


def _handoff(end_of_list: int) -> bytes:
    return struct.pack(
        "<HHIIIQQQQQ", _HANDOFF, _HANDOFF_SIZE, 0, _HANDOFF_VERSION, 0, 0, 0, 0, 0, end_of_list
    )


def _resource(kind: int, attributes: int, start: int, end: int) -> bytes:
    return struct.pack(
        "<HHI16sIIQQ", _RESOURCE, _RESOURCE_SIZE, 0, bytes(16), kind, attributes, start, end - start
    )
