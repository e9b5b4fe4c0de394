"""The disk: partition table, ESP, root and hash tree in one sparse file; and its conversion to qcow2."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import IO

from builder.artifacts import Verity
from builder.atomic import atomic_file
from builder.errors import ImageError
from builder.image.gpt import SECTOR, build_gpt, image_partitions
from builder.image.identity import DiskIdentity, disk_identity
from builder.tools import Tools

_CHUNK = 1 << 20
# What copy_file_range says when the kernel or the file systems cannot do it.
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def identify(verity: Verity, uki: Path) -> DiskIdentity:
    """Return the identifiers of the disk with this root and this UKI."""
    with uki.open("rb") as file:
        return disk_identity(verity.root_hash, hashlib.file_digest(file, "sha256").digest())


def assemble_disk(esp: Path, verity: Verity, *, identity: DiskIdentity, output: Path) -> Path:
    """Write the disk to ``output``, whole or not at all; blocks that hold nothing take no space.

    Raises:
        ImageError: a part is empty, or changed its size while it was copied.
        OSError: no room.
    """
    parts = (esp, verity.data, verity.hash_tree)
    sizes = [part.stat().st_size for part in parts]
    table = build_gpt(
        identity.disk,
        image_partitions(identity, esp_size=sizes[0], root_size=sizes[1], verity_size=sizes[2]),
    )
    with atomic_file(output) as disk:
        disk.truncate(table.size)
        disk.write(table.head)
        disk.seek(table.size - len(table.tail))
        disk.write(table.tail)
        disk.flush()
        for part, offset, size in zip(parts, table.offsets, sizes, strict=True):
            with part.open("rb") as source:
                if os.fstat(source.fileno()).st_size != size or offset % SECTOR:
                    raise ImageError(f"{source.name}: changed its size while the disk was written")
                _copy_sparse(source, disk, start=0, offset=offset, size=size)
    return output


def replace_partition(disk: Path, content: Path, *, offset: int, size: int, output: Path) -> Path:
    """Write to ``output`` a disk with other content in one partition; every other byte stays.

    Args:
        disk: the disk as it is.
        content: exactly ``size`` bytes.
        offset: where the partition begins on the disk, in bytes.
        size: of the partition, in bytes.

    Raises:
        ImageError: the content has another size than the partition.
        OSError: no room.
    """
    found = content.stat().st_size
    if found != size:
        raise ImageError(
            f"{content.name} has {found} bytes, the partition that it is to fill has {size}: expected no change, "
            "because the partition table is measured",
            hint="was the release built by another version of goldsmith?",
        )
    whole = disk.stat().st_size
    with atomic_file(output) as target, disk.open("rb") as old, content.open("rb") as new:
        target.truncate(whole)
        _copy_sparse(old, target, start=0, offset=0, size=offset)
        _copy_sparse(new, target, start=0, offset=offset, size=size)
        _copy_sparse(old, target, start=offset + size, offset=offset + size, size=whole - offset - size)
    return output


def convert_qcow2(disk: Path, *, output: Path, tools: Tools) -> Path:
    """Write a qcow2 (version 3, clusters of 64 KiB, not compressed) with the content of ``disk``.

    Clusters are written one after the other in the order of the disk, so the bytes follow from it alone.

    Raises:
        ToolError: qemu-img failed.
    """
    temporary = output.with_name(f".{output.name}.partial")
    try:
        tools.run(
            "qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-m", "1", "-S", "4k",
            "-t", "writeback", "-T", "writeback",
            "-o", "compat=1.1,cluster_size=65536,lazy_refcounts=off,refcount_bits=16,preallocation=off",
            disk, temporary,
        )  # fmt: skip
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return output


def _copy_sparse(source: IO[bytes], disk: IO[bytes], *, start: int, offset: int, size: int) -> None:
    """Copy what of ``size`` bytes from ``start`` on holds data; on the disk they are a hole already."""
    position, last = start, start + size
    while position < last:
        try:
            data = os.lseek(source.fileno(), position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        if data >= last:
            return
        end = min(os.lseek(source.fileno(), data, os.SEEK_HOLE), last)
        _copy_range(source.fileno(), disk.fileno(), data, offset + data - start, end - data)
        position = end


def _copy_range(source: int, target: int, start: int, to: int, count: int) -> None:
    """Copy without passing the bytes through this process where the kernel can; it may share the blocks."""
    while count:
        copied = _kernel_copy(source, target, count, start, to)
        if not copied:
            copied = os.pwrite(target, os.pread(source, min(count, _CHUNK), start), to)
        if not copied:
            raise ImageError("a part of the disk became shorter while it was copied; build again")
        start, to, count = start + copied, to + copied, count - copied


def _kernel_copy(source: int, target: int, count: int, start: int, to: int) -> int:
    """Return how many bytes copy_file_range took over; none where it cannot work."""
    try:
        return os.copy_file_range(source, target, count, start, to)
    except OSError as error:
        if error.errno in _NO_COPY_RANGE:
            return 0
        raise
