"""The partition table of a raw disk image, which firmware measures."""

from __future__ import annotations

from pathlib import Path

from builder.errors import UsageError
from measurements.formats import gpt
from measurements.formats.gpt import Gpt

#: Enough of a disk for any table within `measurements.formats.gpt`'s limits that begins near the disk's start.
DISK_PREFIX = 4 << 20

_WRAPPERS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"vhdxfile": "VHDX",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
}


def partition_table(prefix: bytes, *, sector_size: int | None = None) -> Gpt:
    """Parse the partition table of a raw disk image.

    Args:
        prefix: the disk's first `DISK_PREFIX` bytes, or all of a smaller one.
        sector_size: 512 or 4096 bytes; None looks for the header at both.

    Raises:
        UsageError: the file wraps a disk (qcow2, a compressed file), so its bytes are not the disk's.
        FormatError: there is no valid table.
        LimitError: the table exceeds a limit.
    """
    for magic, name in _WRAPPERS.items():
        if prefix.startswith(magic):
            raise UsageError(
                f"the disk is a {name} file, and firmware measures what is inside; expected a raw image",
                hint="qemu-img convert -O raw DISK disk.raw" if name in ("qcow2", "VMDK", "VHDX") else None,
            )
    return gpt.parse(prefix, sector_size=sector_size or gpt.detect_sector_size(prefix))


def read_partition_table(disk: Path) -> Gpt:
    """Parse the partition table of a raw disk image with 512-byte sectors, such as a release's.

    Raises:
        UsageError, FormatError, LimitError: see `partition_table`.
    """
    with disk.open("rb") as file:
        return partition_table(file.read(DISK_PREFIX), sector_size=512)
