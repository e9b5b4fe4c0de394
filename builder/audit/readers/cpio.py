"""The initrd: a zstd frame with a newc archive (Linux, driver-api/early-userspace/buffer-format)."""

from __future__ import annotations

import re
import stat
from typing import Final

import zstandard

from builder.audit.readers.tree import Budget, File, FileTree, check_name
from measurements.errors import FormatError, LimitError

MAX_UNPACKED: Final = 1 << 30
MAX_FILES: Final = 200_000
MAX_PATH: Final = 4096
_MAX_WINDOW = 1 << 27

_MAGIC = b"070701"
_HEADER = 110
_HEX = re.compile(rb"[0-9A-Fa-f]{104}")
_TRAILER = b"TRAILER!!!"
_INO, _MODE, _UID, _GID, _NLINK, _SIZE, _NAME, _CHECK = 0, 1, 2, 3, 4, 6, 11, 12


def read_initrd(section: bytes) -> FileTree:
    """Return the tree of an ``.initrd`` section: exactly one zstd frame with exactly one newc archive.

    Whatever else the kernel would take (further archives behind the first, microcode in front of it) is refused
    here: it would be unpacked over what was audited.

    Raises:
        FormatError: another compression, damage, or bytes around the archive.
        LimitError: larger than the limits of this module.
    """
    try:
        claimed = zstandard.frame_content_size(section)
        if claimed > MAX_UNPACKED:
            raise LimitError(f"initrd: {claimed} bytes unpacked; the limit is {MAX_UNPACKED}")
        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
        chunks, total = [], 0
        for offset in range(0, len(section), 1 << 16):
            chunk = decoder.decompress(section[offset : offset + (1 << 16)])
            total += len(chunk)
            if total > MAX_UNPACKED:
                raise LimitError(f"initrd: more than {MAX_UNPACKED} bytes unpacked")
            chunks.append(chunk)
            if decoder.eof:
                rest = decoder.unused_data + section[offset + (1 << 16) :]
                break
        else:
            raise FormatError("initrd: the zstd frame is cut")
    except zstandard.ZstdError as error:
        raise FormatError(f"initrd: no zstd frame: {error}") from error
    if rest.strip(b"\0"):
        raise FormatError(f"initrd: {len(rest)} bytes follow the first archive; the kernel would unpack them")
    return read_cpio(b"".join(chunks))


def read_cpio(archive: bytes) -> FileTree:
    """Return the tree of one newc archive.

    Raises:
        FormatError: damaged, a path twice or outside of the root, a hard link, or bytes behind the trailer.
        LimitError: larger than the limits of this module.
    """
    budget = Budget("initrd", files=MAX_FILES, size=MAX_UNPACKED)
    files: dict[str, File] = {}
    offset = 0
    while True:
        header = archive[offset : offset + _HEADER]
        if header[:6] != _MAGIC or not _HEX.fullmatch(header[6:]):
            raise FormatError(f"initrd: no newc header at byte {offset}")
        fields = [int(header[start : start + 8], 16) for start in range(6, _HEADER, 8)]
        if not 1 < fields[_NAME] <= MAX_PATH:
            raise FormatError(f"initrd: a name of {fields[_NAME]} bytes at byte {offset}")
        name_end = offset + _HEADER + fields[_NAME]
        start = -(-name_end // 4) * 4
        end = start + fields[_SIZE]
        if end > len(archive):
            raise FormatError(f"initrd: the file at byte {offset} passes the end of the archive")
        name = archive[offset + _HEADER : name_end]
        if name[-1:] != b"\0":
            raise FormatError(f"initrd: a name without its end at byte {offset}")
        offset = -(-end // 4) * 4
        if name[:-1] == _TRAILER:
            if archive[end:].strip(b"\0"):
                raise FormatError("initrd: bytes follow the trailer; the kernel would unpack them")
            return FileTree(files)
        budget.take(files=1)
        _add(files, name[:-1], fields, archive[start:end])


def _add(files: dict[str, File], name: bytes, fields: list[int], content: bytes) -> None:
    path = "/" if name == b"." else "/" + "/".join(check_name(part, "initrd") for part in name.split(b"/"))
    if path in files:
        raise FormatError(f"initrd: {path} is there twice")
    if fields[_NLINK] > 1 and not stat.S_ISDIR(fields[_MODE]):
        raise FormatError(f"initrd: {path} is a hard link, which no tool of ours writes")
    if path != "/":
        parent = files.get(path.rpartition("/")[0] or "/")
        if parent is None or not parent.is_directory:
            raise FormatError(f"initrd: {path} comes before its folder, or below what is none")
    files[path] = File(mode=fields[_MODE], uid=fields[_UID], gid=fields[_GID], content=content)
