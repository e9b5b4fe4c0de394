"""A tree as a tar stream (POSIX.1-2017, pax, "ustar interchange format"), for mkfs.erofs.

Only what EROFS keeps is written: numeric owners, no names of users, one time for all.
"""

from __future__ import annotations

from collections.abc import Iterator

from builder.errors import ImageError
from builder.image.nodes import archive_order
from builder.tree import Kind, Node, Tree

BLOCK = 512

_NAME = 100
_PREFIX = 155
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_TYPES = {
    Kind.FILE: b"0",
    Kind.DIRECTORY: b"5",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER_DEVICE: b"3",
}


def tar_pieces(tree: Tree, *, mtime: int) -> Iterator[bytes | memoryview]:
    """Yield the archive piece by piece; contents are the tree's own views, never copied.

    Raises:
        ImageError: the tree or a number does not fit the format.
    """
    for name, node in archive_order(tree):
        size = len(node.content) if node.kind is Kind.FILE else 0
        yield _entry(name, node, size=size, mtime=mtime)
        if size:
            yield node.content
            yield bytes(-size % BLOCK)
    yield bytes(2 * BLOCK)


def _entry(name: bytes, node: Node, *, size: int, mtime: int) -> bytes:
    if node.kind is Kind.DIRECTORY:
        name += b"/"
    target = node.target.encode("utf-8", "surrogateescape")
    prefix, short = _split(name)
    records = b""
    if short is None:
        records += _record(b"path", name)
        prefix, short = b"", name[:_NAME]
    if len(target) > _NAME:
        records += _record(b"linkpath", target)
        target = target[:_NAME]
    header = _header(
        short,
        typeflag=_TYPES[node.kind],
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        size=size,
        mtime=mtime,
        target=target,
        device=node.device,
        prefix=prefix,
    )
    if not records:
        return header
    extended = _header(b"pax", typeflag=b"x", mode=0o644, size=len(records), mtime=mtime)
    return extended + records + bytes(-len(records) % BLOCK) + header


def _header(
    name: bytes,
    *,
    typeflag: bytes,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int,
    mtime: int,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    block = b"".join(
        (
            name.ljust(_NAME, b"\0"),
            _octal(mode, 7, name),
            _octal(uid, 7, name),
            _octal(gid, 7, name),
            _octal(size, 11, name),
            _octal(mtime, 11, name),
            b" " * 8,  # the checksum counts itself as spaces
            typeflag,
            target.ljust(_NAME, b"\0"),
            b"ustar\00000",
            bytes(64),
            _octal(device[0], 7, name),
            _octal(device[1], 7, name),
            prefix.ljust(_PREFIX, b"\0"),
            bytes(12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Return (prefix, name) of the ustar header, or (b"", None) when the path needs a pax record."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.find(b"/", len(name) - _NAME - 1)
    if cut < 1 or cut > _PREFIX or cut == len(name) - 1:
        return b"", None
    return name[:cut], name[cut + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    # "%d %s=%s\n"; the length counts its own digits.
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _octal(value: int, digits: int, name: bytes) -> bytes:
    if not 0 <= value <= (_OCTAL_7 if digits == 7 else _OCTAL_11):
        raise ImageError(
            f"{name.decode(errors='replace')!r}: {value} does not fit a tar header of {digits} octal digits"
        )
    return b"%0*o\0" % (digits, value)
