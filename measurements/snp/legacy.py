"""Launch digests of SEV and SEV-ES: SHA-256 over what LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA encrypt.

Implements the SEV API Specification (AMD 55766) 0.24, 6.2 to 6.5, over what QEMU's target/i386/sev.c adds: the
firmware, the kernel hash table, then (SEV-ES) one save area per vCPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from measurements.errors import PredictionError
from measurements.snp import vmsa
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import LaunchImage
from measurements.snp.launch import check_ap_start, check_vcpus
from measurements.snp.vmsa import Vmm


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPart:
    """One step of the digest.

    Attributes:
        cause: the input ("firmware", "kernel hashes", "vCPU 1").
        size: bytes.
        digest: the launch digest after this part, 32 bytes.
    """

    cause: str
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedState:
    """What SEV-ES adds to SEV.

    Attributes:
        vmm: who starts the guest.
        vcpus: 1 to 4096.
        signature: CPUID Fn0000_0001_EAX of the CPU model; ``None`` where the VMM does not measure it.
    """

    vmm: Vmm
    vcpus: int
    signature: int | None = None


def walk(
    firmware: LaunchImage, *, kernel: KernelHashes | None = None, state: EncryptedState | None = None
) -> Iterator[MeasuredPart]:
    """Yield every part with the digest after it; the last one's is the launch digest.

    Args:
        firmware: OVMF.
        kernel: ``-kernel`` with ``kernel-hashes=on``; ``None`` for a boot from disk.
        state: the vCPUs, for SEV-ES; ``None`` for SEV.

    Raises:
        PredictionError: the firmware lacks what the launch needs, or the vCPUs are none that a VMM takes.
    """
    parts = [("firmware", firmware.data)]
    if kernel is not None:
        if firmware.hash_table is None:
            raise PredictionError(
                "the firmware lacks a kernel hash table, so that it would start any kernel: "
                "use a build that verifies hashes, as OVMF.amdsev.fd, or boot from disk"
            )
        parts.append(("kernel hashes", kernel.table()))
    if state is not None:
        check_vcpus(state.vmm, state.vcpus, state.signature)
        check_ap_start(firmware, state.vcpus)
        parts += _save_areas(firmware, state)
    digest = hashlib.sha256()
    for cause, data in parts:
        digest.update(data)
        yield MeasuredPart(cause=cause, size=len(data), digest=digest.digest())


def launch_digest(
    firmware: LaunchImage, *, kernel: KernelHashes | None = None, state: EncryptedState | None = None
) -> bytes:
    """Return the launch digest, 32 bytes; arguments and errors are those of ``walk``."""
    *_, last = walk(firmware, kernel=kernel, state=state)
    return last.digest


def _save_areas(firmware: LaunchImage, state: EncryptedState) -> list[tuple[str, bytes]]:
    def page(start: int) -> bytes:
        return vmsa.reset_page(state.vmm, start=start, signature=state.signature or 0, features=0)

    areas = [("vCPU 1", page(vmsa.RESET_VECTOR))]
    if state.vcpus > 1:
        assert firmware.ap_start is not None
        other = page(firmware.ap_start)
        areas += [(f"vCPU {number}", other) for number in range(2, state.vcpus + 1)]
    return areas
