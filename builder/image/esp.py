"""The EFI system partition: FAT32 (UEFI 2.10, 13.3) with the UKI at the removable-media path."""

from __future__ import annotations

from pathlib import Path

from builder.errors import ImageError
from builder.tools import Tools

#: UEFI 2.10, 3.5.1.1: what firmware starts when no boot variable says otherwise.
BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"

_MIB = 1 << 20
_SECTOR = 512
#: Microsoft FAT specification, "FAT Type Determination": fewer clusters would make it FAT16.
_MIN_FAT32_CLUSTERS = 65_525
_RESERVED = 32
# Room for directories, for what rounding to clusters costs, and for a signature added later.
_SLACK = _MIB
_LABEL = "ESP"
#: FAT counts from 1980-01-01; earlier dates would wrap.
_FAT_EPOCH = 315_532_800

# mtools reads the host's /etc/mtools.conf; the environment wins over it.
_MTOOLS = {
    "MTOOLSRC": "/dev/null",
    "MTOOLS_SKIP_CHECK": "1",
    "MTOOLS_FAT_COMPATIBILITY": "0",
    "MTOOLS_LOWER_CASE": "0",
    "MTOOLS_NO_VFAT": "0",
    "MTOOLS_NAME_NUMERIC_TAIL": "1",
}


def build_esp(
    uki: Path, *, volume_id: int, tools: Tools, workdir: Path, unsigned_size: int | None = None
) -> Path:
    """Write ``workdir/esp.img``: the smallest FAT32 that holds the UKI, in whole MiB, with 512-byte sectors.

    Args:
        uki: the file to boot.
        volume_id: 32 bits.
        unsigned_size: bytes of the UKI before it was signed; they decide the size of the partition, which has
            room for a signature in any case. Default: those of ``uki``.

    Raises:
        ImageError: the volume id does not fit.
        ToolError: mkfs.vfat or mtools failed.
    """
    if not 0 <= volume_id <= 0xFFFFFFFF:
        raise ImageError(f"FAT volume id {volume_id}: expected 32 bits")
    output = workdir / "esp.img"
    output.unlink(missing_ok=True)
    size, sectors_per_cluster = _geometry(uki.stat().st_size if unsigned_size is None else unsigned_size)
    with output.open("wb") as image:
        image.truncate(size)
    tools.run(
        "mkfs.vfat", "--invariant", "-F32", f"-S{_SECTOR}", f"-s{sectors_per_cluster}", f"-R{_RESERVED}",
        "-f2", "-b6", "-g255/63", "-h0", "-M0xf8", "-D0x80", "--mbr=n", "--codepage=437",
        f"-i{volume_id:08x}", f"-n{_LABEL}", output,
    )  # fmt: skip
    clock = {"SOURCE_DATE_EPOCH": str(max(tools.source_date_epoch, _FAT_EPOCH))}
    folders = ["::/EFI", "::/EFI/BOOT"]
    tools.run("mmd", "-i", output, *folders, env=_MTOOLS | clock)
    tools.run("mcopy", "-i", output, uki, f"::/{BOOT_PATH}", env=_MTOOLS | clock)
    return output


def read_boot_file(esp: Path, *, tools: Tools, workdir: Path) -> bytes:
    """Return what firmware would start from an ESP: the file at the removable-media path.

    Raises:
        ToolError: the file system has no such file, or is none.
    """
    output = workdir / "boot.efi"
    output.unlink(missing_ok=True)
    tools.run("mcopy", "-i", esp, f"::/{BOOT_PATH}", output, env=_MTOOLS)
    return output.read_bytes()


def _geometry(content: int) -> tuple[int, int]:
    """Return (bytes of the partition, sectors per cluster) for that much content.

    The largest cluster up to 4 KiB that still leaves enough clusters for FAT32: fewer, larger clusters are
    less for firmware to follow.
    """
    for sectors_per_cluster in (8, 4, 2, 1):
        needed = _partition_size(content + _SLACK, sectors_per_cluster)
        smallest = _partition_size(_MIN_FAT32_CLUSTERS * sectors_per_cluster * _SECTOR, sectors_per_cluster)
        if needed >= smallest:
            return needed, sectors_per_cluster
    return smallest, 1


def _partition_size(content: int, sectors_per_cluster: int) -> int:
    """Return the whole MiB that hold ``content`` bytes of clusters and the tables for them."""
    cluster = sectors_per_cluster * _SECTOR
    tables = 2 * _round_up(4 * (content // cluster + 2), cluster)
    return _round_up(_RESERVED * _SECTOR + tables + content + 2 * cluster, _MIB)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
