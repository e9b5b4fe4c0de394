"""Writes TCG event logs for tests, without the code under test."""

from __future__ import annotations

import hashlib
import struct

ALGORITHMS = {"sha1": 0x4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD, "sm3": 0x12}
SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32}
SEPARATOR, NO_ACTION, ACTION, IPL = 4, 3, 0x80000007, 0xD


def spec_id(*banks, sizes=None, vendor=b"", count=None):
    """Return the data of a Spec ID event."""
    sizes = sizes or {}
    data = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    data += struct.pack("<I", len(banks) if count is None else count)
    for bank in banks:
        data += struct.pack("<HH", ALGORITHMS[bank], sizes.get(bank, SIZES[bank]))
    return data + struct.pack("<B", len(vendor)) + vendor


def sha1_record(register, kind, data, *, digest=None):
    """Return a TCG_PCClientPCREvent."""
    if digest is None:
        digest = bytes(20) if kind == NO_ACTION else hashlib.sha1(data).digest()
    return struct.pack("<II", register, kind) + digest + struct.pack("<I", len(data)) + data


def header(*banks, **arguments):
    """Return the first record of a crypto-agile log."""
    return sha1_record(0, NO_ACTION, spec_id(*banks, **arguments))


def hashed(bank, data):
    """Return a digest; SM3, which hashlib may lack, gets a filler."""
    return b"\x5a" * 32 if bank == "sm3" else hashlib.new(bank, data).digest()


def record(register, kind, data, banks, *, payload=None, digests=None):
    """Return a TCG_PCR_EVENT2 whose digests are of ``payload`` (``data`` when absent)."""
    if digests is None:
        source = data if payload is None else payload
        digests = [
            (bank, bytes(SIZES[bank]) if kind == NO_ACTION else hashed(bank, source)) for bank in banks
        ]
    out = struct.pack("<III", register, kind, len(digests))
    for bank, value in digests:
        out += struct.pack("<H", ALGORITHMS[bank]) + value
    return out + struct.pack("<I", len(data)) + data
