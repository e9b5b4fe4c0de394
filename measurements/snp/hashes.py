"""Kernel hashes: how QEMU binds ``-kernel``, ``-initrd`` and ``-append`` to the launch digest.

Implements QEMU target/i386/sev.c (SevHashTable, build_kernel_loader_hashes); OVMF's BlobVerifierLibSevHashes
compares what fw_cfg delivers with the table.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from measurements.errors import PredictionError

TABLE_SIZE: Final = 176

_TABLE = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_CMDLINE = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_ENTRY_SIZE = 50
_ENTRIES_SIZE = 168


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHashes:
    """SHA-256 (32 bytes each) of the three inputs.

    Attributes:
        kernel: of the whole file that ``-kernel`` names: a bzImage or a UKI.
        initrd: of ``-initrd``; of nothing where there is none.
        cmdline: of the command line and its terminating zero.
    """

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, kernel: bytes, *, initrd: bytes = b"", cmdline: str = "") -> KernelHashes:
        """Hash the inputs themselves."""
        return cls.of_digests(
            hashlib.sha256(kernel).digest(), initrd=hashlib.sha256(initrd).digest(), cmdline=cmdline
        )

    @classmethod
    def of_digests(cls, kernel: bytes, *, initrd: bytes | None = None, cmdline: str = "") -> KernelHashes:
        """Take the SHA-256 of kernel and initrd as they are.

        Raises:
            PredictionError: the command line holds a zero, where QEMU would end it.
        """
        if "\0" in cmdline:
            raise PredictionError("the command line holds a zero byte; QEMU would cut it there")
        text = cmdline.encode("utf-8", "surrogateescape") + b"\0"
        return cls(
            kernel=kernel,
            initrd=hashlib.sha256(b"").digest() if initrd is None else initrd,
            cmdline=hashlib.sha256(text).digest(),
        )

    def table(self) -> bytes:
        """Return the 176 bytes that QEMU puts into guest memory."""
        # The order is the specification.
        entries = b"".join(
            guid.bytes_le + struct.pack("<H", _ENTRY_SIZE) + digest
            for guid, digest in ((_CMDLINE, self.cmdline), (_INITRD, self.initrd), (_KERNEL, self.kernel))
        )
        table = _TABLE.bytes_le + struct.pack("<H", _ENTRIES_SIZE) + entries
        return table.ljust(TABLE_SIZE, b"\0")
