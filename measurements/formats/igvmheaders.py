"""The headers of an IGVM file as values: what igvm_defs of microsoft/igvm calls IGVM_VHS structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum


class Platform(IntEnum):
    """IgvmPlatformType."""

    NATIVE = 0
    VSM = 1
    SEV_SNP = 2
    TDX = 3
    SEV = 4
    SEV_ES = 5


class HeaderType(IntEnum):
    """IgvmVariableHeaderType."""

    SUPPORTED_PLATFORM = 0x001
    GUEST_POLICY = 0x101
    RELOCATABLE_REGION = 0x102
    PAGE_TABLE_RELOCATION = 0x103
    PARAMETER_AREA = 0x301
    PAGE_DATA = 0x302
    PARAMETER_INSERT = 0x303
    VP_CONTEXT = 0x304
    REQUIRED_MEMORY = 0x305
    VP_COUNT_PARAMETER = 0x307
    SRAT = 0x308
    MADT = 0x309
    MMIO_RANGES = 0x30A
    SNP_ID_BLOCK = 0x30B
    MEMORY_MAP = 0x30C
    ERROR_RANGE = 0x30D
    COMMAND_LINE = 0x30E
    SLIT = 0x30F
    PPTT = 0x310
    VBS_MEASUREMENT = 0x311
    DEVICE_TREE = 0x312
    ENVIRONMENT_INFO = 0x313


class PageKind(IntEnum):
    """IgvmPageDataType."""

    NORMAL = 0
    SECRETS = 1
    CPUID_DATA = 2
    CPUID_XF = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportedPlatform:
    """A platform that the file is for; ``mask`` has the one bit by which other headers refer to it."""

    mask: int
    platform: int
    version: int
    highest_vtl: int
    shared_boundary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPolicy:
    """The policy that a launch is started with."""

    mask: int
    policy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterArea:
    """Memory that the loader fills with what it knows."""

    index: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInsert:
    """Where a parameter area goes."""

    mask: int
    address: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PageData:
    """A page of 4 KiB or 2 MiB; ``data`` is ``None`` where the file holds none and the page is zero."""

    mask: int
    address: int
    size: int
    kind: int
    unmeasured: bool
    shared: bool
    data: memoryview | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VpContext:
    """The state that a vCPU starts in; on SEV-SNP a VMSA page."""

    mask: int
    address: int
    index: int
    data: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """What the SEV-SNP ID block in the file says; its signatures are not looked at."""

    mask: int
    launch_digest: bytes
    family_id: bytes
    image_id: bytes
    version: int
    guest_svn: int
    author_key_enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A header that no measurement depends on, or that is not known here."""

    type: int
    size: int
    ignorable: bool

    @property
    def known(self) -> bool:
        """Whether its type is one of ``HeaderType``."""
        return self.type in set(HeaderType)


Header = (
    SupportedPlatform | GuestPolicy | ParameterArea | ParameterInsert | PageData | VpContext | IdBlock | Other
)


def header_name(header: Header) -> str:
    """Return a header's name ("page-data"), or its number."""
    match header:
        case SupportedPlatform():
            kind = HeaderType.SUPPORTED_PLATFORM
        case GuestPolicy():
            kind = HeaderType.GUEST_POLICY
        case ParameterArea():
            kind = HeaderType.PARAMETER_AREA
        case ParameterInsert():
            kind = HeaderType.PARAMETER_INSERT
        case PageData():
            kind = HeaderType.PAGE_DATA
        case VpContext():
            kind = HeaderType.VP_CONTEXT
        case IdBlock():
            kind = HeaderType.SNP_ID_BLOCK
        case Other():
            return type_name(header.type)
    return type_name(kind)


def platform_name(platform: int) -> str:
    """Return a platform's name ("sev-snp"), or its number."""
    return Platform(platform).name.lower().replace("_", "-") if platform in set(Platform) else str(platform)


def runs(headers: Iterable[Header]) -> Iterator[tuple[Header, int]]:
    """Yield (header, how many like it follow one another): pages in a row with the same attributes are one run."""
    first, count, last = None, 0, None
    for header in headers:
        if isinstance(header, PageData) and isinstance(last, PageData) and _continues(last, header):
            count, last = count + 1, header
            continue
        if first is not None:
            yield first, count
        first, count, last = header, 1, header
    if first is not None:
        yield first, count


def _continues(last: PageData, page: PageData) -> bool:
    return page.address == last.address + last.size and all(
        (
            page.mask == last.mask,
            page.size == last.size,
            page.kind == last.kind,
            page.unmeasured == last.unmeasured,
            page.shared == last.shared,
            (page.data is None) == (last.data is None),
        )
    )


def type_name(header_type: int) -> str:
    """Return the name of a header type ("page-data"), or its number."""
    try:
        return HeaderType(header_type).name.lower().replace("_", "-")
    except ValueError:
        return f"0x{header_type:x}"
