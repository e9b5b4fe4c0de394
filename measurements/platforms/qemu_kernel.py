"""The kernel that QEMU hands to firmware: older releases write into its setup header first.

Implements QEMU hw/i386/x86-common.c, x86_load_linux, for a machine of type q35 with fw_cfg DMA; fields of the
setup header: Linux Documentation/arch/x86/boot.rst. What is computed here is the legacy fw_cfg blob (setup, then
kernel); etc/boot/kernel, which firmware since edk2-stable202502 prefers, is the file itself.
"""

from __future__ import annotations

import struct
from typing import Final

from measurements.errors import NotPredictableError

#: The first QEMU that leaves the header of a confidential guest's kernel alone (commit a7542a38f399).
UNPATCHED_SINCE: Final = (10, 2)

_MAGIC = b"HdrS"
_HEADER_END = 0x250
_REAL_MODE, _COMMAND_LINE = 0x10000, 0x20000
_LOADED_HIGH = 0x01
_ABOVE_4G = 0x02  # xloadflags XLF_CAN_BE_LOADED_ABOVE_4G
_ACPI_DATA_SIZE = 0x28000
_VIDEO_MODES: Final = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}
#: q35: memory below 4 GiB is cut to 2 GiB once there is 2.75 GiB or more.
_LOW_LIMIT, _LOW_SIZE = 0xB0000000, 0x80000000


def patched_kernel(kernel: bytes, *, memory: int, command_line: str, initrd_size: int) -> bytes:
    """Return the kernel with the setup header that QEMU writes; a file without setup header comes back unchanged.

    Args:
        kernel: the file given to ``-kernel``.
        memory: guest RAM in bytes; an initrd is placed below its end.
        command_line: of ``-append``.
        initrd_size: bytes of ``-initrd``; 0 without.

    Raises:
        NotPredictableError: a kernel that is not loaded high (older than Linux 1.3.73), a video mode that is no
            number, or an initrd that does not fit.
    """
    if kernel[0x202:0x206] != _MAGIC or len(kernel) < _HEADER_END:
        return kernel
    protocol = int.from_bytes(kernel[0x206:0x208], "little")
    if protocol < 0x202 or not kernel[0x211] & _LOADED_HIGH:
        raise NotPredictableError(
            f"not predictable: the kernel has boot protocol 0x{protocol:04x} and is not loaded high; "
            "expected 0x0202 or later"
        )
    image = bytearray(kernel)
    struct.pack_into("<I", image, 0x228, _COMMAND_LINE)
    mode = _video_mode(command_line)
    if mode is not None:
        struct.pack_into("<H", image, 0x1FA, mode)
    image[0x210] = 0xB0  # type of loader: QEMU
    image[0x211] |= 0x80  # the heap can be used
    struct.pack_into("<H", image, 0x224, _COMMAND_LINE - _REAL_MODE - 0x200)
    if initrd_size:
        struct.pack_into(
            "<II", image, 0x218, _initrd_address(kernel, protocol, memory, initrd_size), initrd_size
        )
    return bytes(image)


def _initrd_address(kernel: bytes, protocol: int, memory: int, size: int) -> int:
    if protocol >= 0x20C and int.from_bytes(kernel[0x236:0x238], "little") & _ABOVE_4G:
        highest = 0xFFFFFFFF
    elif protocol >= 0x203:
        highest = int.from_bytes(kernel[0x22C:0x230], "little")
    else:
        highest = 0x37FFFFFF
    low = _LOW_SIZE if memory >= _LOW_LIMIT else memory
    highest = min(highest, low - _ACPI_DATA_SIZE - 1)
    if size >= highest:
        raise NotPredictableError(
            f"not predictable: an initrd of {size} bytes does not fit below 0x{max(highest, 0):x}; QEMU refuses it"
        )
    return (highest - size) & ~0xFFF


def _video_mode(command_line: str) -> int | None:
    """Return the value of ``vga=`` as x86_load_linux reads it, or ``None``."""
    place = command_line.find("vga=")
    if place < 0:
        return None
    text = command_line[place + 4 :]
    for name, value in _VIDEO_MODES.items():
        if text.startswith(name):
            return value
    word = text.split(" ", 1)[0]
    try:
        return int(word, 0) & 0xFFFF
    except ValueError:
        raise NotPredictableError(
            f"not predictable: vga={word} is neither normal, ext, ask nor a number"
        ) from None
