"""Read a tar held in memory as entries whose content is a view: no copy, no extraction, no ambient state.

POSIX ustar and pax (IEEE Std 1003.1, pax) and the GNU long names that dpkg writes. The standard library's
reader copies every member through a file object and costs four times as much on a root file system.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import ArchiveError
from builder.tree import Kind

MAX_ENTRIES = 500_000
MAX_PATH = 4096
MAX_EXTENSION = 1 << 20

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_NOTHING = memoryview(b"")
_KINDS = {b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"2": Kind.SYMLINK, b"3": Kind.CHARACTER_DEVICE,
          b"5": Kind.DIRECTORY}  # fmt: skip
_REFUSED = {b"4": "a block device", b"6": "a FIFO"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member.

    Attributes:
        path: absolute and normalised ("/usr/bin/mount"); "/" is the root directory itself.
        kind: a hard link appears as the file it names.
        mode: permission bits with setuid, setgid and sticky.
        uid: owner, by number; names in the archive are ignored.
        gid: group, by number.
        target: of a symbolic link, as it is written.
        device: (major, minor) of a character device.
        content: of a file.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    target: str = ""
    device: tuple[int, int] = (0, 0)
    content: memoryview = _NOTHING

    @property
    def size(self) -> int:
        """Bytes of content."""
        return len(self.content)


def read_tar(data: memoryview, *, name: str) -> Iterator[Entry]:
    """Yield the members of a tar in their order.

    Args:
        data: the whole uncompressed tar.
        name: what to call it in errors.

    Raises:
        ArchiveError: malformed, truncated, beyond a limit, a path that leaves the root, a hard link to a
            member that did not come before, or a kind that has no place in a package.
    """
    offset = 0
    extension: dict[str, str] = {}
    files: dict[str, memoryview] = {}
    for _ in range(MAX_ENTRIES):
        header = bytes(data[offset : offset + _BLOCK])
        if header == _ZERO:
            return
        if len(header) < _BLOCK:
            raise ArchiveError(f"{name}: truncated: expected a header at byte {offset}, got the end")
        _check_sum(header, name, offset)
        kind = header[156:157]
        size = int(extension["size"]) if "size" in extension else _number(header[124:136], name)
        content = data[offset + _BLOCK : offset + _BLOCK + size]
        if kind in (b"0", b"\0", b"7", b"L", b"K", b"x", b"g"):
            if len(content) < size:
                raise ArchiveError(f"{name}: truncated: expected {size} bytes, got {len(content)}")
            offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
        else:
            content = data[:0]
            offset += _BLOCK
        if kind in (b"L", b"K", b"x", b"g"):
            _extend(extension, kind, content, name)
            continue
        path = _path(extension.get("path") or _header_path(header, name), name)
        target = extension.get("linkpath") or _text(header[157:257], name)
        uid = int(extension["uid"]) if "uid" in extension else _number(header[108:116], name)
        gid = int(extension["gid"]) if "gid" in extension else _number(header[116:124], name)
        mode = _number(header[100:108], name) & 0o7777
        extension = {}
        if kind == b"1":
            linked = files.get(_path(target, name))
            if linked is None:
                raise ArchiveError(f"{name}: {path} is a hard link to {target}, which did not come before it")
            files[path] = linked
            yield Entry(path=path, kind=Kind.FILE, mode=mode, uid=uid, gid=gid, content=linked)
            continue
        found = _KINDS.get(kind)
        if found is None:
            raise ArchiveError(f"{name}: {path} is {_REFUSED.get(kind, f'a member of type {kind!r}')}")
        if found is Kind.FILE:
            files[path] = content
        device = (0, 0)
        if found is Kind.CHARACTER_DEVICE:
            device = (_number(header[329:337], name), _number(header[337:345], name))
        if found is Kind.SYMLINK and not target:
            raise ArchiveError(f"{name}: the link {path} has no target")
        yield Entry(
            path=path, kind=found, mode=mode, uid=uid, gid=gid,
            target=target if found is Kind.SYMLINK else "", device=device, content=content,
        )  # fmt: skip
    raise ArchiveError(f"{name}: more than {MAX_ENTRIES} members")


def _check_sum(header: bytes, name: str, offset: int) -> None:
    expected = _number(header[148:156], name)
    if sum(header) - sum(header[148:156]) + 8 * 0x20 != expected:
        raise ArchiveError(f"{name}: damaged: the header at byte {offset} does not match its checksum")


def _number(field: bytes, name: str) -> int:
    if field[0] & 0x80:  # GNU base-256, for what octal cannot hold
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value >= 1 << 62:
            raise ArchiveError(f"{name}: a number in a header is out of range")
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if set(digits) - set(b"01234567"):
        raise ArchiveError(f"{name}: expected an octal number in a header, got {field!r}")
    return int(digits, 8)


def _text(field: bytes | memoryview, name: str) -> str:
    raw = bytes(field).split(b"\0", 1)[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{name}: a name is not UTF-8: {raw!r}") from error


def _header_path(header: bytes, name: str) -> str:
    path = _text(header[0:100], name)
    if header[257:263] == b"ustar\0" and header[345]:
        return f"{_text(header[345:500], name)}/{path}"
    return path


def _path(path: str, name: str) -> str:
    if not path or len(path) > MAX_PATH:
        raise ArchiveError(f"{name}: expected a path of 1 to {MAX_PATH} characters, got {len(path)}")
    if ".." in path.split("/") or "\0" in path or "\n" in path:
        raise ArchiveError(f"{name}: the path {path!r} leaves the root or holds a control character")
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _extend(extension: dict[str, str], kind: bytes, content: memoryview, name: str) -> None:
    """Keep what a long-name or pax member says about the next one."""
    if len(content) > MAX_EXTENSION:
        raise ArchiveError(f"{name}: an extended header of {len(content)} bytes")
    if kind == b"L":
        extension["path"] = _text(content, name)
    elif kind == b"K":
        extension["linkpath"] = _text(content, name)
    elif kind == b"x":
        for key, value in _pax_records(bytes(content), name):
            if key in ("size", "uid", "gid") and not (
                value.isascii() and value.isdigit() and len(value) < 19
            ):
                raise ArchiveError(f"{name}: pax {key}: expected a number, got {value[:40]!r}")
            if key in ("path", "linkpath", "size", "uid", "gid"):
                extension[key] = value
    # A global header ("g") holds comments and defaults no Debian archive uses.


def _pax_records(raw: bytes, name: str) -> Iterator[tuple[str, str]]:
    while raw:
        digits, space, _ = raw.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 9 else 0
        record = raw[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length > len(raw) or not equals or not value.endswith(b"\n"):
            raise ArchiveError(f"{name}: a damaged pax header")
        yield _text(key, name), _text(value[:-1], name)
        raw = raw[length:]
