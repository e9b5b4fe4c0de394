"""Reading the partition table of the disk that the user points at."""

from __future__ import annotations

from pathlib import Path

from builder.cli.reading import read_prefix
from builder.disks import DISK_PREFIX, partition_table
from builder.errors import BuilderError, UsageError
from measurements.errors import FormatError
from measurements.formats.gpt import SECTOR_SIZES, Gpt


def disk_table(disk: Path | None, sector_size: int | None) -> Gpt:
    """Read the partition table of a raw disk.

    Raises:
        UsageError: no disk was named, or no disk has such sectors.
        BuilderError: it holds no partition table.
    """
    if disk is None:
        raise UsageError(
            "a boot from disk needs the disk: its partition table is measured",
            hint="--disk FILE, or --direct",
        )
    if sector_size is not None and sector_size not in SECTOR_SIZES:
        raise UsageError(f"--sector-size {sector_size}; expected 512 or 4096")
    prefix = read_prefix(disk, DISK_PREFIX)
    try:
        return partition_table(prefix, sector_size=sector_size)
    except FormatError as error:
        raise BuilderError(f"{disk}: {error}") from error
