"""What a launch needs and the firmware lacks, options that contradict each other, and hostile files."""

import contextlib
import struct

import pytest
import sev_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError, PredictionError
from measurements.snp import features, image, launch, legacy, vmsa
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import load
from measurements.snp.launch import Launch, LaunchDigests
from measurements.snp.pages import PageType
from measurements.snp.vmsa import Vmm

KERNEL = KernelHashes.of(b"kernel")
SVSM_INFO = (samples.guidtable.SVSM_INFO, struct.pack("<I", 0x10))
SVSM = samples.firmware(sections=[(0x800000, 0x1000, 1)], ap_eip=None, hash_table=None, extra=[SVSM_INFO])


def digest(firmware, *, svsm=None, **options):
    loaded = load(firmware)
    below = None if svsm is None else load(svsm, end=loaded.address)
    return LaunchDigests(loaded, below).digest(
        Launch(**{"vmm": Vmm.QEMU, "vcpus": 1, "signature": 1} | options)
    )


def with_sections(*sections):
    return samples.firmware(sections=sections)


@pytest.mark.parametrize(
    ("firmware", "options", "message"),
    [
        (samples.firmware(sections=None), {}, "lacks SEV metadata: it is a build without SEV-SNP"),
        (
            samples.firmware(ap_eip=None),
            {"vcpus": 3},
            "lacks the SEV-ES reset block: it says not where vCPU 2 to 3",
        ),
        (samples.firmware(ap_eip=0), {"vcpus": 2}, "lacks the SEV-ES reset block"),
        (samples.firmware(hash_table=None), {"kernel": KERNEL}, "lacks a kernel hash table"),
        (samples.firmware(hash_table=(0, 0)), {"kernel": KERNEL}, "lacks a kernel hash table"),
        (
            with_sections((0x800000, 0x1000, 1)),
            {"kernel": KERNEL},
            r"lacks a kernel hashes section \(0x10\)",
        ),
        (
            with_sections((0x800000, 0, 0x10)),
            {"kernel": KERNEL},
            r"lacks a kernel hashes section \(0x10\)",
        ),
        (samples.firmware(hash_table=(0x810F80, 0x400)), {"kernel": KERNEL}, "leaves its page"),
        (with_sections((0x800000, 0x1000, 7)), {}, "type 0x7, and how a VMM measures that is not known"),
        (with_sections((0x800800, 0x1000, 1)), {}, "is no whole number of pages"),
        (with_sections((0x800000, 0x1800, 1)), {}, "is no whole number of pages"),
        (with_sections((0x800000, 0x2000, 3)), {}, "CPUID section has 0x2000 bytes; expected one page"),
        (
            with_sections((0x800000, 0x2000, 1), (0x801000, 0x1000, 2)),
            {},
            "adds 0x801000 twice: snp-sec-mem and snp-secrets overlap",
        ),
        (with_sections((0xFFFFE000, 0x1000, 1)), {}, "adds 0xffffe000 twice: .*the loaded file"),
        (with_sections((0xFFFFF000, 0x2000, 1)), {}, "the loaded file"),
        (with_sections((0, 0x5000000, 1)), {}, "covers 83886080 bytes; the limit is 67108864"),
    ],
)
def test_firmware_that_lacks_what_the_launch_needs(firmware, options, message):
    with pytest.raises(PredictionError, match=message):
        digest(firmware, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vcpus": 0}, "0 vCPUs; expected 1 to 4096"),
        ({"vcpus": 4097}, "4097 vCPUs"),
        ({"signature": None}, "qemu measures the CPU's signature"),
        ({"signature": 1 << 32}, "expected 32 bits"),
        ({"features": 0x20}, "guest features 0x20: expected a 64-bit number with bit 0"),
        ({"features": 1 << 64 | 1}, "expected a 64-bit number"),
        ({"vmsa_address": 0x1001}, "expected a page below"),
    ],
)
def test_launches_that_no_vmm_makes(options, message):
    with pytest.raises(PredictionError, match=message):
        digest(samples.firmware(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vmm": Vmm.EC2}, "an SVSM is loaded by QEMU; ec2 loads none"),
        ({"kernel": KERNEL}, "kernel hashes and an SVSM exclude each other"),
        ({"features": 0x21}, "it starts with 0x1"),
    ],
)
def test_options_that_an_svsm_excludes(options, message):
    with pytest.raises(PredictionError, match=message):
        digest(samples.firmware(), svsm=SVSM, **options)


def test_an_svsm_without_entry_point():
    with pytest.raises(PredictionError, match="names no entry point"):
        digest(samples.firmware(), svsm=samples.firmware())


def test_an_svsm_without_metadata():
    with pytest.raises(PredictionError, match="the SVSM lacks SEV metadata"):
        digest(samples.firmware(), svsm=samples.firmware(sections=None, extra=[SVSM_INFO]))


def test_ec2_and_gce_need_no_signature():
    for vmm in (Vmm.EC2, Vmm.GCE):
        assert digest(samples.firmware(), vmm=vmm, signature=None) == digest(samples.firmware(), vmm=vmm)


def test_one_vcpu_needs_no_reset_block():
    assert len(digest(samples.firmware(ap_eip=None))) == 48


def test_a_zero_byte_in_the_command_line():
    with pytest.raises(PredictionError, match="QEMU would cut it there"):
        KernelHashes.of(b"kernel", cmdline="a\0b")


def test_older_guests_lack_the_same():
    with pytest.raises(PredictionError, match="lacks a kernel hash table"):
        legacy.launch_digest(load(samples.firmware(hash_table=None)), kernel=KERNEL)
    state = legacy.EncryptedState(vmm=Vmm.QEMU, vcpus=2, signature=1)
    with pytest.raises(PredictionError, match="lacks the SEV-ES reset block"):
        legacy.launch_digest(load(samples.firmware(ap_eip=None)), state=state)


def test_the_order_of_pages():
    """QEMU: table order; EC2: the CPUID page behind all others; GCE: memory is added unmeasured."""
    loaded = load(samples.firmware())

    def metadata(vmm):
        given = Launch(vmm=vmm, vcpus=1, signature=1)
        regions = list(LaunchDigests(loaded).regions(given))[1:-1]
        return [(region.type, region.address) for region in regions]

    types = {1: PageType.ZERO, 2: PageType.SECRETS, 3: PageType.CPUID, 4: PageType.ZERO, 0x10: PageType.ZERO}
    qemu = [(types[kind], address) for address, _, kind in samples.OVMF_SECTIONS]
    assert metadata(Vmm.QEMU) == qemu
    cpuid = (PageType.CPUID, 0x80E000)
    assert metadata(Vmm.EC2) == [entry for entry in qemu if entry != cpuid] + [cpuid]
    types[1] = PageType.UNMEASURED
    assert metadata(Vmm.GCE) == [(types[kind], address) for address, _, kind in samples.OVMF_SECTIONS]


@pytest.mark.parametrize("data", [b"", bytes(4095), bytes(4097)])
def test_files_that_are_no_pages(data):
    with pytest.raises(FormatError, match="expected a multiple of 4096"):
        load(data)


def test_size_limit(monkeypatch):
    monkeypatch.setattr(image, "MAX_IMAGE_SIZE", 4096)
    with pytest.raises(LimitError, match="the limit is 4096"):
        load(bytes(8192))


def test_a_file_that_reaches_below_zero():
    with pytest.raises(FormatError, match="must end at 0x1000"):
        load(bytes(8192), end=0x1000)


def test_names_of_features():
    assert features.names(0x21) == ("snp-active", "debug-swap")
    assert features.names(1 << 40 | 1) == ("snp-active", "bit-40")


def test_only_the_boot_vcpu_starts_at_the_reset_vector():
    digests = LaunchDigests(load(samples.firmware()))
    regions = list(digests.regions(Launch(vmm=Vmm.QEMU, vcpus=3, signature=1)))
    pages = [region.data for region in regions[-3:]]
    starts = [
        struct.unpack_from("<HHIQ", page, 0x10)[3] + struct.unpack_from("<Q", page, 0x178)[0]
        for page in pages
    ]
    assert starts == [vmsa.RESET_VECTOR, samples.AP_EIP, samples.AP_EIP]


FIRMWARE = samples.firmware(1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_firmware_raises_nothing_else(data):
    mutated = bytearray(FIRMWARE)
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(4096 - 0x600, 4095))] = data.draw(st.integers(0, 255))
    options = {"kernel": data.draw(st.sampled_from([None, KERNEL])), "vcpus": data.draw(st.integers(1, 3))}
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(MeasurementError):
        patch.setattr(launch, "MAX_METADATA_SIZE", 1 << 20)  # a mutated size costs time otherwise
        digest(bytes(mutated), **options)
