"""Launch digests are those of the PyPI package sev-snp-measure; where it is wrong, the difference is a test.

The package's own tests compare with hardware reports; its values for GCE equal those of google/gce-tcb-verifier.
"""

from pathlib import Path

import firmware_files
import pytest
import sev_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure import guest, vcpu_types, vmm_types, vmsa
from sevsnpmeasure.sev_mode import SevMode

from measurements.snp import cpu, legacy
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import load
from measurements.snp.launch import Launch, LaunchDigests
from measurements.snp.vmsa import Vmm

THEIR_VMM = {
    Vmm.QEMU: vmm_types.VMMType.QEMU,
    Vmm.EC2: vmm_types.VMMType.ec2,
    Vmm.GCE: vmm_types.VMMType.gce,
}
#: The first pages, which every build begins with, in any order; then where a section may lie.
PLACES = [0x800000 + number * 0x20000 for number in range(12)]

kernels = st.none() | st.tuples(
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=64),
    st.text(max_size=40).filter(lambda t: "\0" not in t),
)
features = st.integers(0, (1 << 63) - 1).map(lambda value: value << 1 | 1)
counts = st.integers(1, 40)


@st.composite
def section_lists(draw, *, hashes):
    """Sections that a VMM takes: no two overlap, pages of secrets and of CPUID come alone."""
    kinds = draw(st.lists(st.sampled_from([1, 1, 2, 3, 4, 0x10]), max_size=len(PLACES) - 1))
    if hashes and 0x10 not in kinds:
        kinds.append(0x10)
    places = draw(st.permutations(PLACES))
    return [
        (place, 0x1000 * (draw(st.integers(1, 32)) if kind in (1, 4) else 1), kind)
        for place, kind in zip(places, kinds, strict=False)
    ]


@st.composite
def firmwares(draw, *, hashes):
    return samples.firmware(
        draw(st.integers(1, 5)),
        sections=draw(section_lists(hashes=hashes)),
        ap_eip=draw(st.integers(1, 0xFFFFFFFF)),
        hash_table=(0x810000 + draw(st.integers(1, 4096 - 176)), 0x400),
        seed=draw(st.binary(max_size=4)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


def theirs(folder, mode, image, vmm, *, vcpus, signature, features=1, kernel=None, svsm="", vars_size=0):
    """Return what sev-snp-measure computes; it takes paths only."""
    path = folder / "firmware"
    path.write_bytes(image)
    names = ["", ""]
    if kernel is not None:
        names = [str(folder / "kernel"), str(folder / "initrd")]
        for name, data in zip(names, kernel, strict=False):
            Path(name).write_bytes(data)
    return guest.calc_launch_digest(
        mode, vcpus, signature, str(path), *names, kernel[2] if kernel else "", features,
        vmm_type=THEIR_VMM[vmm], svsm_file=svsm, ovmf_vars_size=vars_size,
    )  # fmt: skip


def hashes_of(kernel):
    return None if kernel is None else KernelHashes.of(kernel[0], initrd=kernel[1], cmdline=kernel[2])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), vmm=st.sampled_from(Vmm), vcpus=counts, features=features, kernel=kernels)
def test_generated_firmware(folder, data, vmm, vcpus, features, kernel):
    image = data.draw(firmwares(hashes=kernel is not None))
    signature = data.draw(st.integers(0, 0xFFFFFFFF))
    launch = Launch(vmm=vmm, vcpus=vcpus, signature=signature, features=features, kernel=hashes_of(kernel))
    expected = theirs(
        folder,
        SevMode.SEV_SNP,
        image,
        vmm,
        vcpus=vcpus,
        signature=signature,
        features=features,
        kernel=kernel,
    )
    digests = LaunchDigests(load(image))
    assert digests.digest(launch) == expected
    *_, last = digests.walk(launch)
    assert last.digest == expected and digests.pages(launch) == len(list(digests.walk(launch)))


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    vmm=st.sampled_from(Vmm),
    vcpus=counts,
    kernel=kernels,
    mode=st.sampled_from(["sev", "seves"]),
)
def test_generated_firmware_of_older_guests(folder, data, vmm, vcpus, kernel, mode):
    image = data.draw(firmwares(hashes=False))
    signature = data.draw(st.integers(0, 0xFFFFFFFF))
    state = legacy.EncryptedState(vmm=vmm, vcpus=vcpus, signature=signature) if mode == "seves" else None
    expected = theirs(
        folder, SevMode.from_str(mode), image, vmm, vcpus=vcpus, signature=signature, kernel=kernel
    )
    assert legacy.launch_digest(load(image), kernel=hashes_of(kernel), state=state) == expected


@pytest.mark.parametrize("build", ["amdsev", *firmware_files.RELEASES])
@pytest.mark.parametrize("vmm", list(Vmm))
def test_debians_firmware(folder, build, vmm):
    image = firmware_files.ovmf_amdsev() if build == "amdsev" else firmware_files.ovmf(build)
    digests = LaunchDigests(load(image))
    given_kernels = [None] if build == "2025.02" else [None, (b"kernel", b"initrd", "console=ttyS0")]
    for kernel in given_kernels:
        for model, vcpus, features in (("EPYC-Milan", 1, 1), ("EPYC-Genoa", 7, 0x21), ("EPYC-v4", 64, 1)):
            expected = theirs(
                folder, SevMode.SEV_SNP, image, vmm, vcpus=vcpus, signature=vcpu_types.CPU_SIGS[model],
                features=features, kernel=kernel,
            )  # fmt: skip
            launch = Launch(
                vmm=vmm, vcpus=vcpus, signature=cpu.MODELS[model], features=features, kernel=hashes_of(kernel)
            )
            assert digests.digest(launch) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_real_firmware_with_random_launches(folder, data):
    image = firmware_files.ovmf_amdsev()
    vmm, vcpus, kernel = data.draw(st.sampled_from(Vmm)), data.draw(counts), data.draw(kernels)
    signature, bits = data.draw(st.integers(0, 0xFFFFFFFF)), data.draw(features)
    expected = theirs(
        folder, SevMode.SEV_SNP, image, vmm, vcpus=vcpus, signature=signature, features=bits, kernel=kernel
    )
    launch = Launch(vmm=vmm, vcpus=vcpus, signature=signature, features=bits, kernel=hashes_of(kernel))
    assert LaunchDigests(load(image)).digest(launch) == expected


def test_cpu_models_have_their_signatures():
    known = {name: cpu.MODELS[name] for name in vcpu_types.CPU_SIGS}
    assert known == vcpu_types.CPU_SIGS


def svsm_file(data):
    return samples.firmware(
        data.draw(st.integers(1, 3)),
        sections=[section for section in data.draw(section_lists(hashes=False)) if section[2] != 0x10],
        ap_eip=None,
        hash_table=None,
        extra=[(samples.guidtable.SVSM_INFO, data.draw(st.integers(0, 0xFFF)).to_bytes(4, "little"))],
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), vcpus=counts, signature=st.integers(0, 0xFFFFFFFF))
def test_svsm_but_for_the_floating_point_control_word(folder, data, vcpus, signature):
    """sev-snp-measure passes ``fcw=``, which is no field of its structure, so that x87_fcw stays zero.

    KVM copies the vCPU's floating point area into the page for SVSM guests as for all others (specification, 4.5);
    with the name corrected, the package computes what hardware measures.
    """
    image, svsm = samples.firmware(2), svsm_file(data)
    (folder / "svsm").write_bytes(svsm)
    vars_size = data.draw(st.integers(0, 4)) * 4096
    options = {"vcpus": vcpus, "signature": signature, "svsm": str(folder / "svsm"), "vars_size": vars_size}
    wrong = theirs(folder, SevMode.SEV_SNP_SVSM, image, Vmm.QEMU, **options)
    original = vmsa.SevEsSaveArea
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vmsa, "SevEsSaveArea", lambda *, fcw=0, **fields: original(**{"x87_fcw": fcw, **fields})
        )
        right = theirs(folder, SevMode.SEV_SNP_SVSM, image, Vmm.QEMU, **options)
    firmware = load(image)
    digests = LaunchDigests(firmware, load(svsm, end=firmware.address - vars_size))
    assert digests.digest(Launch(vmm=Vmm.QEMU, vcpus=vcpus, signature=signature)) == right != wrong


def test_several_pages_of_secrets_are_all_measured(folder):
    """QEMU adds a section page by page, whatever its type; sev-snp-measure looks at the first page only."""
    one, two = ([(0x800000, size, 2)] for size in (0x1000, 0x2000))
    launch = Launch(vmm=Vmm.QEMU, vcpus=1, signature=1)
    image = samples.firmware(sections=two)
    expected = theirs(folder, SevMode.SEV_SNP, image, Vmm.QEMU, vcpus=1, signature=1)
    digests = LaunchDigests(load(image))
    assert digests.pages(launch) == LaunchDigests(load(samples.firmware(sections=one))).pages(launch) + 1
    split = samples.firmware(sections=[(0x800000, 0x1000, 2), (0x801000, 0x1000, 2)])
    # Both files differ in their metadata, so compare what follows the firmware.
    tail = [(page.type, page.address) for page in digests.walk(launch)][2:]
    assert tail == [(page.type, page.address) for page in LaunchDigests(load(split)).walk(launch)][2:]
    assert digests.digest(launch) != expected


def test_sections_of_size_zero_are_not_there(folder):
    """Debian's OVMF.inteltdx lists a calling area of size 0; a VMM adds no page for it."""
    empty = samples.firmware(sections=[(0x800000, 0x1000, 1), (0, 0, 4), (0, 0, 1)])
    launch = Launch(vmm=Vmm.QEMU, vcpus=2, signature=1)
    assert LaunchDigests(load(empty)).digest(launch) == theirs(
        folder, SevMode.SEV_SNP, empty, Vmm.QEMU, vcpus=2, signature=1
    )


def test_prefixes_are_shared_and_nothing_is_mixed_up():
    digests = LaunchDigests(load(samples.firmware()))
    launches = [
        Launch(vmm=vmm, vcpus=vcpus, signature=signature, features=bits, kernel=kernel)
        for vmm in Vmm
        for vcpus in (64, 1, 7)
        for signature in (1, 2)
        for bits in (1, 3)
        for kernel in (None, KernelHashes.of(b"a"), KernelHashes.of(b"b"))
    ]
    together = [digests.digest(launch) for launch in launches]
    assert together == [LaunchDigests(load(samples.firmware())).digest(launch) for launch in launches]
    # EC2 and GCE do not measure the signature.
    assert len(set(together)) == 3 * 2 * 3 * (2 + 1 + 1)
