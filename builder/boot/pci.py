"""Where OVMF puts 64-bit PCI BARs on a q35 machine: the window, and the order inside it.

The window's base and the BARs' extent stand in the DSDT (the root bridge's 64-bit _CRS), so PCR 1 depends on
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from measurements.errors import NotPredictableError

GIB = 1 << 30

#: PcdPciMmio64Size of the X64 builds (edk2 OvmfPkg/OvmfPkgX64.dsc).
_DEFAULT_WINDOW = 32 * GIB
#: Address bits that OVMF uses at most with four levels of paging, with and without pages of 1 GiB.
_WIDTH_LIMIT = {True: 46, False: 40}
E820_RAM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class E820Entry:
    """One range of fw_cfg's ``etc/e820``: guest-physical base, length in bytes, and type (1 is RAM)."""

    base: int
    length: int
    type: int

    @property
    def end(self) -> int:
        """Exclusive end."""
        return self.base + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What of the processor decides where OVMF puts 64-bit BARs.

    Attributes:
        vendor: CPUID vendor string.
        address_bits: physical address bits (CPUID 0x80000008).
        gigabyte_pages: whether it has pages of 1 GiB (CPUID 0x80000001, "pdpe1gb").
    """

    vendor: str
    address_bits: int
    gigabyte_pages: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A 64-bit memory BAR of a function on bus 0.

    Attributes:
        device: 0-31.
        function: 0-7.
        register: configuration space offset of its low half (0x10-0x20); negative for one that a passed-through
            card has and its stand-in has not.
        size: bytes, a power of two.
    """

    device: int
    function: int
    register: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A range of guest-physical addresses: base, and length in bytes."""

    base: int
    length: int

    @property
    def end(self) -> int:
        """Exclusive end."""
        return self.base + self.length


def mmio64_window(
    e820: Sequence[E820Entry], processor: Processor, *, reserved_end: int | None = None
) -> Window:
    """Return OVMF's 64-bit PCI window.

    Implements edk2 (stable202305 and later) OvmfPkg/Library/PlatformInitLib/MemDetect.c:
    PlatformGetFirstNonAddress, PlatformAddressWidthFromCpuid with QemuQuirk, PlatformDynamicMmioWindow and
    PlatformReservationConflictCB, for four levels of paging and a build that uses 1 GiB pages where it can
    (OvmfPkgX64.dsc, "TDX need 1G PageTable support").

    Args:
        e820: QEMU's RAM map.
        processor: the guest's.
        reserved_end: fw_cfg's ``etc/reserved-memory-end``, where present.
    """
    first_free = max([4 * GIB, *(entry.end for entry in e820 if entry.type == E820_RAM)])
    if reserved_end is not None:
        first_free = reserved_end
    # The window is aligned to its own size, a power of two, which covers the alignment to 1 GiB.
    base = _align(first_free, _DEFAULT_WINDOW)
    default = Window(base=base, length=_DEFAULT_WINDOW)

    width = _trusted_width(processor)
    if width is None:
        return default
    address_space, window = 1 << width, 1 << (width - 3)
    if not (window > _DEFAULT_WINDOW and base + window < address_space):
        return default
    base = address_space - window
    for entry in e820:  # whatever its type: QEMU reserves AMD's HyperTransport range below 1 TiB
        if max(entry.base, base) < min(entry.end, base + window):
            base = (entry.base - window) & ~(window - 1)
    return Window(base=base, length=window)


def with_cards(bars: Iterable[Bar], cards: Mapping[int, Sequence[int]]) -> tuple[Bar, ...]:
    """Return BARs with those of passed-through cards in the place of their stand-ins', in order of discovery.

    Args:
        bars: what the machine with stand-ins has.
        cards: slot -> sizes of the card's 64-bit BARs by index; its stand-in has one, of the largest size.
    """
    found: list[Bar] = []
    for bar in bars:
        sizes = cards.get(bar.device)
        if sizes is None:
            found.append(bar)
            continue
        largest = sizes.index(max(sizes))
        found += [
            bar if index == largest else replace(bar, register=-1 - index, size=size)
            for index, size in enumerate(sizes)
        ]
    return tuple(found)


def check(addresses: Mapping[Bar, int], window: Window) -> None:
    """Check that placed BARs fit, and that a machine with stand-ins shows the range that the cards will have.

    QEMU shows firmware one range, from the lowest 64-bit BAR to the highest (hw/i386/acpi-build.c, the root bridge's
    _CRS), so a stand-in may lack BARs that lie between.

    Raises:
        NotPredictableError: firmware has no room for them, or a BAR that a stand-in lacks is the lowest or highest.
    """
    end = max((address + bar.size for bar, address in addresses.items()), default=window.base)
    if end > window.end:
        raise NotPredictableError(
            f"not predictable: the devices' 64-bit BARs reach beyond the {window.length >> 30} GiB that OVMF has for "
            "them on this processor; more address bits and pages of 1 GiB, or opt/ovmf/X-PciMmio64Mb, give it more"
        )
    shown = {bar: address for bar, address in addresses.items() if bar.register >= 0}
    if addresses and _extent(shown) != _extent(addresses):
        raise NotPredictableError(
            "not predictable: a passed-through card has the lowest or highest 64-bit BAR, which no stand-in has"
        )


def _extent(addresses: Mapping[Bar, int]) -> tuple[int, int] | None:
    """Return the lowest and the highest address, the latter exclusive."""
    if not addresses:
        return None
    return min(addresses.values()), max(address + bar.size for bar, address in addresses.items())


def place(bars: Iterable[Bar], base: int) -> dict[Bar, int]:
    """Return each BAR's address on a root bridge that decodes from ``base``.

    Implements edk2 MdeModulePkg/Bus/Pci/PciBusDxe: resources in descending order of alignment, which for a
    BAR is its size, each at the next aligned address; in order of discovery where equal.
    """
    addresses = {}
    for bar in sorted(bars, key=lambda bar: -bar.size):
        base = _align(base, bar.size)
        addresses[bar] = base
        base += bar.size
    return addresses


def _trusted_width(processor: Processor) -> int | None:
    """Return the address width that OVMF believes: QEMU has long claimed 40 bits on machines with fewer."""
    believable = {"GenuineIntel": (36, 39), "AuthenticAMD": (40,)}
    bits = processor.address_bits
    if bits < 41 and bits not in believable.get(processor.vendor, ()):
        return None
    return min(bits, _WIDTH_LIMIT[processor.gigabyte_pages])


def _align(value: int, size: int) -> int:
    return -(-value // size) * size
