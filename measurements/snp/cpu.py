"""CPU signatures: what CPUID Fn0000_0001_EAX shows, which QEMU puts into RDX of every measured VMSA.

It is the signature of the model that ``-cpu`` names, not the host's; with ``-cpu host`` it is the host's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

MAX_SIGNATURE: Final = 0xFFFFFFFF


def signature(*, family: int, model: int, stepping: int) -> int:
    """Compose the signature (AMD 25481, CPUID Specification, Fn0000_0001_EAX).

    Args:
        family: 0 to 0x10e.
        model: 0 to 0xff.
        stepping: 0 to 0xf.
    """
    base, extended = min(family, 0xF), max(family - 0xF, 0)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


_NAPLES = signature(family=0x17, model=0x01, stepping=2)
_ROME = signature(family=0x17, model=0x31, stepping=0)
_MILAN = signature(family=0x19, model=0x01, stepping=1)
_GENOA = signature(family=0x19, model=0x11, stepping=0)
_TURIN = signature(family=0x1A, model=0x00, stepping=0)

#: Model of QEMU's ``-cpu`` -> signature. Source: QEMU target/i386/cpu.c, builtin_x86_defs, of 10.0; the last version of
#: each model, and EPYC-Turin, come with 10.1. No version of a model changes its signature.
MODELS: Final = MappingProxyType(
    {"EPYC": _NAPLES}
    | {f"EPYC-v{version}": _NAPLES for version in range(1, 6)}
    | {"EPYC-IBPB": _NAPLES, "EPYC-Rome": _ROME}
    | {f"EPYC-Rome-v{version}": _ROME for version in range(1, 6)}
    | {"EPYC-Milan": _MILAN}
    | {f"EPYC-Milan-v{version}": _MILAN for version in range(1, 4)}
    | {"EPYC-Genoa": _GENOA, "EPYC-Genoa-v1": _GENOA, "EPYC-Genoa-v2": _GENOA}
    | {"EPYC-Turin": _TURIN, "EPYC-Turin-v1": _TURIN}
)
