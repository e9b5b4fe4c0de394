"""The cpio archives that systemd-stub makes of UKI sections, byte for byte.

Implements systemd 257, src/boot/cpio.c: pack_cpio_prefix, pack_cpio_dir, pack_cpio_one, pack_cpio_trailer;
the format is "newc" of Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DIRECTORY_MODE: Final = 0o555
FILE_MODE: Final = 0o444

_MAGIC = b"070701"
_DIRECTORY = 0o040000
_REGULAR = 0o100000
_LEADING_MODE = 0o555
# Written as a constant by the stub: the name length is the one field with a capital letter.
_TRAILER = _MAGIC + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"


def archive(
    directory: str,
    files: Mapping[str, bytes],
    *,
    directory_mode: int = DIRECTORY_MODE,
    file_mode: int = FILE_MODE,
) -> bytes:
    """Return the archive that holds ``files`` (name -> content) below ``directory`` (".extra", no slash
    first).

    Directories come first, each below the last; only the innermost has ``directory_mode``. Inode numbers
    count from 1; owner, time and device are 0.
    """
    entries = []
    parts = directory.split("/")
    for depth in range(1, len(parts) + 1):
        mode = directory_mode if depth == len(parts) else _LEADING_MODE
        entries.append(("/".join(parts[:depth]), _DIRECTORY | mode, b""))
    entries.extend((f"{directory}/{name}", _REGULAR | file_mode, data) for name, data in files.items())
    return b"".join(_entry(inode, *entry) for inode, entry in enumerate(entries, start=1)) + _TRAILER


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode("ascii") + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return pad4(header + encoded) + pad4(data)


def pad4(data: bytes) -> bytes:
    """Append zeros up to a multiple of 4 bytes."""
    return data + bytes(-len(data) % 4)
