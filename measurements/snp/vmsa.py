"""The save area that each vCPU starts from, as every VMM fills it: one measured page per vCPU.

Offsets are those of the AMD64 Architecture Programmer's Manual, volume 2, table B-4 (VMSA layout). What a VMM writes
is a table with its source.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from measurements.snp.pages import PAGE_SIZE

#: Where the first vCPU starts: the x86 reset vector.
RESET_VECTOR: Final = 0xFFFFFFF0
#: The address under which a VMSA is measured: KVM arch/x86/kvm/svm/sev.c INITIAL_VMSA_GPA. Google's hypervisor
#: asks for -1, which the firmware cuts to the CPU's address width: the same on Milan (48 bits), 0xFFFFFFFFFF000
#: on Genoa (52 bits; google/gce-tcb-verifier sev/measurement.go ProductHighAddress).
VMSA_ADDRESS: Final = 0xFFFFFFFFF000

_SEGMENTS: Mapping[str, int] = MappingProxyType(
    {
        "es": 0x000, "cs": 0x010, "ss": 0x020, "ds": 0x030, "fs": 0x040, "gs": 0x050, "gdtr": 0x060,
        "ldtr": 0x070, "idtr": 0x080, "tr": 0x090,
    }
)  # fmt: skip
_QWORDS: Mapping[str, int] = MappingProxyType(
    {
        "efer": 0x0D0, "cr4": 0x148, "cr0": 0x158, "dr7": 0x160, "dr6": 0x168, "rflags": 0x170, "rip": 0x178,
        "g_pat": 0x268, "rdx": 0x310, "sev_features": 0x3B0, "xcr0": 0x3E8,
    }
)  # fmt: skip
_MXCSR = 0x408
_X87_FCW = 0x410


class Vmm(StrEnum):
    """Who starts the guest."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    selector: int = 0
    attributes: int = 0
    limit: int = 0xFFFF
    base: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What differs between VMMs.

    Attributes:
        boot_cs: attributes of CS at the reset vector.
        cs, ss, tr: attributes elsewhere.
        g_pat: the page attribute table.
        rdx: ``None`` for the CPU signature.
        mxcsr, x87_fcw: floating point control; zero where the VMM leaves the area out of the measured page.
    """

    boot_cs: int = 0x9B
    cs: int = 0x9B
    ss: int = 0x93
    tr: int = 0x8B
    g_pat: int = 0x0007040600070406
    rdx: int | None = None
    mxcsr: int = 0
    x87_fcw: int = 0


#: QEMU: KVM since Linux 6.10, which copies the floating point area into the page. EC2, GCE: virtee/sev-snp-measure
#: 0.0.13 vmsa.py; GCE also google/gce-tcb-verifier sev/ld_from_ovmf.go.
_STATES: Mapping[Vmm, _State] = MappingProxyType(
    {
        Vmm.QEMU: _State(mxcsr=0x1F80, x87_fcw=0x37F),
        Vmm.EC2: _State(boot_cs=0x9A, ss=0x92, tr=0x83, rdx=0x600),
        Vmm.GCE: _State(g_pat=0x00070106, rdx=0x600),
    }
)


_COMMON = {
    "efer": 0x1000,  # KVM: EFER.SVME
    "cr4": 0x40,  # KVM: CR4.MCE
    "dr7": 0x400,
    "dr6": 0xFFFF0FF0,
    "rflags": 0x2,
    "xcr0": 0x1,
}


def needs_signature(vmm: Vmm) -> bool:
    """Whether the CPU's signature is part of this VMM's VMSA."""
    return _STATES[vmm].rdx is None


def reset_page(vmm: Vmm, *, start: int, signature: int, features: int) -> bytes:
    """Return the VMSA of a vCPU that starts in real mode: OVMF's.

    Args:
        vmm: who starts the guest.
        start: physical start address: ``RESET_VECTOR``, or the reset block's for every vCPU but the first.
        signature: CPUID Fn0000_0001_EAX; without effect where ``needs_signature`` says no.
        features: SEV_FEATURES.
    """
    state = _STATES[vmm]
    code = _Segment(
        selector=0xF000,
        attributes=state.boot_cs if start == RESET_VECTOR else state.cs,
        base=start & 0xFFFF0000,
    )
    segments = dict.fromkeys(("es", "ds", "fs", "gs"), _Segment(attributes=0x93)) | {
        "cs": code,
        "ss": _Segment(attributes=state.ss),
        "gdtr": _Segment(),
        "idtr": _Segment(),
        "ldtr": _Segment(attributes=0x82),
        "tr": _Segment(attributes=state.tr),
    }
    registers = {
        "cr0": 0x10,
        "rip": start & 0xFFFF,
        "g_pat": state.g_pat,
        "rdx": signature if state.rdx is None else state.rdx,
        "sev_features": features,
    }
    return _page(segments, registers, state)


def svsm_page(*, start: int, signature: int, features: int) -> bytes:
    """Return the VMSA of a vCPU that starts in flat protected mode: an SVSM's under QEMU."""
    state = _STATES[Vmm.QEMU]
    data = _Segment(selector=0x10, attributes=0xC93, limit=0xFFFFFFFF)
    segments = dict.fromkeys(("es", "ss", "ds", "fs"), data) | {
        "cs": _Segment(selector=0x8, attributes=0xC9B, limit=0xFFFFFFFF),
        "gs": _Segment(attributes=0x93),
        "gdtr": _Segment(),
        "idtr": _Segment(),
        "ldtr": _Segment(attributes=0x82),
        "tr": _Segment(attributes=0x8B),
    }
    registers = {
        "cr0": 0x11,
        "rip": start,
        "g_pat": state.g_pat,
        "rdx": signature,
        "sev_features": features,
    }
    return _page(segments, registers, state)


def _page(segments: Mapping[str, _Segment], registers: Mapping[str, int], state: _State) -> bytes:
    page = bytearray(PAGE_SIZE)
    for name, segment in segments.items():
        struct.pack_into(
            "<HHIQ", page, _SEGMENTS[name], segment.selector, segment.attributes, segment.limit, segment.base
        )
    for name, value in (*_COMMON.items(), *registers.items()):
        struct.pack_into("<Q", page, _QWORDS[name], value)
    struct.pack_into("<I", page, _MXCSR, state.mxcsr)
    struct.pack_into("<H", page, _X87_FCW, state.x87_fcw)
    return bytes(page)
