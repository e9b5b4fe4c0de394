"""The launch digest: SHA-384 over the PAGE_INFO of every page that the VMM adds.

Implements SNP_LAUNCH_UPDATE of the SEV-SNP Firmware ABI Specification (AMD 56860) 1.58: 8.17 for the page
types and 8.17.2, table 67 for PAGE_INFO.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

PAGE_SIZE: Final = 4096
DIGEST_SIZE: Final = 48
#: What a launch starts with (8.16, SNP_LAUNCH_START).
INITIAL_DIGEST: Final = bytes(DIGEST_SIZE)

_PAGE_INFO_SIZE = 0x70
_NO_CONTENTS = bytes(DIGEST_SIZE)


class PageType(IntEnum):
    """PAGE_TYPE (8.17, table 66)."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Consecutive pages of one type.

    Attributes:
        type: how the pages are added.
        address: guest physical address of the first page.
        size: bytes, a multiple of 4096.
        data: ``size`` bytes for the types whose contents are measured, NORMAL and VMSA; else ``None``.
        cause: the input that decides the pages ("firmware", "kernel hashes", "vCPU 1").
    """

    type: PageType
    address: int
    size: int
    data: bytes | memoryview | None = field(default=None, repr=False)
    cause: str

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.size // PAGE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPage:
    """One step of the digest.

    Attributes:
        type: how the page is added.
        address: guest physical address.
        contents: SHA-384 of the page, or 48 zero bytes.
        digest: the launch digest after this page.
        cause: the input that decides the page.
    """

    type: PageType
    address: int
    contents: bytes
    digest: bytes
    cause: str

    def to_json(self) -> dict[str, str]:
        """Return the step as JSON values; type names are lower-case, digests hexadecimal."""
        return {
            "type": self.type.name.lower(),
            "gpa": f"0x{self.address:x}",
            "contents": self.contents.hex(),
            "digest": self.digest.hex(),
            "cause": self.cause,
        }


def extend(digest: bytes, regions: Iterable[Region]) -> bytes:
    """Return the launch digest after more pages."""
    sha384 = hashlib.sha384
    for region in regions:
        tail = _tail(region.type)
        address = region.address
        if region.data is None:
            for offset in range(0, region.size, PAGE_SIZE):
                digest = sha384(
                    digest + _NO_CONTENTS + tail + (address + offset).to_bytes(8, "little")
                ).digest()
            continue
        data = memoryview(region.data)
        previous, contents = b"", b""
        for offset in range(0, region.size, PAGE_SIZE):
            page = data[offset : offset + PAGE_SIZE].tobytes()
            if page != previous:  # firmware is padded with hundreds of equal pages
                previous, contents = page, sha384(page).digest()
            digest = sha384(digest + contents + tail + (address + offset).to_bytes(8, "little")).digest()
    return digest


def extend_page(digest: bytes, *, type: PageType, address: int, contents: bytes | None) -> bytes:  # noqa: A002
    """Return the launch digest after one more page, of which the SHA-384 (48 bytes) is known, or which has none."""
    rest = (contents or _NO_CONTENTS) + _tail(type) + address.to_bytes(8, "little")
    return hashlib.sha384(digest + rest).digest()


def repeat(digest: bytes, region: Region, count: int) -> Iterator[bytes]:
    """Yield the launch digest after the first, second, … of ``count`` times the same single page."""
    sha384 = hashlib.sha384
    contents = _NO_CONTENTS if region.data is None else sha384(region.data).digest()
    rest = contents + _tail(region.type) + region.address.to_bytes(8, "little")
    for _ in range(count):
        digest = sha384(digest + rest).digest()
        yield digest


def walk(regions: Iterable[Region], digest: bytes = INITIAL_DIGEST) -> Iterator[MeasuredPage]:
    """Yield every page with the launch digest after it."""
    for region in regions:
        for offset in range(0, region.size, PAGE_SIZE):
            page = Region(
                type=region.type,
                address=region.address + offset,
                size=PAGE_SIZE,
                data=None if region.data is None else memoryview(region.data)[offset : offset + PAGE_SIZE],
                cause=region.cause,
            )
            digest = extend(digest, (page,))
            yield MeasuredPage(
                type=page.type,
                address=page.address,
                contents=_NO_CONTENTS if page.data is None else hashlib.sha384(page.data).digest(),
                digest=digest,
                cause=page.cause,
            )


def _tail(page_type: PageType) -> bytes:
    # LENGTH, PAGE_TYPE, IMI_PAGE, VMPL3_PERMS, VMPL2_PERMS, VMPL1_PERMS, reserved; the address follows.
    return struct.pack("<HBBBBBB", _PAGE_INFO_SIZE, page_type, 0, 0, 0, 0, 0)
