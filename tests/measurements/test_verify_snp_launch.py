"""Which launch a SEV-SNP guest is, check 15: its digest, and what is said where the host launched something else."""

import hashlib
from dataclasses import replace

import layer_samples
import pytest
from attester import Machine, document, prediction, signed
from confidential_samples import snp
from snp_verifying import GOLDEN, LAUNCHES, failed, report, run

from measurements.prediction import BootPath, FirmwareIdentity
from measurements.profile import profile_of
from measurements.snp.features import SevFeatures
from measurements.snp.hashes import KernelHashes
from measurements.snp.vmsa import Vmm, reset_page


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda item: item.name)
def test_every_launch_of_the_document_passes(launch):
    verdict = run(report(launch.launch_digest.value))
    assert verdict.passed and verdict.shape == launch.name


def rolled():
    """A release that knows other firmware alone, and a profile of this one whose author started another kernel."""
    layer = layer_samples.layer_of(Machine())  # with the kernel hashes of b"uki"
    old = replace(GOLDEN, sev_snp=(snp(seed=b"old", vcpus=2),), image_layer=layer)
    other = replace(layer, kernel_hashes=KernelHashes.of(b"another kernel"))
    launches = [replace(snp(uki=b"another kernel", vcpus=vcpus), platform="rolled") for vcpus in (1, 2)]
    return signed(old), (profile_of(other, name="amdsev", sev_snp=launches),)


def test_firmware_of_a_profile_passes_and_without_it_does_not():
    golden, profiles = rolled()
    assert "is the digest of none of 1 launches" in failed(run(golden=golden))["launch shape"]
    verdict = run(golden=golden, profiles=profiles)
    assert verdict.passed, verdict.failures
    assert verdict.shape == "rolled/ovmf-amdsev/direct/EPYC-Milan/2-vcpus"
    assert f"{verdict.shape}, by the verifier's profile amdsev" in [check.detail for check in verdict.checks]


def test_the_kernel_of_the_profiles_author_does_not_pass():
    golden, profiles = rolled()
    theirs = snp(uki=b"another kernel", vcpus=2).launch_digest.value
    assert "launch shape" in failed(run(report(theirs), golden=golden, profiles=profiles))


# 15: the host launched something else; each is named where an option explains it
def launched(**options):
    return snp(**({"vcpus": 2, "cpu": "EPYC-Milan"} | options)).launch_digest.value


def without_fpu(vcpus=2):
    """Return the digest that a host before Linux 6.10 makes: MXCSR and the x87 control word are zero."""
    reference = snp(vcpus=vcpus)
    steps = list(reference.steps)
    for at, step in enumerate(steps):
        if step.cause.startswith("vCPU"):
            start = 0xFFFFFFF0 if step.cause == "vCPU 1" else 0x80B004
            page = bytearray(reset_page(Vmm.QEMU, start=start, signature=0x00A00F11, features=1))
            assert hashlib.sha384(page).digest() == step.contents
            page[0x408:0x40C], page[0x410:0x412] = bytes(4), bytes(2)
            steps[at] = replace(step, contents=hashlib.sha384(page).digest())
    return replace(reference, steps=tuple(steps)).launch_digest.value


@pytest.mark.parametrize(
    ("digest", "words", "near"),
    [
        (launched(vcpus=3), "3 vCPUs in place of", "EPYC-Milan"),
        (launched(cpu="EPYC-Turin"), "a CPU model like EPYC-Turin in place of EPYC-", "2-vcpus"),
        (launched(cpu="EPYC-Rome", vcpus=7), "7 vCPUs in place of 4, a CPU model like EPYC-Rome", "4-vcpus"),
        (without_fpu(), "the host's kernel, which is older than Linux 6.10", "EPYC-Milan/2-vcpus"),
    ],
    ids=["another-number-of-vcpus", "another-cpu-model", "both", "an-old-host"],
)
def test_launch_with_other_options(digest, words, near):
    verdict = run(report(digest))
    found = failed(verdict)
    assert [*found] == ["launch shape"]
    assert words in found["launch shape"] and near in verdict.shape
    (value,) = verdict.values
    assert not value.equal and words in value.reason


def test_host_that_leaves_the_kernel_hashes_out():
    """Then the firmware starts any kernel: QEMU's kernel-hashes=off on firmware with an area for them."""
    found = failed(run(report(launched(uki=None))))
    assert "the kernel hashes, which the host left out: it may start any kernel" in found["launch shape"]


@pytest.mark.parametrize("options", [{"uki": b"evil kernel"}, {"seed": b"evil firmware"}])
def test_other_kernel_or_firmware(options):
    found = failed(run(report(launched(**options))))
    assert [*found] == ["launch shape"]
    assert "another firmware, kernel, initrd or command line" in found["launch shape"]


def test_launch_that_the_policy_does_not_name():
    name = LAUNCHES[0].name
    assert run(report(LAUNCHES[0].launch_digest.value), shape=name).passed
    found = failed(run(shape=name))
    assert "2 vCPUs in place of 1" in found["launch shape"]
    assert "has no SEV-SNP launch 'other'" in failed(run(shape="other"))["launch shape"]


def test_release_that_has_no_such_launch():
    found = failed(run(golden=signed(document(prediction()))))
    assert [*found] == ["launch shape"] and "has no SEV-SNP launch" in found["launch shape"]


def test_digest_that_binds_no_image():
    """A launch without kernel hashes is a launch of firmware: whatever is on the disk boots."""
    disk = snp(uki=None)
    assert disk.boot is BootPath.DISK
    golden, data = signed(replace(GOLDEN, sev_snp=(disk,))), report(disk.launch_digest.value)
    assert "without kernel hashes" in failed(run(data, golden=golden))["launch shape"]
    verdict = run(data, golden=golden, firmware_only=True)
    assert verdict.passed and "what boots is not in the digest" in verdict.warnings[0]


def test_features_that_the_host_switched_on():
    debug_swap = int(SevFeatures.SNP_ACTIVE | SevFeatures.DEBUG_SWAP)
    reference = snp(vcpus=1)
    page = reset_page(Vmm.QEMU, start=0xFFFFFFF0, signature=0x00A00F11, features=debug_swap)
    steps = (*reference.steps[:-1], replace(reference.steps[-1], contents=hashlib.sha384(page).digest()))
    found = failed(run(report(replace(reference, steps=steps).launch_digest.value)))
    assert "SEV_FEATURES 0x21 in place of 0x1" in found["launch shape"]


def test_firmware_is_told_apart_by_its_name():
    other = replace(
        LAUNCHES[1], firmware=FirmwareIdentity.of("another", b"the same digest under another name")
    )
    golden = signed(replace(GOLDEN, sev_snp=(LAUNCHES[1], other)))
    verdict = run(golden=golden)
    assert verdict.passed and "the digest is also that of qemu-snp/another" in verdict.checks[14].detail
