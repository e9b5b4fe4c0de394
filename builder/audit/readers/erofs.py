"""EROFS from its inodes (Linux, fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst), strictly.

Reads what the builder's mkfs.erofs writes and refuses the rest: one device, blocks of 4096 bytes, plain, inline and
LZ4-compressed files; no chunks, fragments, tail packing or long xattr prefixes. An extraction by an unprivileged user
would lose owners and extended attributes; these are read from the inodes.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from builder.audit.readers.erofs_lz4 import read_compressed
from builder.audit.readers.tree import Budget, File, FileTree, check_name
from measurements.errors import FormatError, LimitError

BLOCK: Final = 4096
MAX_FILES: Final = 200_000
MAX_CONTENT: Final = 2 << 30
MAX_FILE: Final = 256 << 20
MAX_DEPTH: Final = 64
MAX_XATTRS: Final = 64

_SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xE0F5E1E2
#: erofs_fs.h, EROFS_FEATURE_INCOMPAT_*: zero padding of LZ4, and big physical clusters (also COMPR_CFGS).
_KNOWN_INCOMPAT = 0x1 | 0x2
_CHECKSUM = 0x1
_SLOT = 32
_DIRENT = struct.Struct("<QHBB")
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    5: "lustre.",
    6: "security.",
}
_FILE_TYPES = {
    1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFCHR, 4: stat.S_IFBLK, 5: stat.S_IFIFO, 6: stat.S_IFSOCK,
    7: stat.S_IFLNK,
}  # fmt: skip
_CRC32C = 0x82F63B78


@dataclass(frozen=True, slots=True, kw_only=True)
class Erofs:
    """An EROFS image.

    Attributes:
        uuid: of the superblock.
        build_time: seconds since 1970.
        times: every modification time in it.
        size: bytes that the superblock covers.
        tree: every inode under each of its names.
    """

    uuid: UUID
    build_time: int
    times: frozenset[int]
    size: int
    tree: FileTree


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inode:
    """An inode as it lies on disk; ``end`` is where its extended attributes end."""

    nid: int
    layout: int
    mode: int
    uid: int
    gid: int
    size: int
    union: int
    mtime: int | None
    xattrs: int
    xattr_size: int
    end: int


def read_erofs(data: memoryview) -> Erofs:
    """Return every file of an EROFS image.

    Raises:
        FormatError: damaged, or a feature that mkfs.erofs of the toolbox does not use for us.
        LimitError: larger than the limits of this module.
    """
    return _Image(data).read()


class _Image:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        block = bytes(data[_SUPERBLOCK_OFFSET:BLOCK])
        if len(block) < BLOCK - _SUPERBLOCK_OFFSET or struct.unpack_from("<I", block)[0] != _MAGIC:
            raise FormatError("EROFS: no superblock at byte 1024")
        checksum, compatible, block_bits, slots, root = struct.unpack_from("<IIBBH", block, 4)
        self.build_time, blocks, self._meta, self._xattr = (
            struct.unpack_from("<Q", block, 24)[0],
            *struct.unpack_from("<III", block, 36),
        )
        self.uuid = UUID(bytes=block[48:64])
        incompatible, _, devices = struct.unpack_from("<IHH", block, 80)
        directory_bits, prefixes = block[90], block[91]
        if compatible & _CHECKSUM and _crc32c(block[:4] + bytes(4) + block[8:]) != checksum:
            raise FormatError("EROFS: the checksum of the superblock does not hold")
        if (
            (block_bits, slots, devices, directory_bits, prefixes) != (12, 0, 0, 0, 0)
            or incompatible & ~_KNOWN_INCOMPAT
        ):  # fmt: skip
            raise FormatError(
                f"EROFS: features 0x{incompatible:x}, blocks of {1 << min(block_bits, 64)} bytes, {devices} further "
                "devices; expected LZ4 with big clusters at most, 4096 and none"
            )
        self.size = blocks * BLOCK
        if not BLOCK <= self.size <= len(data):
            raise FormatError(f"EROFS: {blocks} blocks in an image of {len(data)} bytes")
        self._data = data[: self.size]
        self._root = root
        self._budget = Budget("EROFS", files=MAX_FILES, size=MAX_CONTENT)
        self._padded = bool(incompatible & 1)

    def read(self) -> Erofs:
        """Walk from the root; a directory that is reached twice would be a circle."""
        files: dict[str, File] = {}
        times: set[int] = set()
        seen: dict[int, File] = {}
        pending = [("/", self._root, stat.S_IFDIR, 0)]
        while pending:
            path, nid, kind, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise LimitError(f"EROFS: {path[:80]} lies deeper than {MAX_DEPTH} folders")
            self._budget.take(files=1)
            if nid in seen:
                if seen[nid].is_directory:
                    raise FormatError(f"EROFS: {path} is a directory that has another name")
                files[path] = seen[nid]
                continue
            inode = self._inode(nid)
            if stat.S_IFMT(inode.mode) != kind:
                raise FormatError(f"EROFS: {path} is of another type in its folder than in its inode")
            times.add(self.build_time if inode.mtime is None else inode.mtime)
            content = self._content(inode, path)
            directory = stat.S_ISDIR(inode.mode)
            files[path] = seen[nid] = File(
                mode=inode.mode,
                uid=inode.uid,
                gid=inode.gid,
                content=b"" if directory else content,
                xattrs=self._xattrs(inode, path),
            )
            if directory:
                base = path.rstrip("/")
                pending += [
                    (f"{base}/{name}", child, type_, depth + 1)
                    for name, child, type_ in _entries(content, path)
                ]
        return Erofs(
            uuid=self.uuid,
            build_time=self.build_time,
            times=frozenset(times),
            size=self.size,
            tree=FileTree(files),
        )

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        if offset < 0 or size < 0 or offset + size > len(self._data):
            raise FormatError(f"EROFS: {what} at {offset}+{size} passes the end at {len(self._data)}")
        return bytes(self._data[offset : offset + size])

    def _inode(self, nid: int) -> _Inode:
        offset = self._meta * BLOCK + nid * _SLOT
        head = self._bytes(offset, 32, "an inode")
        (format_,) = struct.unpack_from("<H", head)
        mtime: int | None = None
        if format_ & 1:
            head = self._bytes(offset, 64, "an inode")
            icount, mode, size, union = struct.unpack_from("<HHxxQI", head, 2)
            uid, gid, mtime = struct.unpack_from("<IIQ", head, 24)
        else:
            icount, mode, _, size, _, union, _, uid, gid = struct.unpack_from("<HHHIIIIHH", head, 2)
        if format_ >> 4:
            raise FormatError(f"EROFS: inode {nid} has the unknown format 0x{format_:x}")
        xattr_size = 12 + 4 * (icount - 1) if icount else 0
        start = offset + len(head)
        return _Inode(
            nid=nid,
            layout=format_ >> 1 & 7,
            mode=mode,
            uid=uid,
            gid=gid,
            size=size,
            union=union,
            mtime=mtime,
            xattrs=start,
            xattr_size=xattr_size,
            end=start + xattr_size,
        )

    def _content(self, inode: _Inode, path: str) -> bytes:
        if not (stat.S_ISREG(inode.mode) or stat.S_ISDIR(inode.mode) or stat.S_ISLNK(inode.mode)):
            return b""
        if inode.size > MAX_FILE:
            raise LimitError(f"EROFS: {path[:80]} has {inode.size} bytes; the limit is {MAX_FILE}")
        self._budget.take(size=inode.size)
        match inode.layout:
            case 0:  # flat
                return self._bytes(inode.union * BLOCK, inode.size, path) if inode.size else b""
            case 2:  # whole blocks apart, the tail behind the inode
                whole = inode.size // BLOCK * BLOCK
                tail = inode.size - whole
                if tail and inode.end % BLOCK + tail > BLOCK:
                    raise FormatError(f"EROFS: the inline tail of {path} crosses a block")
                body = self._bytes(inode.union * BLOCK, whole, path) if whole else b""
                return body + self._bytes(inode.end, tail, path)
            case 3 if stat.S_ISREG(inode.mode) and self._padded:
                return read_compressed(self._data, end=inode.end, size=inode.size, path=path)
            case layout:
                raise FormatError(f"EROFS: {path} has the data layout {layout}, which is not used here")

    def _xattrs(self, inode: _Inode, path: str) -> dict[str, bytes]:
        if not inode.xattr_size:
            return {}
        body = self._bytes(inode.xattrs, inode.xattr_size, f"xattrs of {path}")
        shared = body[4]
        if 12 + 4 * shared > len(body):
            raise FormatError(f"EROFS: {path} has {shared} shared xattrs in {len(body)} bytes")
        found: dict[str, bytes] = {}
        for index in range(shared):
            (number,) = struct.unpack_from("<I", body, 12 + 4 * index)
            start = self._xattr * BLOCK + 4 * number
            head = self._bytes(start, 4, "a shared xattr")
            name_size, _, value_size = struct.unpack("<BBH", head)
            entry = self._bytes(start, 4 + name_size + value_size, "a shared xattr")
            _add_xattr(found, entry, path)
        offset = 12 + 4 * shared
        while offset + 4 <= len(body) and any(body[offset : offset + 4]):
            name_size, _, value_size = struct.unpack_from("<BBH", body, offset)
            end = offset + 4 + name_size + value_size
            if end > len(body):
                raise FormatError(f"EROFS: an xattr of {path} passes the end of its inode")
            _add_xattr(found, body[offset:end], path)
            offset = -(-end // 4) * 4
        return found


def _add_xattr(found: dict[str, bytes], entry: bytes, path: str) -> None:
    name_size, index, value_size = struct.unpack_from("<BBH", entry)
    if index not in _XATTR_PREFIXES:
        raise FormatError(f"EROFS: an xattr of {path} has the unknown prefix {index}")
    if len(found) >= MAX_XATTRS:
        raise LimitError(f"EROFS: {path[:80]} has more than {MAX_XATTRS} xattrs")
    name = _XATTR_PREFIXES[index] + entry[4 : 4 + name_size].decode("utf-8", "backslashreplace")
    if name in found:
        raise FormatError(f"EROFS: {path} has the xattr {name} twice")
    found[name] = entry[4 + name_size : 4 + name_size + value_size]


def _entries(content: bytes, path: str) -> list[tuple[str, int, int]]:
    """Return (name, nid, file type bits) of a directory; "." and ".." are left out."""
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(content), BLOCK):
        block = content[start : start + BLOCK]
        if len(block) < _DIRENT.size:
            raise FormatError(f"EROFS: the directory {path} is cut")
        first = _DIRENT.unpack_from(block)[1]
        if first < _DIRENT.size or first % _DIRENT.size or first > len(block):
            raise FormatError(f"EROFS: the directory {path} has no room for its names")
        heads = [_DIRENT.unpack_from(block, offset) for offset in range(0, first, _DIRENT.size)]
        offsets = [head[1] for head in heads] + [len(block)]
        for (nid, begin, type_, _), end in zip(heads, offsets[1:], strict=True):
            if not first <= begin < end <= len(block):
                raise FormatError(f"EROFS: the directory {path} has names out of order")
            raw = block[begin:end].partition(b"\0")[0] if end == len(block) else block[begin:end]
            if raw in (b".", b".."):
                continue
            name = check_name(raw, f"EROFS: {path}")
            if name in found or type_ not in _FILE_TYPES:
                raise FormatError(f"EROFS: {path} holds {name} twice, or of the unknown type {type_}")
            found[name] = (nid, _FILE_TYPES[type_])
    return [(name, nid, type_) for name, (nid, type_) in found.items()]


def _crc32c(data: bytes) -> int:
    """Return the CRC-32C that mkfs.erofs writes: begun with ones, not inverted at the end."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C if value & 1 else 0)
    return value
