"""An image as its final bytes have it: disk.raw and uki.efi, and nothing of the trees they were made from."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from builder.audit.readers.cpio import read_initrd
from builder.audit.readers.erofs import Erofs, read_erofs
from builder.audit.readers.fat import FatFile, read_fat32
from builder.audit.readers.tree import FileTree
from builder.audit.readers.verity import HashTree, read_hash_tree
from builder.disks import DISK_PREFIX, partition_table
from measurements.errors import FormatError, LimitError
from measurements.formats import pe
from measurements.formats.gpt import Gpt, Partition

MAX_DISK: Final = 16 << 30
MAX_UKI: Final = 1 << 30
SECTOR: Final = 512
#: Partition types of the Discoverable Partitions Specification (UAPI group).
ESP: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT: Final = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_VERITY: Final = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
#: UEFI 2.10, 3.5.1.1.
BOOT_PATH: Final = "/EFI/BOOT/BOOTX64.EFI"

_CHECKSUM, _SECURITY = 64, 112 + 8 * 4  # from the PE32+ optional header
_OPTIONAL = 4 + 20


class BootImage(StrEnum):
    """What lies at the ESP's boot path, held against uki.efi."""

    EQUAL = "the same bytes"
    SIGNED = "the same image with a signature"
    OTHER = "another image"
    ABSENT = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedImage:
    """A release's image.

    Attributes:
        digests: file name -> SHA-256 (hex).
        table: the partition table.
        backup_agrees: the backup table at the disk's end says the same.
        stray: (offset, size) of the stretches outside of tables and partitions that are not zero.
        esp: every file of the EFI system partition.
        boot_image: what lies at the boot path.
        sections: (name, content) of the UKI's sections in file order.
        root_file_system: the EROFS image, its tree included.
        hash_tree: dm-verity's, computed over the root partition.
        initrd: the initrd's tree.
    """

    digests: Mapping[str, str]
    table: Gpt
    backup_agrees: bool
    stray: tuple[tuple[int, int], ...]
    esp: tuple[FatFile, ...] = field(repr=False)
    boot_image: BootImage
    sections: tuple[tuple[str, bytes], ...] = field(repr=False)
    root_file_system: Erofs = field(repr=False)
    hash_tree: HashTree = field(repr=False)
    initrd: FileTree = field(repr=False)

    @property
    def root(self) -> FileTree:
        """The root file system's tree."""
        return self.root_file_system.tree

    @property
    def trees(self) -> Mapping[str, FileTree]:
        """Both trees by name."""
        return {"root": self.root, "initrd": self.initrd}

    @property
    def command_line(self) -> tuple[str, ...]:
        """The words of the sealed command line."""
        return tuple(self.section(".cmdline").decode("utf-8", "replace").rstrip("\0\n").split())

    def section(self, name: str) -> bytes:
        """Return the first section of a name; empty where there is none."""
        return next((content for other, content in self.sections if other == name), b"")


def read_image(disk: memoryview, uki: bytes) -> AuditedImage:
    """Read a raw disk with 512-byte sectors and the UKI that is published beside it.

    Raises:
        FormatError: a part of them is not what firmware, kernel or dm-verity would take.
        LimitError: a part exceeds its reader's limits.
    """
    if len(disk) > MAX_DISK or len(uki) > MAX_UKI:
        raise LimitError(
            f"a disk of {len(disk)} and a UKI of {len(uki)} bytes; the limits are {MAX_DISK} and {MAX_UKI}"
        )
    table = partition_table(bytes(disk[:DISK_PREFIX]), sector_size=SECTOR)
    parts = {kind: _content(disk, _only(table, kind, name)) for kind, name in _KINDS.items()}
    root = read_erofs(parts[ROOT])
    esp = read_fat32(parts[ESP])
    image = pe.parse(uki)
    sections = tuple((section.name, image.section_data(section)) for section in image.sections)
    initrd = next((content for name, content in sections if name == ".initrd"), b"")
    return AuditedImage(
        digests={"disk.raw": hashlib.sha256(disk).hexdigest(), "uki.efi": hashlib.sha256(uki).hexdigest()},
        table=table,
        backup_agrees=_backup_agrees(disk, table),
        stray=tuple(_stray(disk, table)),
        esp=esp,
        boot_image=_boot_image(esp, uki),
        sections=sections,
        root_file_system=root,
        hash_tree=read_hash_tree(parts[ROOT], parts[ROOT_VERITY]),
        initrd=read_initrd(initrd),
    )


_KINDS = {ESP: "EFI system partition", ROOT: "root partition", ROOT_VERITY: "verity partition"}


def _only(table: Gpt, kind: str, name: str) -> Partition:
    found = [partition for partition in table.partitions if str(partition.type) == kind]
    if len(found) != 1:
        raise FormatError(f"disk.raw has {len(found)} partitions of the type {kind} ({name}); expected one")
    return found[0]


def _content(disk: memoryview, partition: Partition) -> memoryview:
    end = (partition.last_lba + 1) * SECTOR
    if end > len(disk):
        raise FormatError(f"disk.raw: partition {partition.name!r} ends at {end}, the disk at {len(disk)}")
    return disk[partition.first_lba * SECTOR : end]


def _backup_agrees(disk: memoryview, table: Gpt) -> bool:
    """Compare the last sectors with the first: UEFI 2.10, 5.3.2; only places and checksum differ."""
    header = bytes(disk[-SECTOR:])[: len(table.header)]
    if len(disk) % SECTOR or table.alternate_lba != len(disk) // SECTOR - 1 or header[:8] != b"EFI PART":
        return False
    my, other, entries_at = *struct.unpack_from("<QQ", header, 24), struct.unpack_from("<Q", header, 72)[0]
    size = table.entry_count * table.entry_size
    entries = bytes(disk[table.entries_lba * SECTOR : table.entries_lba * SECTOR + size])
    return (
        header[:16] == table.header[:16]
        and header[40:72] == table.header[40:72]
        and struct.unpack_from("<I", header, 16)[0] == zlib.crc32(header[:16] + bytes(4) + header[20:])
        and (my, other) == (table.alternate_lba, table.my_lba)
        and header[80:] == table.header[80:]
        and bytes(disk[entries_at * SECTOR : entries_at * SECTOR + size]) == entries
    )


def _stray(disk: memoryview, table: Gpt) -> list[tuple[int, int]]:
    """Find bytes that no table and no partition accounts for."""
    sectors = -(-table.entry_count * table.entry_size // SECTOR)
    used = [(0, 2), (table.entries_lba, table.entries_lba + sectors)]
    used += [(partition.first_lba, partition.last_lba + 1) for partition in table.partitions]
    used.append((table.alternate_lba - sectors, table.alternate_lba + 1))
    found, position = [], 0
    for first, end in sorted(used):
        if first > position and any(bytes(disk[position * SECTOR : first * SECTOR]).strip(b"\0")):
            found.append((position * SECTOR, (first - position) * SECTOR))
        position = max(position, end)
    rest = bytes(disk[position * SECTOR :])
    return [*found, (position * SECTOR, len(rest))] if rest.strip(b"\0") else found


def _boot_image(esp: tuple[FatFile, ...], uki: bytes) -> BootImage:
    found = next((file.content for file in esp if file.path == BOOT_PATH), None)
    if found is None:
        return BootImage.ABSENT
    if found == uki:
        return BootImage.EQUAL
    try:
        return BootImage.SIGNED if _unsigned(found) == _unsigned(uki) else BootImage.OTHER
    except FormatError:
        return BootImage.OTHER


def _unsigned(image: bytes) -> bytes:
    """Return a PE32+ image without what signing adds: certificate table, its entry, the checksum.

    Windows Authenticode Portable Executable Signature Format, 1.0, "Calculating the PE Image Hash".
    """
    parsed = pe.parse(image)
    optional = struct.unpack_from("<I", image, 0x3C)[0] + _OPTIONAL
    if image[:2] != b"MZ" or struct.unpack_from("<H", image, optional)[0] != 0x20B:
        raise FormatError("no PE32+ image")
    offset, size = parsed.certificate_table
    if size and offset + size != len(image):
        raise FormatError("bytes follow the certificate table")
    bare = bytearray(image[:offset] if size else image)
    bare[optional + _CHECKSUM : optional + _CHECKSUM + 4] = bytes(4)
    bare[optional + _SECURITY : optional + _SECURITY + 8] = bytes(8)
    return bytes(bare)
