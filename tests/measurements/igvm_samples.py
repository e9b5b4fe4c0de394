"""IGVM files, written after igvm_defs of microsoft/igvm."""

import struct
import zlib

SNP_MASK = 1
VMSA_ADDRESS = 0xFFFFFFFFF000


def header(header_type, body):
    return struct.pack("<II", header_type, len(body)) + body + bytes(-len(body) % 8)


def platform(kind=2, mask=SNP_MASK):
    return header(0x1, struct.pack("<IBBHQ", mask, 0, kind, 1, 0))


def policy(value=0x30000, mask=SNP_MASK):
    return header(0x101, struct.pack("<QII", value, mask, 0))


class File:
    """Collects headers and data; ``build`` lays them out."""

    def __init__(self, version=1):
        self.version = version
        self._parts = []  # functions from the offset of the file data to a header
        self._data = b""

    def add(self, raw):
        self._parts.append(lambda start: raw)
        return self

    def _stored(self, data):
        offset = len(self._data)
        self._data += data
        return offset

    def page(self, address, data=None, *, kind=0, flags=0, mask=SNP_MASK):
        at = None if data is None else self._stored(data)
        self._parts.append(
            lambda start: header(
                0x302,
                struct.pack("<QIIIHH", address, mask, 0 if at is None else start + at, flags, kind, 0),
            )
        )
        return self

    def context(self, data, *, address=VMSA_ADDRESS, index=0, mask=SNP_MASK):
        at = self._stored(data)
        self._parts.append(
            lambda start: header(0x304, struct.pack("<QIIHH", address, mask, start + at, index, 0))
        )
        return self

    def parameter(self, address, size, *, index=0, mask=SNP_MASK):
        self.add(header(0x301, struct.pack("<QII", size, index, 0)))
        return self.add(header(0x303, struct.pack("<QII", address, mask, index)))

    def id_block(self, digest, *, svn=3, mask=SNP_MASK):
        body = struct.pack("<IB3x48s16s16sIIII", mask, 1, digest, b"f" * 16, b"i" * 16, 1, svn, 1, 1)
        return self.add(header(0x30B, body + bytes(2 * (144 + 152))))

    def build(self):
        fixed = 24 if self.version == 1 else 32
        size = sum(len(part(0)) for part in self._parts)
        start = fixed + size
        body = b"".join(part(start) for part in self._parts)
        total = start + len(self._data)
        return seal(
            struct.pack("<4sIIIII", b"IGVM", self.version, fixed, size, total, 0)
            + (b"" if self.version == 1 else struct.pack("<II", 0, 4096))
            + body
            + self._data
        )


def seal(data):
    """Return ``data`` with the checksum that its headers have."""
    _, version, start, size = struct.unpack_from("<4sIII", data)
    fixed = 24 if version == 1 else 32
    blank = data[:20] + bytes(4) + data[24:fixed]
    checksum = zlib.crc32(data[start : start + size], zlib.crc32(blank))
    return data[:20] + struct.pack("<I", checksum) + data[24:]


def small():
    """Return a file with one of everything that is measured."""
    return (
        File()
        .add(platform())
        .add(policy())
        .page(0x1000, b"\1" * 4096)
        .page(0x2000, b"\2" * 4096)
        .page(0x3000)
        .page(0x4000, kind=1)
        .page(0x5000, kind=2)
        .parameter(0x6000, 0x2000)
        .context(bytes(0x158) + struct.pack("<Q", 0x31).ljust(4096 - 0x158, b"\0"))
    )
