"""SEV_FEATURES of the VMSA, by name (AMD64 Architecture Programmer's Manual, volume 2, table B-4)."""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class SevFeatures(IntFlag):
    """What the VMM switches on for a guest's vCPUs; part of every measured VMSA."""

    SNP_ACTIVE = 1 << 0
    VIRTUAL_TOM = 1 << 1
    REFLECT_VC = 1 << 2
    RESTRICTED_INJECTION = 1 << 3
    ALTERNATE_INJECTION = 1 << 4
    DEBUG_SWAP = 1 << 5
    PREVENT_HOST_IBS = 1 << 6
    BTB_ISOLATION = 1 << 7
    VMPL_SSS = 1 << 8
    SECURE_TSC = 1 << 9
    VMGEXIT_PARAMETER = 1 << 10
    PMC_VIRTUALIZATION = 1 << 11
    IBS_VIRTUALIZATION = 1 << 12
    VMSA_REGISTER_PROTECTION = 1 << 14
    SMT_PROTECTION = 1 << 15
    SECURE_AVIC = 1 << 16


#: KVM's since Linux 6.10; 6.6 to 6.9 add DEBUG_SWAP where the CPU has it.
DEFAULT: Final = SevFeatures.SNP_ACTIVE
MAX_FEATURES: Final = (1 << 64) - 1


def names(value: int) -> tuple[str, ...]:
    """Return the names of the bits set, lowest first (``snp-active``); ``bit-17`` for one without a name."""
    result = []
    for bit in range(value.bit_length()):
        if value >> bit & 1:
            name = SevFeatures(1 << bit).name
            result.append(name.lower().replace("_", "-") if name else f"bit-{bit}")
    return tuple(result)
