"""Reference values of SEV-SNP launches and trust domains, of small generated firmware."""

from __future__ import annotations

import hashlib

import sev_samples
import tdx_samples

from measurements.golden import sev_snp_reference, tdx_reference
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.snp.cpu import MODELS
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import load
from measurements.snp.launch import Launch, LaunchDigests
from measurements.snp.vmsa import Vmm
from measurements.tdx.inputs import TdxInputs
from measurements.tdx.predict import predict_tdx


def identity(name, data):
    return FirmwareIdentity(
        name=name, sha256=hashlib.sha256(data).hexdigest(), sha384=hashlib.sha384(data).hexdigest()
    )


def snp_launch(*, vcpus=4, cpu="EPYC-Milan", uki=b"uki", vmm=Vmm.QEMU):
    return Launch(
        vmm=vmm,
        vcpus=vcpus,
        signature=None if cpu is None else MODELS[cpu],
        kernel=None if uki is None else KernelHashes.of(uki),
    )


def snp(*, seed=b"", cpu="EPYC-Milan", **launch):
    """Return a reference of one launch."""
    firmware = sev_samples.firmware(seed=seed)
    wanted = snp_launch(cpu=cpu, **launch)
    return sev_snp_reference(
        LaunchDigests(load(firmware)),
        wanted,
        platform="qemu-snp",
        firmware=identity("ovmf-amdsev", firmware),
        boot=BootPath.DISK if wanted.kernel is None else BootPath.DIRECT,
        cpu=cpu,
    )


def tdx(*, seed=b"", memory_mib=2048, vcpus=2):
    """Return a reference of one trust domain."""
    inputs = TdxInputs(
        firmware_name="ovmf-inteltdx",
        firmware=tdx_samples.firmware(seed=seed),
        memory_mib=memory_mib,
        vcpus=vcpus,
    )
    return tdx_reference(predict_tdx(inputs), inputs, platform="qemu-tdx", machine="pc-q35-10.1")
