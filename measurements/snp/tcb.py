"""Processor generations and their TCB versions (AMD 56860, SEV-SNP Firmware ABI, 2.2, tables 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from measurements.errors import FormatError


class Product(StrEnum):
    """What AMD's key distribution service calls a generation; the value is in certificates."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


#: CPUID family -> ranges of models. Genoa includes Bergamo and Siena, Turin the dense parts.
_MODELS = {
    0x19: ((0x00, 0x0F, Product.MILAN), (0x10, 0x1F, Product.GENOA), (0xA0, 0xAF, Product.GENOA)),
    0x1A: ((0x00, 0x11, Product.TURIN),),
}


def product_of(family: int, model: int) -> Product:
    """Return the generation of a CPU.

    Raises:
        FormatError: no generation with SEV-SNP that is known here.
    """
    for first, last, product in _MODELS.get(family, ()):
        if first <= model <= last:
            return product
    raise FormatError(f"CPU family 0x{family:x}, model 0x{model:x}: no known processor with SEV-SNP")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbVersion:
    """Security versions of the parts that a platform's secrets depend on, 0 to 255 each.

    Attributes:
        bootloader: the secure processor's boot loader.
        tee: its operating system.
        snp: the SEV-SNP firmware.
        microcode: the lowest of all cores.
        fmc: its first mutable code; Turin and later, else 0.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    @classmethod
    def parse(cls, value: int, product: Product) -> TcbVersion:
        """Read TCB_VERSION, 64 bits, whose layout depends on the generation."""
        data = value.to_bytes(8, "little")
        if product is Product.TURIN:
            return cls(fmc=data[0], bootloader=data[1], tee=data[2], snp=data[3], microcode=data[7])
        return cls(bootloader=data[0], tee=data[1], snp=data[6], microcode=data[7])

    def below(self, floor: TcbVersion) -> tuple[str, ...]:
        """Return the names of the parts that are older than in ``floor``."""
        return tuple(
            item.name for item in fields(self) if getattr(self, item.name) < getattr(floor, item.name)
        )

    def to_json(self) -> dict[str, int]:
        """Return the parts by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
