"""A firmware or SVSM file as a VMM loads it: its place in guest memory, and what its own tables ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError
from measurements.formats import guidtable, sevmetadata
from measurements.formats.guidtable import GuidTable
from measurements.formats.sevmetadata import Section
from measurements.snp.pages import PAGE_SIZE

MAX_IMAGE_SIZE: Final = 64 << 20
#: Firmware ends where the x86 reset vector is.
END_OF_FIRMWARE: Final = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchImage:
    """A file that is measured as a whole.

    Attributes:
        data: the file; a multiple of 4 KiB, at most 64 MiB.
        address: guest physical address of its first byte.
        sections: the SEV metadata in the order of its table; ``None`` in a build without any.
        hash_table: guest physical address of the kernel hashes; ``None`` where the build does not verify them.
        ap_start: start address of every vCPU but the first; ``None`` where the build names none.
        svsm_entry: entry point of an SVSM, counted from its first byte; ``None`` in firmware.
    """

    data: bytes = field(repr=False)
    address: int
    sections: tuple[Section, ...] | None
    hash_table: int | None
    ap_start: int | None
    svsm_entry: int | None

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.address + len(self.data)


def load(data: bytes, *, end: int = END_OF_FIRMWARE, what: str = "firmware") -> LaunchImage:
    """Read what a file tells the VMM.

    Args:
        data: OVMF in one file, variables included (``OVMF.fd``, ``OVMF.amdsev.fd``), or its code alone; or an SVSM.
        end: guest physical address behind the last byte.
        what: how messages call the file.

    Raises:
        FormatError: it is no whole number of pages, or a table in it is malformed.
        LimitError: it has more than 64 MiB, or a table exceeds its limit.
    """
    if len(data) > MAX_IMAGE_SIZE:
        raise LimitError(f"{what} has {len(data)} bytes; the limit is {MAX_IMAGE_SIZE}")
    if not data or len(data) % PAGE_SIZE:
        raise FormatError(f"{what} has {len(data)} bytes; expected a multiple of {PAGE_SIZE}")
    if len(data) > end:
        raise FormatError(f"{what} has {len(data)} bytes and must end at 0x{end:x}")
    table = guidtable.parse(data)
    return LaunchImage(
        data=data,
        address=end - len(data),
        sections=sevmetadata.parse(data, table),
        hash_table=_address(table, guidtable.SEV_HASH_TABLE, "kernel hash table"),
        ap_start=_address(table, guidtable.SEV_ES_RESET_BLOCK, "SEV-ES reset block"),
        svsm_entry=_svsm_entry(table),
    )


def _address(table: GuidTable, guid: UUID, what: str) -> int | None:
    found = table.integers(guid, 1, what)
    return found[0] if found and found[0] else None  # builds without the feature write zero


def _svsm_entry(table: GuidTable) -> int | None:
    found = table.integers(guidtable.SVSM_INFO, 1, "SVSM information")
    return None if found is None else found[0]
