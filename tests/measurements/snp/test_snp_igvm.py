"""Launch digests of IGVM files.

An IGVM file that makes a loader add the same pages as QEMU does for a firmware file must have the digest that
sev-snp-measure computes for that firmware. What the sources of coconut-svsm igvmmeasure and microsoft/igvm say beside
that is tested by page types.
"""

import struct

import firmware_files
import igvm_samples
import pytest
import sev_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure import guest, vmsa
from sevsnpmeasure.sev_mode import SevMode

from measurements.errors import MeasurementError, PredictionError
from measurements.formats import guidtable, igvm, sevmetadata
from measurements.snp import igvm as measured
from measurements.snp.igvm import Loader, regions
from measurements.snp.pages import INITIAL_DIGEST, PageType, extend, walk

MILAN = 0xA00F11


def digest(file, loader=Loader.SPECIFICATION):
    return extend(INITIAL_DIGEST, regions(igvm.parse(file.build()), loader))


def like_qemu(firmware, vcpus):
    """Return a file that adds what QEMU adds for a firmware, with the vCPU state of sev-snp-measure."""
    file = igvm_samples.File().add(igvm_samples.platform()).add(igvm_samples.policy())
    start = (1 << 32) - len(firmware)
    for offset in range(0, len(firmware), 4096):
        file.page(start + offset, firmware[offset : offset + 4096])
    for section in sevmetadata.parse(firmware, guidtable.parse(firmware)):
        for offset in range(0, section.size, 4096):
            file.page(section.address + offset, kind={2: 1, 3: 2}.get(section.type, 0))
    state = vmsa.VMSA(SevMode.SEV_SNP, sev_samples.AP_EIP, MILAN, 1)
    for number, page in enumerate(state.pages(vcpus)):
        file.context(page, index=number)
    return file


def kvm_regions(file):
    return list(regions(igvm.parse(file.build()), Loader.QEMU))


@pytest.mark.parametrize("real", [False, True])
def test_digest_of_the_same_pages(real):
    firmware = firmware_files.ovmf_amdsev() if real else sev_samples.firmware()
    with firmware_files.as_file(firmware) as path:
        expected = guest.calc_launch_digest(SevMode.SEV_SNP, 1, MILAN, path, "", "", "", 1)
    with pytest.MonkeyPatch.context() as patch:
        # OVMF starts in real mode, where KVM leaves CR0 at 0x10.
        patch.setattr(measured, "_KVM_CR0", (0x10,))
        assert digest(like_qemu(firmware, 1), Loader.QEMU) == expected


def test_pages_without_data():
    """The format: a page of zeros. QEMU and igvmmeasure --native-zero: a page of type ZERO."""
    small = igvm_samples.small()
    (page,) = [region for region in regions(igvm.parse(small.build())) if region.address == 0x3000]
    assert page.type is PageType.NORMAL and bytes(page.data) == bytes(4096)
    (page,) = [region for region in kvm_regions(small) if region.address == 0x3000]
    assert page.type is PageType.ZERO and page.data is None
    assert digest(small) != digest(small, Loader.QEMU)


def test_every_kind_of_page():
    file = igvm_samples.small().page(0x10000, kind=3).page(0x11000, b"\7" * 4096, flags=2)
    found = [(region.type, region.address, region.size) for region in regions(igvm.parse(file.build()))]
    assert found[2:] == [
        (PageType.NORMAL, 0x3000, 4096),
        (PageType.SECRETS, 0x4000, 4096),
        (PageType.CPUID, 0x5000, 4096),
        (PageType.UNMEASURED, 0x6000, 8192),
        (PageType.VMSA, igvm_samples.VMSA_ADDRESS, 4096),
        (PageType.CPUID, 0x10000, 4096),
        (PageType.UNMEASURED, 0x11000, 4096),
    ]


def test_large_pages_are_measured_page_by_page():
    data = bytes(range(256)) * (2 << 12) + b"end".ljust(4096, b"\0")
    data = data[: 2 << 20]
    large = igvm_samples.File().add(igvm_samples.platform()).page(2 << 20, data, flags=1).context(bytes(4096))
    split = igvm_samples.File().add(igvm_samples.platform())
    for offset in range(0, 2 << 20, 4096):
        split.page((2 << 20) + offset, data[offset : offset + 4096])
    assert digest(large) == digest(split.context(bytes(4096)))
    assert len(list(walk(regions(igvm.parse(large.build()))))) == 513


def test_other_platforms_and_shared_pages_are_left_out():
    both = igvm_samples.File().add(igvm_samples.platform()).add(igvm_samples.platform(kind=3, mask=2))
    both.page(0x1000, b"\1" * 4096).page(0x2000, b"\2" * 4096, mask=2).page(0x3000, flags=4)
    one = igvm_samples.File().add(igvm_samples.platform()).page(0x1000, b"\1" * 4096)
    assert digest(both.context(bytes(4096))) == digest(one.context(bytes(4096)))


def test_qemu_knows_no_shared_pages():
    file = igvm_samples.File().add(igvm_samples.platform()).page(0x3000, b"\3" * 4096, flags=4)
    file.context(bytes(0x158) + struct.pack("<Q", 0x31).ljust(4096 - 0x158, b"\0"))
    assert [region.address for region in regions(igvm.parse(file.build()))] == [igvm_samples.VMSA_ADDRESS]
    assert [region.address for region in kvm_regions(file)] == [0x3000, igvm_samples.VMSA_ADDRESS]


BROKEN = igvm_samples.File


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (BROKEN().add(igvm_samples.platform(kind=3)), r"names SEV-SNP 0 times among its platforms \(tdx\)"),
        (
            BROKEN().add(igvm_samples.platform()).add(igvm_samples.platform(mask=2)),
            "names SEV-SNP 2 times",
        ),
        (BROKEN().add(igvm_samples.platform()).page(0x1000), "holds no vCPU state"),
        (BROKEN().add(igvm_samples.platform()).page(0x1000, kind=9), "is of type 9; known are 0 to 3"),
        (
            BROKEN()
            .add(igvm_samples.platform())
            .add(igvm_samples.header(0x303, struct.pack("<QII", 0, 1, 7))),
            "inserts parameter area 7, which it does not have",
        ),
        (
            BROKEN().add(igvm_samples.platform()).add(igvm_samples.header(0x399, b"")),
            "header of type 0x399, which is not known here",
        ),
    ],
)
def test_files_that_no_loader_starts(file, message):
    with pytest.raises(PredictionError, match=message):
        digest(file)


def test_parameter_areas_are_inserted_once():
    file = igvm_samples.small().add(igvm_samples.header(0x303, struct.pack("<QII", 0x20000, 1, 0)))
    with pytest.raises(PredictionError, match="does not have"):
        digest(file)


def test_headers_that_a_loader_may_leave_out():
    file = igvm_samples.small()
    assert digest(igvm_samples.small().add(igvm_samples.header(0x80000399, b""))) == digest(file)


def test_too_many_pages(monkeypatch):
    monkeypatch.setattr(measured, "MAX_PAGES", 4)
    with pytest.raises(PredictionError, match="more than 4 pages"):
        digest(igvm_samples.small())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (igvm_samples.small().context(bytes(4096), index=1), "the state of several vCPUs"),
        (igvm_samples.small().page(0x9000), "adds 0x9000 behind the vCPU's state"),
        (
            BROKEN().add(igvm_samples.platform()).context(bytes(4096), address=0x1000),
            "places the vCPU's state at 0x1000",
        ),
        (BROKEN().add(igvm_samples.platform()).context(bytes(4096)), "starts with CR0 0x0"),
    ],
)
def test_what_kvm_would_measure_otherwise(file, message):
    assert len(digest(file)) == 48
    with pytest.raises(PredictionError, match=message):
        kvm_regions(file)


SMALL = igvm_samples.small().build()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_files_raise_nothing_else(data):
    mutated = bytearray(SMALL)
    end = 24 + struct.unpack_from("<I", SMALL, 12)[0]
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(24, end - 1))] = data.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "MAX_PAGES", 2048)
        try:
            extend(INITIAL_DIGEST, regions(igvm.parse(igvm_samples.seal(bytes(mutated))), Loader.QEMU))
        except MeasurementError:
            return
