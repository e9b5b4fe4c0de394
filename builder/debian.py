"""Read Debian binary archives (deb(5)): an ``ar`` of ``debian-binary``, ``control.tar`` and ``data.tar``.

Nothing in an archive is executed and nothing is written outside the cache: a reader sees entries, their
content as views into the decompressed tar.
"""

from __future__ import annotations

import lzma
import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from builder.errors import ArchiveError
from builder.store import Store, sha256_file
from builder.tar import Entry, read_tar

MAX_ARCHIVE = 2 << 30
MAX_DATA = 4 << 30
MAX_CONTROL = 16 << 20
MAX_CONTROL_FIELDS = 200
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20
_CHUNK = 1 << 20
_CACHE_KIND = "data-tar-2"

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_AR_END = b"`\n"

__all__ = ["DebArchive", "Entry", "open_archive", "read_deb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebArchive:
    """One opened archive.

    Attributes:
        path: the archive file; named in every error.
        control: the fields of the ``control`` file, names as written there.
        scripts: names of the maintainer scripts and other control files, never run.
        data: the decompressed ``data.tar``.
    """

    path: Path
    control: dict[str, str]
    scripts: tuple[str, ...]
    data: memoryview

    def entries(self) -> Iterator[Entry]:
        """Yield what the package ships, in archive order; ``/`` and its directories included.

        Raises:
            ArchiveError: the tar is malformed, truncated or beyond a limit.
        """
        return read_tar(self.data, name=_label(self.path))


def read_deb(path: Path, *, cache: Store | None) -> Iterator[Entry]:
    """Yield the entries of a package; see `open_archive`."""
    return open_archive(path, cache=cache).entries()


def open_archive(path: Path, *, cache: Store | None) -> DebArchive:
    """Open an archive whose hash the caller has checked.

    Args:
        path: the .deb file. An object of ``cache`` is known by its name; any other file is hashed.
        cache: keeps the decompressed ``data.tar`` for the next build; None decompresses into memory.

    Raises:
        ArchiveError: it is no Debian archive, is truncated, or exceeds a limit.
    """
    label = _label(path)
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            if not len(_AR_MAGIC) < size <= MAX_ARCHIVE:
                raise ArchiveError(f"{label}: {size} bytes; expected an archive of at most {MAX_ARCHIVE}")
            raw = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ArchiveError(f"{label}: cannot be read: {error.strerror}") from error
    members = _members(raw, label)
    control_name, control_raw = members["control.tar"]
    control_tar = _decompress(control_raw, control_name, MAX_CONTROL, label)
    control, scripts = _control(control_tar, label)
    name, compressed = members["data.tar"]
    if cache is None:
        data = memoryview(_decompress(compressed, name, MAX_DATA, label))
    else:
        key = cache.digest_of(path) or sha256_file(path)

        def make(write: Callable[[bytes], object]) -> None:
            _decompress_into(compressed, name, MAX_DATA, label, write)

        data = cache.derived_bytes(_CACHE_KIND, key, make)
    return DebArchive(path=path, control=control, scripts=scripts, data=data)


def _label(path: Path) -> str:
    return path.name if len(path.name) < 64 else f"archive {path.name[:12]}…"


def _members(raw: memoryview, label: str) -> dict[str, tuple[str, memoryview]]:
    """Return control.tar and data.tar: stem -> (full name, compressed bytes)."""
    if raw[: len(_AR_MAGIC)] != _AR_MAGIC:
        raise ArchiveError(f"{label}: not a Debian archive: it does not start with !<arch>")
    found: dict[str, tuple[str, memoryview]] = {}
    offset = len(_AR_MAGIC)
    index = 0
    while offset < len(raw):
        header = bytes(raw[offset : offset + _AR_HEADER])
        if len(header) < _AR_HEADER or header[58:60] != _AR_END:
            raise ArchiveError(f"{label}: truncated or damaged member header at byte {offset}")
        name = header[:16].decode("ascii", "replace").rstrip().rstrip("/")
        digits = header[48:58].strip()
        if not digits.isdigit():
            raise ArchiveError(f"{label}: member {name!r} has no size")
        length = int(digits)
        start = offset + _AR_HEADER
        content = raw[start : start + length]
        if len(content) < length:
            raise ArchiveError(f"{label}: truncated in {name}: expected {length} bytes, got {len(content)}")
        if index == 0 and (name != "debian-binary" or not bytes(content[:2]) == b"2."):
            raise ArchiveError(f"{label}: expected format 2.x in debian-binary, got member {name!r}")
        stem = ".".join(name.split(".")[:2])
        if stem in ("control.tar", "data.tar"):
            if stem in found:
                raise ArchiveError(f"{label}: two members {stem}")
            found[stem] = (name, content)
        offset = start + length + (length & 1)
        index += 1
        if index > 16:
            raise ArchiveError(f"{label}: more than 16 members")
    for stem in ("control.tar", "data.tar"):
        if stem not in found:
            raise ArchiveError(f"{label}: truncated: it has no {stem}")
    return found


def _decompress(data: memoryview, name: str, limit: int, label: str) -> bytes:
    output = bytearray()
    _decompress_into(data, name, limit, label, output.extend)
    return bytes(output)


def _decompress_into(
    data: memoryview, name: str, limit: int, label: str, write: Callable[[bytes], object]
) -> None:
    total = 0
    try:
        for chunk in _chunks(data, name, label):
            total += len(chunk)
            if total > limit:
                raise ArchiveError(f"{label}: {name} holds more than {limit} bytes")
            write(chunk)
    except (lzma.LZMAError, zstandard.ZstdError, zlib.error, EOFError) as error:
        raise ArchiveError(f"{label}: {name} is damaged or truncated: {error}") from error


def _chunks(data: memoryview, name: str, label: str) -> Iterator[bytes]:
    suffix = name.rsplit(".", 1)[-1]
    if suffix == "tar":
        for offset in range(0, len(data), _CHUNK):
            yield bytes(data[offset : offset + _CHUNK])
    elif suffix == "xz":
        xz = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        pending: memoryview | bytes = data
        while not xz.eof:
            chunk = xz.decompress(pending, max_length=_CHUNK)
            if not chunk and xz.needs_input:
                raise EOFError("the compressed data ends early")
            pending = b""
            yield chunk
        if xz.unused_data:
            raise EOFError("data follows the compressed stream")
    elif suffix == "zst":
        zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        if not zstandard.frame_header_size(data) or len(data) == 0:
            raise EOFError("no frame")
        decoder = zstd.decompressobj()
        for offset in range(0, len(data), _CHUNK):
            yield decoder.decompress(bytes(data[offset : offset + _CHUNK]))
        if not decoder.eof or decoder.unused_data:
            raise EOFError("the compressed data does not end where the member does")
    elif suffix == "gz":
        gz = zlib.decompressobj(wbits=31)
        pending = data
        while not gz.eof:
            chunk = gz.decompress(pending, _CHUNK)
            if not chunk and not gz.unconsumed_tail:
                raise EOFError("the compressed data ends early")
            pending = gz.unconsumed_tail
            yield chunk
    else:
        raise ArchiveError(f"{label}: {name}: expected xz, zst, gz or no compression")


def _control(tar: bytes, label: str) -> tuple[dict[str, str], tuple[str, ...]]:
    fields: dict[str, str] | None = None
    names = []
    for entry in read_tar(memoryview(tar), name=f"{label}: control.tar"):
        if entry.path == "/control":
            fields = parse_stanza(bytes(entry.content), label)
        elif entry.path != "/":
            names.append(entry.path[1:])
    if fields is None:
        raise ArchiveError(f"{label}: control.tar has no control file")
    for needed in ("Package", "Version", "Architecture"):
        if needed not in fields:
            raise ArchiveError(f"{label}: the control file has no {needed}")
    return fields, tuple(sorted(names))


def upstream_version(version: str) -> str:
    """Return the upstream part of a package's version: without epoch and revision (Debian policy, 5.6.12)."""
    without_epoch = version.partition(":")[2] or version
    return without_epoch.rpartition("-")[0] or without_epoch


def parse_stanza(raw: bytes, label: str) -> dict[str, str]:
    """Return the fields of one control stanza (deb822(5)); continuation lines keep their line breaks.

    Raises:
        ArchiveError: it is not UTF-8, has a line without a field, or a field twice.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{label}: the control file is not UTF-8") from error
    fields: dict[str, str] = {}
    current = ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        if line[0] in " \t":
            if not current:
                raise ArchiveError(f"{label}: the control file starts with a continuation line")
            fields[current] += f"\n{line[1:]}"
            continue
        current, colon, value = line.partition(":")
        if not colon or current in fields or len(fields) >= MAX_CONTROL_FIELDS:
            raise ArchiveError(f"{label}: unexpected line in the control file: {line[:80]!r}")
        fields[current] = value.strip()
    return fields
