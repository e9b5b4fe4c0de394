"""The guest policy, bit by bit, by name (AMD 56860, SEV-SNP Firmware ABI, 4.3, table 9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from measurements.errors import FormatError

_ALWAYS_ONE: Final = 1 << 17
_KNOWN_BITS: Final = (1 << 26) - 1

_BITS: Final = {
    "smt_allowed": 16,
    "migration_agent_allowed": 18,
    "debug_allowed": 19,
    "single_socket_required": 20,
    "cxl_allowed": 21,
    "aes_256_xts_required": 22,
    "rapl_disabled_required": 23,
    "ciphertext_hiding_required": 24,
    "page_swap_disabled": 25,
}

_PERMISSIONS: Final = ("smt_allowed", "migration_agent_allowed", "debug_allowed", "cxl_allowed")
_DEMANDS: Final = tuple(name for name in _BITS if name not in _PERMISSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPolicy:
    """What the owner of a guest lets a host do, and what it demands; the firmware refuses a launch that differs.

    Attributes:
        abi_major: lowest major version of the firmware's ABI, 0 to 255.
        abi_minor: lowest minor version, 0 to 255.
        smt_allowed: the host may have simultaneous multithreading on.
        migration_agent_allowed: the guest may be bound to a migration agent.
        debug_allowed: the host may read and write the guest's memory and registers.
        single_socket_required: the guest runs on one socket only.
        cxl_allowed: memory may lie behind CXL.
        aes_256_xts_required: memory is encrypted with AES-256-XTS, nothing weaker.
        rapl_disabled_required: the host has its power meter (RAPL) off.
        ciphertext_hiding_required: the host cannot read the guest's ciphertext in DRAM.
        page_swap_disabled: the host may neither swap nor move the guest's pages.
    """

    abi_major: int = 0
    abi_minor: int = 0
    smt_allowed: bool = True
    migration_agent_allowed: bool = False
    debug_allowed: bool = False
    single_socket_required: bool = False
    cxl_allowed: bool = False
    aes_256_xts_required: bool = False
    rapl_disabled_required: bool = False
    ciphertext_hiding_required: bool = False
    page_swap_disabled: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.abi_major <= 0xFF and 0 <= self.abi_minor <= 0xFF):
            raise FormatError(f"guest policy: ABI {self.abi_major}.{self.abi_minor}; expected 0 to 255 each")

    @classmethod
    def parse(cls, value: int) -> GuestPolicy:
        """Read POLICY, 64 bits.

        Raises:
            FormatError: bit 17, which is always one, is zero, or a reserved bit is set.
        """
        if not value & _ALWAYS_ONE:
            raise FormatError(f"guest policy 0x{value:x}: bit 17 is zero; it is reserved and always one")
        if not 0 <= value <= _KNOWN_BITS:
            raise FormatError(f"guest policy 0x{value:x}: a reserved bit of 26 to 63 is set")
        flags = {name: bool(value >> bit & 1) for name, bit in _BITS.items()}
        return cls(abi_major=value >> 8 & 0xFF, abi_minor=value & 0xFF, **flags)

    @classmethod
    def of(cls, names: Iterable[str], *, abi_major: int = 0, abi_minor: int = 0) -> GuestPolicy:
        """Return the policy in which these bits are set and no other; ``-`` may stand for ``_``.

        Raises:
            FormatError: a name is not one of ``FLAGS``, or the ABI version does not fit.
        """
        wanted = {name.replace("-", "_") for name in names}
        unknown = wanted - set(FLAGS)
        if unknown:
            raise FormatError(
                f"guest policy: {', '.join(sorted(unknown))} not known; known are {', '.join(FLAGS)}"
            )
        return cls(abi_major=abi_major, abi_minor=abi_minor, **{name: name in wanted for name in FLAGS})

    @property
    def value(self) -> int:
        """POLICY as a number; 0x30000 when only SMT is allowed."""
        bits = sum(1 << bit for name, bit in _BITS.items() if getattr(self, name))
        return _ALWAYS_ONE | bits | self.abi_major << 8 | self.abi_minor

    def weaker_than(self, floor: GuestPolicy) -> tuple[str, ...]:
        """Return in which respects this policy lets a host do more, or demands less, than ``floor``."""
        found = [name for name in _PERMISSIONS if getattr(self, name) and not getattr(floor, name)]
        found += [name for name in _DEMANDS if getattr(floor, name) and not getattr(self, name)]
        if (self.abi_major, self.abi_minor) < (floor.abi_major, floor.abi_minor):
            found.append("abi")
        return tuple(found)

    def to_json(self) -> dict[str, int | bool | str]:
        """Return every part by name, and the number as hexadecimal text."""
        return {"value": f"0x{self.value:x}"} | {item.name: getattr(self, item.name) for item in fields(self)}


#: The names of the bits that a command line may set or clear.
FLAGS: Final = tuple(_BITS)
