"""OVMF firmware files: the volumes that Tcg2Pei measures, and the facts that their bytes alone prove.

Implements the parts of the UEFI Platform Initialization Specification 1.8, volume 3, that lead to them:
firmware volumes (3.2.1), FFS files (3.2.3) and sections (3.2.5), with the LZMA GUIDed section of edk2's
MdeModulePkg/Library/LzmaCustomDecompressLib. OvmfPkg*.fdf keeps PEIFV and DXEFV in one such section of the
only file of FVMAIN_COMPACT.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError

MAX_FIRMWARE_SIZE: Final = 64 << 20
MAX_DECOMPRESSED_SIZE: Final = 128 << 20
MAX_FILES: Final = 4096
MAX_SECTIONS: Final = 4096

PEIFV: Final = UUID("6938079b-b503-4e3d-9d24-b28337a25806")
DXEFV: Final = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")

_NVRAM = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_LZMA = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
#: MdeModulePkg/Core/PiSmmCore/PiSmmIpl.inf: loads the SMM core, and stops the boot where there is no SMRAM.
_PI_SMM_IPL = UUID("2fa2a6da-11d5-4dc3-999a-749648b03c56")
_SMBIOS_PLATFORM_DXE = UUID("4110465d-5ff3-4f4b-b580-24ed0d06747a")
#: EFI_RNG_PROTOCOL (UEFI 2.10, 37.5).
_RANDOM_NUMBERS = UUID("3152bca5-eade-433d-862e-c01cdc291f44")

_VOLUME_STEP = 0x1000  # volumes of an OVMF flash device start at 4 KiB boundaries
_VOLUME_HEADER_SIZE = 56
_FILE_HEADER_SIZE = 24
_LARGE_FILE_HEADER_SIZE = 32
_FILE_TYPE_FV_IMAGE = 0x0B
_DRIVER_TYPES = (0x05, 0x07, 0x08)  # DXE core, driver, PEI and DXE driver
_FILE_TYPE_PAD = 0xF0
_SECTION_GUID_DEFINED = 0x02
_SECTION_PE32 = 0x10
_SECTION_DXE_DEPEX = 0x13
_SECTION_FV_IMAGE = 0x17

#: The formatted area of the type 0 structure that OvmfPkg/SmbiosPlatformDxe installs when the VMM has none:
#: its bytes in the driver mark the place beside which the three build strings lie.
_SMBIOS_TYPE0 = bytes.fromhex("001a00000102 00e8030008000000000000 00001c0000ffff0000")
_NAMED_KERNEL_BLOB = b"etc/boot/\0"
_RELEASE_DATE = re.compile(r"\d\d/\d\d/\d{4}")
_STRING_CONSTANT = re.compile(rb"(?:[\x20-\x7e]\x00){4,64}\x00\x00")
_STRING_ALIGNMENT = 8  # the padding between constants is code bytes, some of which read like UTF-16
_STRING_WINDOW = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SmbiosStrings:
    """Vendor, version and date of the firmware build, as OVMF's own SMBIOS type 0 structure shows them."""

    vendor: str
    version: str
    release_date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OvmfFirmware:
    """What of an OVMF file is loaded into memory and measured there.

    Attributes:
        peifv: the PEI volume as the file holds it, 0xd0000 to 0xe0000 bytes in known builds; empty in a build
            without PEI phase (OVMF.inteltdx.fd).
        dxefv: the DXE volume; memory and file agree.
        drivers: the GUIDs of the files in the DXE volume; they decide which boot options a build offers.
        waiting_for_random: those whose dependency expression names EFI_RNG_PROTOCOL: they do not run on a
            machine that gives UEFI no random numbers (edk2 >= 202405, network drivers).
        named_kernel_blobs: whether the build asks for ``etc/boot/kernel`` (edk2 >= 202502) before the
            legacy blob.
        initrd_option_first: whether the build puts ``initrd=initrd`` before ``-append`` (edk2 >= 202508) or behind
            it; ``None`` when it shows neither.
        verifies_images: whether the build has Secure Boot (SecurityPkg's AuthVariableLib).
        needs_smm: whether the build keeps its variables behind system management mode (edk2's SMM_REQUIRE), and so
            boots only on machines that have it.
        smbios: strings of the SMBIOS type 0 structure; ``None`` when the file does not show them plainly.
    """

    peifv: bytes = field(repr=False)
    dxefv: bytes = field(repr=False)
    drivers: frozenset[UUID] = field(repr=False)
    waiting_for_random: frozenset[UUID] = field(default=frozenset(), repr=False)
    named_kernel_blobs: bool
    initrd_option_first: bool | None = None
    verifies_images: bool
    needs_smm: bool = False
    smbios: SmbiosStrings | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: UUID
    type: int
    body: memoryview


def parse(firmware: bytes, *, peiless: bool = False) -> OvmfFirmware:
    """Unpack an OVMF code file (``OVMF_CODE*.fd``) or combined file (``OVMF.fd``), at most 64 MiB.

    Args:
        firmware: the file.
        peiless: take builds without PEI phase, which have no PEIFV, as well.

    Raises:
        FormatError: the file holds no DXEFV, or no PEIFV where one is expected.
        LimitError: a size or count exceeds its limit.
    """
    if len(firmware) > MAX_FIRMWARE_SIZE:
        raise LimitError(f"firmware has {len(firmware)} bytes; the limit is {MAX_FIRMWARE_SIZE}")
    named = dict(_inner_volumes(memoryview(firmware)))
    for guid, label in ((PEIFV, "PEIFV"), (DXEFV, "DXEFV")):
        if guid not in named and not (peiless and guid == PEIFV):
            raise FormatError(
                f"firmware has no {label} volume ({guid}): expected an OVMF build with a PEI phase, "
                "as in OVMF_CODE_4M.fd"
            )
    files = tuple(_files(named[DXEFV]))
    drivers = frozenset(file.name for file in files if file.type != _FILE_TYPE_PAD)
    return OvmfFirmware(
        peifv=bytes(named.get(PEIFV, b"")),
        dxefv=bytes(named[DXEFV]),
        drivers=drivers,
        waiting_for_random=frozenset(file.name for file in files if _depends_on(file, _RANDOM_NUMBERS)),
        # OvmfPkg/QemuKernelLoaderFsDxe joins this folder of fw_cfg and "kernel".
        named_kernel_blobs=_NAMED_KERNEL_BLOB in named[DXEFV].tobytes(),
        initrd_option_first=_initrd_option_first(named[DXEFV].tobytes()),
        # AuthVariableLib keeps its switch in a variable of this name; builds without it never name it.
        verifies_images=contains_text(named[DXEFV].tobytes(), "SecureBootEnable"),
        needs_smm=_PI_SMM_IPL in drivers,
        smbios=_smbios_strings(files),
    )


def _initrd_option_first(volume: bytes) -> bool | None:
    # OvmfPkg/Library/GenericQemuLoadImageLib: the option and the blank that parts it from the others.
    first, last = b"\0initrd=initrd \0" in volume, b" initrd=initrd\0" in volume
    return None if first == last else first


def needs_smm(firmware: bytes) -> bool:
    """Return whether a firmware file boots only on machines with system management mode; no other file does."""
    try:
        return parse(firmware).needs_smm
    except FormatError:
        return False


def contains_text(volume: bytes, text: str) -> bool:
    """Whether ``volume`` holds ``text`` as a whole string constant: UTF-16LE with its NUL."""
    return text.encode("utf-16-le") + b"\0\0" in volume


def _inner_volumes(flash: memoryview) -> Iterator[tuple[UUID, memoryview]]:
    """Yield (name, volume) for every volume inside the compressed main volume."""
    for volume in _outer_volumes(flash):
        for file in _files(volume):
            if file.type != _FILE_TYPE_FV_IMAGE:
                continue
            for section_type, header, section in _sections(file.body):
                if section_type != _SECTION_GUID_DEFINED:
                    continue
                for inner_type, inner_header, inner in _sections(_decompress(section, header)):
                    if inner_type == _SECTION_FV_IMAGE:
                        volume_name = _volume_name(inner[inner_header:])
                        if volume_name is not None:
                            yield volume_name, inner[inner_header:]


def _outer_volumes(flash: memoryview) -> Iterator[memoryview]:
    offset = 0
    while offset + _VOLUME_HEADER_SIZE <= len(flash):
        if bytes(flash[offset + 40 : offset + 44]) != b"_FVH":
            offset += _VOLUME_STEP
            continue
        volume = _volume(flash[offset:])
        if _guid(volume, 16) != _NVRAM:
            yield volume
        offset += len(volume)


def _volume(data: memoryview) -> memoryview:
    """Cut a volume to the length that its header claims."""
    length = _integer(data, 32, 8)
    if length < _VOLUME_HEADER_SIZE or length > len(data):
        raise FormatError(f"firmware volume claims {length} bytes, the file has {len(data)} left")
    return data[:length]


def _volume_name(data: memoryview) -> UUID | None:
    if len(data) < _VOLUME_HEADER_SIZE or bytes(data[40:44]) != b"_FVH":
        raise FormatError("firmware volume section holds no volume header (_FVH)")
    if _volume(data).nbytes != len(data):
        raise FormatError("firmware volume and the section that holds it differ in length")
    extended = _integer(data, 52, 2)
    return _guid(data, extended) if extended else None


def _files(volume: memoryview) -> Iterator[_File]:
    offset = _integer(volume, 48, 2)
    extended = _integer(volume, 52, 2)
    if extended:
        offset = _align(extended + _integer(volume, extended + 16, 4), 8)
    for _ in range(MAX_FILES):
        # An erased header, or no room for one, ends the volume (PI 1.8, volume 3, 3.2.3).
        if offset + _FILE_HEADER_SIZE > len(volume):
            return
        if bytes(volume[offset : offset + 16]) == b"\xff" * 16 and volume[offset + 18] != _FILE_TYPE_PAD:
            return
        large = volume[offset + 19] & 1
        header = _LARGE_FILE_HEADER_SIZE if large else _FILE_HEADER_SIZE
        size = _integer(volume, offset + 24, 8) if large else _integer(volume, offset + 20, 3)
        if size < header or offset + size > len(volume):
            raise FormatError(f"firmware file at 0x{offset:x} claims {size} bytes and leaves its volume")
        yield _File(
            name=_guid(volume, offset),
            type=volume[offset + 18],
            body=volume[offset + header : offset + size],
        )
        offset = _align(offset + size, 8)
    raise LimitError(f"firmware volume holds more than {MAX_FILES} files")


def _sections(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (type, header length, whole section)."""
    offset = 0
    for _ in range(MAX_SECTIONS):
        if offset + 4 > len(body):
            return
        size, header = _integer(body, offset, 3), 4
        if size == 0xFFFFFF:
            size, header = _integer(body, offset + 4, 4), 8
        if size < header or offset + size > len(body):
            raise FormatError(f"firmware section at 0x{offset:x} claims {size} bytes and leaves its file")
        yield body[offset + 3], header, body[offset : offset + size]
        offset = _align(offset + size, 4)
    raise LimitError(f"firmware file holds more than {MAX_SECTIONS} sections")


def _decompress(section: memoryview, header: int) -> memoryview:
    guid = _guid(section, header)
    if guid != _LZMA:
        raise FormatError(f"firmware section is encoded with {guid}; expected LZMA ({_LZMA})")
    start = _integer(section, header + 16, 2)
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=MAX_DECOMPRESSED_SIZE)
    try:
        data = decompressor.decompress(section[start:], max_length=MAX_DECOMPRESSED_SIZE)
    except lzma.LZMAError as error:
        raise FormatError(f"firmware main volume does not decompress as LZMA: {error}") from error
    if len(data) >= MAX_DECOMPRESSED_SIZE:
        raise LimitError(f"firmware main volume decompresses to more than {MAX_DECOMPRESSED_SIZE} bytes")
    if not decompressor.eof:
        raise FormatError("firmware main volume ends inside its LZMA stream; the file is cut")
    return memoryview(data)


def _depends_on(file: _File, protocol: UUID) -> bool:
    # PI 1.8, volume 2, 10.7: the expression pushes a protocol by its GUID.
    if file.type not in _DRIVER_TYPES:
        return False
    return any(
        protocol.bytes_le in section[header:].tobytes()
        for section_type, header, section in _sections(file.body)
        if section_type == _SECTION_DXE_DEPEX
    )


def _smbios_strings(files: tuple[_File, ...]) -> SmbiosStrings | None:
    """Find the strings that OvmfPkg/SmbiosPlatformDxe's default type 0 structure refers to.

    The compiler places PcdFirmwareReleaseDateString, PcdFirmwareVersionString and PcdFirmwareVendor behind
    the structure. Anything but exactly these three gives ``None``: a build that differs is not guessed at.
    """
    driver = next((file for file in files if file.name == _SMBIOS_PLATFORM_DXE), None)
    if driver is None:
        return None
    image = next((bytes(s[h:]) for t, h, s in _sections(driver.body) if t == _SECTION_PE32), b"")
    place = image.find(_SMBIOS_TYPE0)
    if place < 0 or image.find(_SMBIOS_TYPE0, place + 1) >= 0:
        return None
    end = place + len(_SMBIOS_TYPE0)
    strings = tuple(_string_constants(image, end, end + _STRING_WINDOW))
    dates = [text for text in strings if _RELEASE_DATE.fullmatch(text)]
    if len(strings) != 3 or len(dates) != 1 or strings[0] != dates[0]:
        return None
    return SmbiosStrings(vendor=strings[2], version=strings[1], release_date=strings[0])


def _string_constants(image: bytes, start: int, end: int) -> Iterator[str]:
    """Yield the aligned UTF-16LE constants of 4 to 64 printable characters that begin in [start, end)."""
    offset = _align(start, _STRING_ALIGNMENT)
    while offset < end:
        match = _STRING_CONSTANT.match(image, offset)
        if match:
            yield match.group()[:-2].decode("utf-16-le")
            offset = match.end()
        offset = _align(offset + 1, _STRING_ALIGNMENT)


def _align(value: int, to: int) -> int:
    return (value + to - 1) & -to


def _integer(data: memoryview, offset: int, size: int) -> int:
    if offset + size > len(data):
        raise FormatError(f"firmware ends at {len(data)} bytes; a field was expected at 0x{offset:x}")
    return int.from_bytes(data[offset : offset + size], "little")


def _guid(data: memoryview, offset: int) -> UUID:
    if offset + 16 > len(data):
        raise FormatError(f"firmware ends at {len(data)} bytes; a GUID was expected at 0x{offset:x}")
    return UUID(bytes_le=bytes(data[offset : offset + 16]))
