"""EROFS' compressed files: the index of logical clusters, and LZ4 (Linux, fs/erofs/erofs_fs.h, zmap.c).

A file is cut into logical clusters of 4096 bytes. A head cluster says where, within it, a new extent begins, and in
which block its physical cluster lies; in what follows, non-head clusters belong to that extent. The first of them
says how many blocks a big physical cluster takes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import lz4.block

from measurements.errors import FormatError, LimitError

BLOCK: Final = 4096
#: Z_EROFS_PCLUSTER_MAX_SIZE.
MAX_PCLUSTER: Final = 1 << 20
#: What one extent may unpack to: LZ4 gains at most a factor of 255.
MAX_EXTENT: Final = 64 << 20

_BITS = 12
_PLAIN, _HEAD1, _NONHEAD, _HEAD2 = range(4)
_COMPACTED_2B, _BIG_PCLUSTER_1, _BIG_PCLUSTER_2 = 0x1, 0x2, 0x4
_INTERLACED = 0x10
_KNOWN_ADVISE = _COMPACTED_2B | _BIG_PCLUSTER_1 | _BIG_PCLUSTER_2 | _INTERLACED
#: Z_EROFS_LI_D0_CBLKCNT: a non-head's distance is a count of blocks instead.
_COUNT = 1 << 11
_LZ4 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """One logical cluster: its type, where its extent begins within it, its block, its count of blocks."""

    type: int
    offset: int = 0
    block: int = 0
    count: int = 0


def read_compressed(data: memoryview, *, end: int, size: int, path: str) -> bytes:
    """Return a compressed file's content.

    Args:
        data: the whole image.
        end: offset at which inode and extended attributes end.
        size: of the file, in bytes.
        path: for messages.

    Raises:
        FormatError: damaged, or with a feature that is not used here.
        LimitError: an extent of more than `MAX_EXTENT` bytes.
    """
    if not size:
        return b""
    header = -(-end // 8) * 8
    _, advise, algorithm, bits = struct.unpack("<IHBB", _slice(data, header, 8, path))
    if advise & ~_KNOWN_ADVISE or algorithm & 0xF != _LZ4 or bits:
        raise FormatError(
            f"EROFS: {path} is compressed with advice 0x{advise:x}, algorithm {algorithm & 0xF}, clusters 0x{bits:x}; "
            "expected LZ4 in clusters of 4096 bytes"
        )
    total = -(-size // BLOCK)
    clusters = _compact_index(data, header + 8, total, advise, path)
    return b"".join(_extents(data, clusters, size, advise, path))


def _extents(data: memoryview, clusters: list[_Cluster], size: int, advise: int, path: str) -> list[bytes]:
    heads = [number for number, cluster in enumerate(clusters) if cluster.type != _NONHEAD]
    if not heads or heads[0] != 0 or clusters[0].offset:
        raise FormatError(f"EROFS: {path} does not begin with a head")
    starts = [number * BLOCK + clusters[number].offset for number in heads] + [size]
    if len(heads) > 1 and starts[-2] == size:  # the last entry only marks the end
        del heads[-1], starts[-1]
    pieces = []
    for number, start, end in zip(heads, starts[:-1], starts[1:], strict=True):
        cluster = clusters[number]
        if end <= start or cluster.type == _HEAD2:
            raise FormatError(f"EROFS: {path} has extents out of order, or of a second algorithm")
        if end - start > MAX_EXTENT:
            raise LimitError(
                f"EROFS: {path[:80]}: an extent of {end - start} bytes; the limit is {MAX_EXTENT}"
            )
        count = 1
        if cluster.type == _HEAD1 and advise & _BIG_PCLUSTER_1 and number + 1 < len(clusters):
            count = clusters[number + 1].count or 1
        if count * BLOCK > MAX_PCLUSTER:
            raise FormatError(f"EROFS: {path} has a physical cluster of {count} blocks")
        raw = _slice(data, cluster.block * BLOCK, count * BLOCK, path)
        if cluster.type == _PLAIN:
            pieces.append(_plain(raw, start, end - start, bool(advise & _INTERLACED), path))
        else:
            pieces.append(_unpack(raw, end - start, path))
    return pieces


def _plain(raw: bytes, start: int, length: int, interlaced: bool, path: str) -> bytes:
    if length > len(raw):
        raise FormatError(f"EROFS: {path} has a stored extent of {length} bytes in {len(raw)}")
    if not interlaced:
        return raw[:length]
    # Each byte lies at its file offset modulo the block.
    turn = start % BLOCK
    return (raw[turn:] + raw[:turn])[:length]


def _unpack(raw: bytes, length: int, path: str) -> bytes:
    try:
        # LZ4_0PADDING: the data ends where its cluster does, behind zeros.
        content = lz4.block.decompress(raw.lstrip(b"\0"), uncompressed_size=length)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise FormatError(f"EROFS: {path}: damaged LZ4 data: {error}") from error
    if len(content) != length:
        raise FormatError(f"EROFS: {path}: an extent unpacks to {len(content)} bytes, expected {length}")
    return bytes(content)


def _compact_index(data: memoryview, start: int, total: int, advise: int, path: str) -> list[_Cluster]:
    """Read packs of 2 clusters in 8 bytes, and between them, 32-byte aligned, packs of 16 in 32 bytes."""
    first = (32 - start % 32) // 4 & 7
    middle = (total - first) // 16 * 16 if advise & _COMPACTED_2B and first < total else 0
    found: list[_Cluster] = []
    position = start
    for count, size in ((min(first, total), 2), (middle, 16), (None, 2)):
        left = total - len(found) if count is None else count
        while left > 0:
            width = 8 if size == 2 else 32
            pack = _slice(data, position, width, path)
            found += _pack(pack, size, bool(advise & _BIG_PCLUSTER_1), path)[:left]
            left -= size
            position += width
    return found


def _pack(pack: bytes, size: int, big: bool, path: str) -> list[_Cluster]:
    width = (len(pack) - 4) * 8 // size
    bits = int.from_bytes(pack[:-4], "little")
    (block,) = struct.unpack_from("<I", pack, len(pack) - 4)
    found = []
    # The pack's block lies before its first physical cluster; without big clusters it is that before it less one.
    pending = 0 if big else 1
    for index in range(size):
        value = bits >> (index * width)
        low, type_ = value & 0xFFF, value >> 12 & 3
        if type_ == _NONHEAD:
            count = low & ~_COUNT if low & _COUNT else 0
            if count and not big:
                raise FormatError(f"EROFS: {path} counts blocks without big clusters")
            found.append(_Cluster(type=type_, count=count))
        else:
            found.append(_Cluster(type=type_, offset=_offset(low, path), block=block))
    return _place(found, block, pending, big)


def _place(clusters: list[_Cluster], block: int, pending: int, big: bool) -> list[_Cluster]:
    """Give each head of a pack its block: one after the other from the pack's own."""
    placed: list[_Cluster] = []
    next_block = block + pending
    for index, cluster in enumerate(clusters):
        if cluster.type == _NONHEAD:
            # A count whose head lies in the pack before: its blocks come first.
            if index == 0 and cluster.count:
                next_block += cluster.count
            placed.append(cluster)
            continue
        placed.append(_Cluster(type=cluster.type, offset=cluster.offset, block=next_block))
        follower = clusters[index + 1] if index + 1 < len(clusters) else None
        next_block += follower.count if big and follower is not None and follower.count else 1
    return placed


def _offset(value: int, path: str) -> int:
    if value >= BLOCK:
        raise FormatError(f"EROFS: {path} has an extent that begins at {value} of a cluster")
    return value


def _slice(data: memoryview, offset: int, size: int, path: str) -> bytes:
    if offset < 0 or offset + size > len(data):
        raise FormatError(f"EROFS: {path} at {offset}+{size} passes the end at {len(data)}")
    return bytes(data[offset : offset + size])
