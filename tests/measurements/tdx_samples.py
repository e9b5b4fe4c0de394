"""Firmware files for trust domains: TDVF metadata after Intel's design guide, layouts after builds that exist."""

import hashlib
import struct

from sev_samples import table

from measurements.formats import guidtable

PAGE = 0x1000
#: Four sections that every known build lists: (offset, bytes in file, address, bytes in memory, type, attributes).
COMMON = (
    (0, 0, 0x80B000, 0x2000, 3, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x800000, 0x6000, 3, 0),
)
#: OvmfPkgX64 2025.02 and IntelTdx builds differ in one section.
OVMF = (
    (0x84000, 0x37C000, 0xFFC84000, 0x37C000, 0, 1),
    (0, 0x84000, 0xFFC00000, 0x84000, 1, 0),
    (0, 0, 0x811000, 0xF000, 3, 0),
    *COMMON,
)
INTEL_TDX = (*OVMF[:2], (0, 0, 0x810000, 0x10000, 3, 0), *COMMON)
#: Google Compute Engine's firmware has 2 MiB.
GCE = (
    (0x20000, 0x1E0000, 0xFFE20000, 0x1E0000, 0, 1),
    (0, 0x20000, 0xFFE00000, 0x20000, 1, 0),
    *INTEL_TDX[2:],
)
#: Small enough to count: a page of variables, two of code, the TD HOB, temporary memory.
SMALL = (
    (0x1000, 0x2000, 0xFFFFE000, 0x2000, 0, 1),
    (0, 0x1000, 0xFFFFD000, 0x1000, 1, 0),
    (0, 0, 0x810000, 0x1000, 3, 0),
    (0, 0, 0x809000, 0x1000, 2, 0),
)


def metadata(sections, *, version=1, magic=b"TDVF", length=None):
    body = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    return struct.pack("<4sIII", magic, length or 16 + len(body), version, len(sections)) + body


def firmware(sections=SMALL, *, size=None, seed=b"", meta=None, distance=0x800):
    """Return a firmware file of as many bytes as the sections need, with pseudo-random contents."""
    size = max(offset + raw for offset, raw, *_ in sections) if size is None else size
    meta = metadata(sections) if meta is None else meta
    end = table([(guidtable.TDX_METADATA, struct.pack("<I", distance))])
    image = bytearray(hashlib.shake_128(seed).digest(size))
    image[-0x800 : -0x800 + len(meta)] = meta
    image[-32 - len(end) : -32] = end
    return bytes(image)
