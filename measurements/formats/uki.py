"""Unified Kernel Images as systemd-stub reads them.

Implements the UAPI group's Unified Kernel Image specification (UAPI.5) the way systemd-stub selects sections
(src/boot/pe.c pe_locate_profile_sections, src/boot/stub.c find_sections): base sections are those before the
first ``.profile``, and the first profile's sections override them when no profile is asked for. Stubs up to
255 know no profiles, and of sections whose names begin alike they take the last (src/boot/efi/pe.c
locate_sections).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from measurements.errors import FormatError, PredictionError
from measurements.formats import pe
from measurements.formats.pe import PeImage, Section

#: src/fundamental/uki.c: the sections that stubs know, in the order in which they measure them.
STUB_SECTIONS: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrsig",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw",
)  # fmt: skip

#: The last release that compares as many characters as its own name of a section has, up to the last match.
_LAST_OF_PREFIX_UNTIL = 255

_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub (\d{1,4})(?![\d])")
_MAX_MAGIC = 4096
#: An image with one of these and no .linux is a broken UKI or an add-on, not another loader.
_UKI_ONLY = (".cmdline", ".initrd")

_BZIMAGE_MAGIC_OFFSET = 0x202
_BZIMAGE_VERSION_POINTER = 0x20E
_BZIMAGE_SETUP = 0x200
_MAX_KERNEL_VERSION = 256
_KERNEL_VERSION = re.compile(rb"(\d{1,3})\.(\d{1,5})")
_MAJOR_IMAGE_VERSION = 44  # within the optional header


class ImageKind(StrEnum):
    """What the firmware was told to start."""

    UKI = "uki"
    LINUX = "linux"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootImage:
    """The first image that the firmware starts.

    Attributes:
        kind: UKI, a bare kernel with an EFI stub, or any other EFI application.
        image: its PE structure.
        stub: major version of systemd-stub from ``.sdmagic``; ``None`` for another stub, or none.
        sections: a UKI's sections by name, as the stub selects them; empty ones are left out.
    """

    kind: ImageKind
    image: PeImage
    stub: int | None
    sections: Mapping[str, Section] = field(repr=False)

    def chunks(self, name: str) -> tuple[memoryview | bytes, ...]:
        """Return a section's bytes as in memory, uncopied: VirtualSize bytes, zeros beyond the file's."""
        section = self.sections[name]
        if section.raw_size >= section.virtual_size:
            start = section.raw_offset
            return (memoryview(self.image.data)[start : start + section.virtual_size],)
        return (self.image.section_data(section),)

    def data(self, name: str) -> bytes:
        """Return a section's bytes as in memory."""
        return b"".join(self.chunks(name))


def parse(data: bytes) -> BootImage:
    """Parse whatever lies at the removable path or is passed to ``-kernel``.

    Raises:
        FormatError: no PE image that x64 firmware would load.
        PredictionError: a UKI without a ``.linux`` section, which its stub refuses to start.
    """
    image = pe.parse(data)
    stub = _stub_version(image)
    old = stub is not None and stub <= _LAST_OF_PREFIX_UNTIL
    sections = _last_of_prefix(image.sections) if old else _select(image.sections)
    if ".linux" in sections:
        return BootImage(kind=ImageKind.UKI, image=image, stub=stub, sections=sections)
    if stub is not None or any(image.section(name) for name in _UKI_ONLY):
        raise PredictionError(
            "the UKI has no .linux section, so its stub would refuse to start it; "
            "build it with a kernel (ukify build --linux=...)"
        )
    kind = ImageKind.LINUX if _is_bzimage(data) else ImageKind.FOREIGN
    return BootImage(kind=kind, image=image, stub=None, sections={})


def parse_kernel(payload: bytes) -> PeImage:
    """Parse the ``.linux`` section's content.

    Raises:
        PredictionError: it is no EFI executable; the stub cannot start it.
    """
    try:
        return pe.parse(payload)
    except FormatError as error:
        raise PredictionError(
            f"the UKI's .linux section is no EFI executable ({error}); systemd-stub would refuse to start "
            "it: "
            "use a kernel built with CONFIG_EFI_STUB"
        ) from error


def kernel_version(payload: bytes) -> tuple[int, int] | None:
    """Return (major, minor) from a bzImage's setup header; ``None`` when the bytes are no bzImage.

    Linux Documentation/arch/x86/boot.rst, field kernel_version (offset 0x20e, relative to 0x200).
    """
    if not _is_bzimage(payload):
        return None
    start = int.from_bytes(payload[_BZIMAGE_VERSION_POINTER : _BZIMAGE_VERSION_POINTER + 2], "little")
    if start == 0:
        return None
    text = payload[start + _BZIMAGE_SETUP : start + _BZIMAGE_SETUP + _MAX_KERNEL_VERSION]
    match = _KERNEL_VERSION.match(text)
    return (int(match[1]), int(match[2])) if match else None


def takes_initrd_from_stub(kernel: PeImage) -> bool:
    """Whether the kernel fetches its initrd through LoadFile2; older ones are entered by the handover
    protocol.

    systemd src/boot/pe.c pe_kernel_info: PE MajorImageVersion >= 1 (Linux 5.8).
    """
    header: int = struct.unpack_from("<I", kernel.data, 0x3C)[0] if kernel.data[:2] == b"MZ" else 0
    major: int = struct.unpack_from("<H", kernel.data, header + 24 + _MAJOR_IMAGE_VERSION)[0]
    return major >= 1


def _select(table: tuple[Section, ...]) -> dict[str, Section]:
    starts = [index for index, section in enumerate(table) if section.name == ".profile"]
    base = table[: starts[0]] if starts else table
    selected: dict[str, Section] = {}
    # Without "@N" the stub starts profile 0, whose sections override the base ones.
    ranges = [base]
    if starts:
        ranges.append(table[starts[0] : starts[1] if len(starts) > 1 else None])
    for part in ranges:
        # The first section of a name wins within its range, even an empty one.
        selected |= {section.name: section for section in reversed(part) if section.name in STUB_SECTIONS}
    return {name: section for name, section in selected.items() if section.virtual_size}


def _last_of_prefix(table: tuple[Section, ...]) -> dict[str, Section]:
    selected = {name: section for section in table for name in STUB_SECTIONS if section.name.startswith(name)}
    return {name: section for name, section in selected.items() if section.virtual_size}


def _stub_version(image: PeImage) -> int | None:
    section = image.section(".sdmagic")
    if section is None or section.virtual_size > _MAX_MAGIC:
        return None
    match = _MAGIC.search(image.section_data(section))
    return int(match[1]) if match else None


def _is_bzimage(data: bytes) -> bool:
    return data[_BZIMAGE_MAGIC_OFFSET : _BZIMAGE_MAGIC_OFFSET + 4] == b"HdrS"
