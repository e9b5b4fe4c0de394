"""IGVM files: the headers that tell a loader which pages and which vCPU state a guest starts with.

Implements the Independent Guest Virtual Machine file format, versions 1 and 2, as microsoft/igvm igvm_defs describes
it: a fixed header, a list of type-length-value headers in three sections, then file data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.formats.igvmheaders import (
    GuestPolicy,
    Header,
    HeaderType,
    IdBlock,
    Other,
    PageData,
    ParameterArea,
    ParameterInsert,
    SupportedPlatform,
    VpContext,
    type_name,
)
from measurements.formats.reader import Reader

MAX_FILE_SIZE: Final = 512 << 20
MAX_HEADERS: Final = 1 << 18
PAGE_SIZE: Final = 4096
LARGE_PAGE_SIZE: Final = 2 << 20

_MAGIC = b"IGVM"
_FIXED_SIZES = {1: 24, 2: 32}
_CHECKSUM_OFFSET = 20
_ALIGNMENT = 8
_HEADER_SIZE = 8
_IGNORABLE = 1 << 31
_X64 = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IgvmFile:
    """All headers in the order of the file, which is the order in which they take effect."""

    version: int
    headers: tuple[Header, ...]

    def platforms(self) -> tuple[SupportedPlatform, ...]:
        """Return the platforms that the file is for."""
        return tuple(header for header in self.headers if isinstance(header, SupportedPlatform))


def parse(data: bytes) -> IgvmFile:
    """Read an IGVM file of at most 512 MiB.

    Raises:
        FormatError: a length, checksum, order, reserved field or reference is wrong.
        LimitError: the file or the number of its headers exceeds its limit.
    """
    if len(data) > MAX_FILE_SIZE:
        raise LimitError(f"IGVM file has {len(data)} bytes; the limit is {MAX_FILE_SIZE}")
    version, start, size = _fixed_header(data)
    reader = Reader(memoryview(data)[start : start + size], "IGVM headers", base=start)
    files = _FileData(data, start + size)
    headers: list[Header] = []
    section = 0
    while reader.remaining:
        if len(headers) == MAX_HEADERS:
            raise LimitError(f"IGVM file has more than {MAX_HEADERS} headers")
        header_type, length = reader.u32("header type"), reader.u32("header length")
        body = reader.part(length, type_name(header_type & ~_IGNORABLE))
        padding = reader.view(min(-length % _ALIGNMENT, reader.remaining), "padding")
        if any(padding):
            raise reader.error("the padding of a header is not zero")
        # Platforms, then initialization, then directives, and never back.
        found = (header_type & ~_IGNORABLE) >> 8
        if found < section:
            raise body.error("headers of a section come after those of a later one")
        section = found
        headers.append(_header(header_type, body, files))
    return IgvmFile(version=version, headers=tuple(headers))


def _fixed_header(data: bytes) -> tuple[int, int, int]:
    reader = Reader(data, "IGVM fixed header")
    magic, version = reader.take(4, "magic"), reader.u32("version")
    if magic != _MAGIC:
        raise FormatError(f"IGVM file begins with {magic!r}; expected {_MAGIC!r}")
    if version not in _FIXED_SIZES:
        raise FormatError(f"IGVM file of version {version}; known are 1 and 2")
    start, size = reader.u32("header offset"), reader.u32("header size")
    total, checksum = reader.u32("file size"), reader.u32("checksum")
    if version > 1:
        architecture, page_size = reader.u32("architecture"), reader.u32("page size")
        if architecture != _X64 or page_size != PAGE_SIZE:
            raise FormatError(
                f"IGVM file for architecture {architecture} with pages of {page_size} bytes; "
                f"expected {_X64} (x64) and {PAGE_SIZE}"
            )
    if total != len(data):
        raise FormatError(f"IGVM file has {len(data)} bytes and says {total}; it is cut or padded")
    fixed = _FIXED_SIZES[version]
    if start < fixed or start % _ALIGNMENT or start + size > len(data):
        raise FormatError(f"IGVM headers at {start} with {size} bytes leave the file or overlap its start")
    blank = data[:_CHECKSUM_OFFSET] + bytes(4) + data[_CHECKSUM_OFFSET + 4 : fixed]
    found = zlib.crc32(data[start : start + size], zlib.crc32(blank))
    if found != checksum:
        raise FormatError(f"IGVM headers have the checksum 0x{found:08x}; the file says 0x{checksum:08x}")
    return version, start, size


class _FileData:
    """Resolves references to what follows the headers."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = memoryview(data), start

    def get(self, offset: int, size: int, what: str) -> memoryview:
        if offset < self._start or offset + size > len(self._data):
            raise FormatError(
                f"IGVM {what} refers to {size} bytes at {offset}; the file's data lies from {self._start} "
                f"to {len(self._data)}"
            )
        return self._data[offset : offset + size]


def _header(header_type: int, body: Reader, files: _FileData) -> Header:
    kind = header_type & ~_IGNORABLE
    result = _KNOWN[kind](body, files) if kind in _KNOWN else None
    if result is None:
        size = body.remaining
        body.skip(size)
        return Other(type=kind, size=size, ignorable=bool(header_type & _IGNORABLE))
    if body.remaining:
        raise body.error(f"{body.remaining} bytes too many")
    return result


def _platform(body: Reader, _files: _FileData) -> SupportedPlatform:
    mask, vtl, platform = body.u32("mask"), body.u8("highest VTL"), body.u8("platform")
    if mask.bit_count() != 1:
        raise body.error(f"the compatibility mask 0x{mask:x} has not exactly one bit")
    return SupportedPlatform(
        mask=mask,
        platform=platform,
        version=body.u16("version"),
        highest_vtl=vtl,
        shared_boundary=body.u64("shared boundary"),
    )


def _policy(body: Reader, _files: _FileData) -> GuestPolicy:
    policy, mask = body.u64("policy"), body.u32("mask")
    body.skip(4)
    return GuestPolicy(mask=mask, policy=policy)


def _parameter_area(body: Reader, _files: _FileData) -> ParameterArea:
    size, index = body.u64("size"), body.u32("index")
    body.skip(4)
    if not size or size % PAGE_SIZE:
        raise body.error(f"a parameter area of {size} bytes; expected a multiple of {PAGE_SIZE}")
    return ParameterArea(index=index, size=size)


def _parameter_insert(body: Reader, _files: _FileData) -> ParameterInsert:
    address, mask, index = body.u64("address"), body.u32("mask"), body.u32("index")
    return ParameterInsert(mask=mask, address=_aligned(body, address, PAGE_SIZE), index=index)


def _page_data(body: Reader, files: _FileData) -> PageData:
    address, mask, offset = body.u64("address"), body.u32("mask"), body.u32("file offset")
    flags, kind, reserved = body.u32("flags"), body.u16("data type"), body.u16("reserved")
    if flags & ~0b111 or reserved:
        raise body.error(f"reserved bits are set in the flags 0x{flags:x} or behind them")
    size = LARGE_PAGE_SIZE if flags & 1 else PAGE_SIZE
    return PageData(
        mask=mask,
        address=_aligned(body, address, size),
        size=size,
        kind=kind,
        unmeasured=bool(flags & 2),
        shared=bool(flags & 4),
        data=files.get(offset, size, "page") if offset else None,
    )


def _vp_context(body: Reader, files: _FileData) -> VpContext:
    address, mask, offset = body.u64("address"), body.u32("mask"), body.u32("file offset")
    index = body.u16("index")
    body.skip(2)
    return VpContext(mask=mask, address=address, index=index, data=files.get(offset, PAGE_SIZE, "vCPU state"))


def _id_block(body: Reader, _files: _FileData) -> IdBlock:
    mask, author = body.u32("mask"), body.u8("author key enabled")
    body.skip(3)
    digest, family, image = body.take(48), body.take(16), body.take(16)
    version, svn = body.u32("version"), body.u32("guest SVN")
    body.skip(8 + 2 * (144 + 152))  # algorithms; signature and public key of ID key and author key
    return IdBlock(
        mask=mask,
        launch_digest=digest,
        family_id=family,
        image_id=image,
        version=version,
        guest_svn=svn,
        author_key_enabled=bool(author),
    )


_KNOWN: Mapping[int, Callable[[Reader, _FileData], Header]] = MappingProxyType(
    {
        HeaderType.SUPPORTED_PLATFORM: _platform,
        HeaderType.GUEST_POLICY: _policy,
        HeaderType.PARAMETER_AREA: _parameter_area,
        HeaderType.PARAMETER_INSERT: _parameter_insert,
        HeaderType.PAGE_DATA: _page_data,
        HeaderType.VP_CONTEXT: _vp_context,
        HeaderType.SNP_ID_BLOCK: _id_block,
    }
)


def _aligned(body: Reader, address: int, size: int) -> int:
    if address % size:
        raise body.error(f"the address 0x{address:x} is no multiple of 0x{size:x}")
    return address
