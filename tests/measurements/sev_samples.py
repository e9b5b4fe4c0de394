"""Firmware files for SEV launches: pages, SEV metadata and the table at the end, after edk2's OvmfPkg/ResetVector."""

import hashlib
import struct

from measurements.formats import guidtable

PAGE = 4096
FOOTER = guidtable.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
AP_EIP = 0x80B004
HASH_TABLE = (0x810C00, 0x400)

#: What OvmfPkgX64 and AmdSev builds list: (address, size, type).
OVMF_SECTIONS = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x811000, 0x1F000, 1),
    (0x810000, 0x1000, 0x10),
)


def entry(guid, data):
    return data + struct.pack("<H", len(data) + 18) + guid.bytes_le


def table(entries):
    """Return the whole table, its last entry included."""
    body = b"".join(entry(guid, data) for guid, data in entries)
    return body + struct.pack("<H", len(body) + 18) + FOOTER.bytes_le


def metadata(sections, *, version=1, magic=b"ASEV"):
    body = b"".join(struct.pack("<III", *section) for section in sections)
    return struct.pack("<4sIII", magic, 16 + len(body), version, len(sections)) + body


def firmware(
    pages=2, *, sections=OVMF_SECTIONS, ap_eip=AP_EIP, hash_table=HASH_TABLE, seed=b"", extra=(), meta=None
):
    """Return a firmware of ``pages`` pages with pseudo-random content; ``None`` leaves an entry out."""
    meta = metadata(sections or ()) if meta is None else meta
    entries = list(extra)
    if ap_eip is not None:
        entries.append((guidtable.SEV_ES_RESET_BLOCK, struct.pack("<I", ap_eip)))
    if hash_table is not None:
        entries.append((guidtable.SEV_HASH_TABLE, struct.pack("<II", *hash_table)))
    if sections is not None:
        entries.append((guidtable.SEV_METADATA, struct.pack("<I", 0x600)))
    end = table(entries)
    image = bytearray(hashlib.shake_128(seed).digest(pages * PAGE))
    image[-0x600 : -0x600 + len(meta)] = meta
    image[-32 - len(end) : -32] = end
    return bytes(image)
