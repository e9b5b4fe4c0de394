"""Single registers against the specification's constants and other tools' values."""

import hashlib
import json

import launch_samples as samples
import pytest

from measurements.errors import PredictionError
from measurements.events import ALL_BANKS, Digest, EventType, HashAlgorithm, Stability, fold
from measurements.formats import pe
from measurements.platforms.firmware import Patch, PeifvMode, PeifvObservation
from measurements.predict import predict_tpm
from measurements.prediction import BootPath

SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384
# docs of the field ("PCR holding one separator only"), seen in every public evidence of such registers.
ONE_SEPARATOR = {
    SHA256: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    SHA384: "518923b0f955d08da077c96aaba522b9decede61c599cea6c41889cfbea4ae4d50529d96fe4d1afdafb65e7f95bf23c4",
}
# Digests that every TCG event log of edk2 shows for these texts.
CALLING = "3d6772b4f84ed47595d72a2c4c5ffd15f5bb72c7507fe26f2aaee2c69d5633ba"
INVOCATION = "d8043d6b7b85ad358eb3b6ae6a873ab7ef23a26352c5dc4faa5aeedacf5eb41b"
SUCCESS = "b54f7542cbd872a81a9d9dea839b2b8d747c7ebd5ea6615c40f42f44a6dbeba0"
FAILURE_PREFIX = "23ddecbc32ea9e91"
SEPARATOR = "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
# PCR 7 of OVMF builds without Secure Boot and with blank variables, from real boots.
PCR07_NO_VARIABLE = "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439"
PCR07_ZERO_VARIABLE = "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"


def register(index, **changes):
    return predict_tpm(samples.inputs(**changes)).register(index)


def digests(prediction, sequence=0):
    return [event.digests[SHA256].hex() for event in prediction.alternatives[sequence].events]


def authenticode(data):
    return pe.parse(data).authenticode(SHA256).hex()


@pytest.mark.parametrize("index", [2, 3, 6])
def test_separator_only(index):
    for bank, value in ONE_SEPARATOR.items():
        assert [digest.hex() for digest in register(index).values(bank)] == [value]


@pytest.mark.parametrize("index", [8, 12, 13, 14])
def test_untouched(index):
    prediction = register(index)
    assert prediction.values(SHA384) == (Digest.zero(SHA384),)
    assert prediction.stability is Stability.IMAGE


def test_pcr00_file_mode_hashes_version_and_both_volumes():
    peifv = samples.volume(samples.PEIFV, size=0x1000)
    dxefv = samples.volume(samples.DXEFV, size=0x1000)
    assert digests(register(0, firmware=samples.firmware(peifv=peifv, dxefv=dxefv))) == [
        hashlib.sha256(b"1\0.\0000\0\0\0").hexdigest(),
        hashlib.sha256(peifv).hexdigest(),
        hashlib.sha256(dxefv).hexdigest(),
        SEPARATOR,
    ]


def test_pcr00_patched_mode_changes_the_named_bytes_only():
    peifv = bytearray(samples.volume(samples.PEIFV, size=0x1000))
    firmware = samples.firmware(peifv=bytes(peifv))
    profile = samples.profile_for(
        firmware, peifv=PeifvMode.PATCHED, patches=(Patch(offset=0x123, data=b"\x08\x06"),)
    )
    peifv[0x123:0x125] = b"\x08\x06"
    prediction = register(0, firmware=firmware, profiles=(profile,))
    assert digests(prediction)[1] == hashlib.sha256(peifv).hexdigest()
    assert prediction.stability is Stability.FIRMWARE


def test_pcr00_patch_outside_the_volume_is_not_applied():
    profile = samples.profile_for(
        samples.FIRMWARE, peifv=PeifvMode.PATCHED, patches=(Patch(offset=0x10000, data=b"\1"),)
    )
    assert "calibrate again" in register(0, profiles=(profile,)).reason


def test_pcr00_calibrate_mode_knows_only_what_was_observed():
    seen = PeifvObservation(
        memory_mib=512, vcpus=2, boot=BootPath.DISK, digests={SHA256: Digest(SHA256, b"\7" * 32)}
    )
    profile = samples.profile_for(samples.FIRMWARE, peifv=PeifvMode.CALIBRATE, observations=(seen,))
    known = register(0, profiles=(profile,), banks=(SHA256,))
    assert digests(known)[1] == "07" * 32
    assert known.stability is Stability.VM_SHAPE
    for changes, reason in (
        ({"memory_mib": 1024, "banks": (SHA256,)}, "no boot with 1024 MiB, 2 vCPUs and disk"),
        ({"vcpus": 4, "banks": (SHA256,)}, "no boot with 512 MiB, 4 vCPUs and disk"),
        ({"boot": BootPath.DIRECT, "banks": (SHA256,)}, "no boot with 512 MiB, 2 vCPUs and -kernel"),
        ({"banks": (SHA256, SHA384)}, "lacks sha384"),
    ):
        prediction = register(0, profiles=(profile,), **changes)
        assert prediction.stability is Stability.NOT_PINNED
        assert reason in prediction.reason


def test_unknown_firmware_is_not_guessed_at():
    prediction = predict_tpm(samples.inputs(profiles=()))
    for index in (0, 1, 7):
        assert prediction.register(index).stability is Stability.NOT_PINNED
        assert "not predictable: calibrate" in prediction.register(index).reason
    for index in (2, 3, 4, 5, 6, 9, 11):
        assert prediction.register(index).alternatives


def test_firmware_that_is_no_ovmf():
    prediction = predict_tpm(samples.inputs(firmware=b"closed source", boot=BootPath.DIRECT))
    assert "no PEIFV" in prediction.register(0).reason
    assert "no PEIFV" in prediction.register(4).reason


def test_pcr04_disk():
    assert digests(register(4)) == [
        CALLING,
        SEPARATOR,
        authenticode(samples.UKI),
        authenticode(samples.KERNEL),
    ]


def test_pcr04_direct_measures_the_image_before_the_boot_attempt():
    assert digests(register(4, boot=BootPath.DIRECT)) == [
        authenticode(samples.UKI),
        CALLING,
        SEPARATOR,
        authenticode(samples.KERNEL),
    ]


@pytest.mark.parametrize(
    ("stub", "inner"), [(252, True), (254, True), (257, True), (258, False), (262, False)]
)
def test_pcr04_inner_kernel_by_stub_release(stub, inner):
    assert (authenticode(samples.KERNEL) in digests(register(4, image=samples.uki(stub=stub)))) is inner


def test_pcr04_reasons():
    no_stub = register(4, image=samples.uki(stub=None))
    old = samples.uki([(".linux", samples.kernel(major_image_version=0))])
    assert ".sdmagic" in no_stub.reason
    assert "handover" in register(4, image=old).reason
    assert "pc-q35-10.0" in register(4, boot=BootPath.DIRECT, machine="pc-q35-9.2").reason
    assert "pc-q35-10.0" in register(4, boot=BootPath.DIRECT, machine="q35").reason
    patched = samples.firmware(dxefv=samples.volume(samples.DXEFV))
    assert "legacy -kernel blob" in register(4, boot=BootPath.DIRECT, firmware=patched).reason


def test_pcr04_bare_kernel():
    assert digests(register(4, image=samples.KERNEL)) == [CALLING, SEPARATOR, authenticode(samples.KERNEL)]


def test_pcr05_has_two_courses():
    prediction = register(5)
    gpt = hashlib.sha256(samples.disk().measured_bytes()).hexdigest()
    first, second = prediction.alternatives
    assert first.label == "exit-boot-services"
    assert second.label == "exit-boot-services-retried"
    assert digests(prediction) == [SEPARATOR, gpt, INVOCATION, SUCCESS]
    retried = digests(prediction, 1)
    assert [*retried[:3], *retried[4:]] == [SEPARATOR, gpt, INVOCATION, INVOCATION, SUCCESS]
    assert retried[3].startswith(FAILURE_PREFIX)
    assert digests(register(5, boot=BootPath.DIRECT)) == [SEPARATOR, INVOCATION, SUCCESS]


def test_pcr05_disk_boot_without_disk_is_an_error():
    with pytest.raises(PredictionError, match="partition table"):
        predict_tpm(samples.inputs(disk=None))


@pytest.mark.parametrize(("unset", "value"), [(b"", PCR07_NO_VARIABLE), (b"\0", PCR07_ZERO_VARIABLE)])
def test_pcr07_without_secure_boot(unset, value):
    profile = samples.profile_for(samples.FIRMWARE, secure_boot_unset=unset)
    prediction = register(7, profiles=(profile,))
    assert [digest.hex() for digest in prediction.values(SHA256)] == [value]
    assert prediction.stability is Stability.KEYS


@pytest.mark.parametrize("name", ["full", "one", "none"])
def test_pcr09_of_real_boots(name):
    vector = json.loads((samples.VECTORS / "systemd/pcr09.json").read_text())[name]
    sections = [(section, bytes.fromhex(data)) for section, data in vector["sections"].items()]
    # Profile 0 starts at .profile; the real UKI has it last as well.
    sections.sort(key=lambda item: item[0] == ".profile")
    image = samples.uki([(".linux", samples.KERNEL), *sections])
    (course,) = register(9, image=image, banks=ALL_BANKS).alternatives
    got = [{bank.value: digest.hex() for bank, digest in event.digests.items()} for event in course.events]
    assert got == vector["events"]


def test_pcr09_nothing_to_measure():
    assert register(9, image=samples.uki([(".linux", samples.KERNEL)])).values(SHA256) == (
        Digest.zero(SHA256),
    )


def test_pcr09_reasons():
    assert "systemd-stub 256" in register(9, image=samples.uki(stub=256)).reason
    old = samples.uki([(".linux", samples.kernel(version=b"5.10.0"))])
    assert "Linux 5.10" in register(9, image=old).reason
    unknown = samples.uki([(".linux", samples.pe_image([(".text", b"x")]))])
    assert "shows no version" in register(9, image=unknown).reason
    assert "without UKI" in register(9, image=samples.KERNEL).reason


@pytest.mark.parametrize(
    ("vector", "sections"), [("sections", samples.SECTIONS), ("more-sections", samples.MORE_SECTIONS)]
)
def test_pcr11_equals_systemd_measure(vector, sections):
    expected = json.loads((samples.VECTORS / "systemd/measure.json").read_text())[vector]
    prediction = register(11, image=samples.uki(sections), banks=ALL_BANKS)
    for bank in ALL_BANKS:
        got = {
            course.label: course.value(bank).hex()
            for course in (*prediction.alternatives, *prediction.phases)
        }
        assert {label: got[label] for label in expected[bank.value]} == expected[bank.value]
    assert [course.label for course in prediction.alternatives] == ["enter-initrd:leave-initrd:sysinit:ready"]
    assert prediction.stability is Stability.PHASE


def test_pcr11_every_phase_path_is_there():
    labels = [course.label.split(":")[-1] for course in register(11).phases]
    assert labels == ["enter-initrd", "leave-initrd", "sysinit", "shutdown", "final"]


def test_pcr11_signatures_are_not_measured():
    signed = samples.uki([*samples.SECTIONS, (".pcrsig", b"{}")])
    assert register(11, image=signed).values(SHA256) == register(11).values(SHA256)
    assert register(9, image=signed).values(SHA256) != register(9).values(SHA256)


def test_pcr11_reasons():
    assert "systemd-stub 263" in register(11, image=samples.uki(stub=263)).reason
    for section in (".dtbauto", ".efifw"):
        picked = samples.uki([*samples.SECTIONS, (section, b"x")], stub=258)
        assert section in register(11, image=picked).reason
    # Stubs without the section do not measure it.
    unknown = samples.uki([*samples.SECTIONS, (".efifw", b"x")])
    assert register(11, image=unknown).values(SHA256) == register(11).values(SHA256)


def test_pcr15():
    assert register(15, measures_machine=False).values(SHA256) == (Digest.zero(SHA256),)
    assert "machine id" in register(15, measures_machine=True).reason
    assert "IMA" in register(10).reason


def test_another_loader_decides_what_comes_after_it():
    loader = samples.pe_image([(".text", b"x")])
    prediction = predict_tpm(samples.inputs(image=loader))
    for index in (1, 4, 5, 8, 9, 11, 12, 13, 14):
        assert "neither a unified kernel image nor a kernel" in prediction.register(index).reason
    for index in (0, 2, 3, 6, 7):
        assert prediction.register(index).alternatives


def test_systemd_boot_is_named():
    # As its binaries carry it (systemd src/boot/boot.c).
    magic = (".sdmagic", b"#### LoaderInfo: systemd-boot 257.13-1~deb13u1 ####\0")
    loader = samples.pe_image([(".text", b"x"), (".osrel", b"ID=systemd-boot"), magic])
    for index in (4, 5, 9, 11, 12):
        assert "the image is systemd-boot" in register(index, image=loader).reason


def test_one_byte_of_an_input_moves_its_registers_only():
    def values(**changes):
        prediction = predict_tpm(samples.inputs(**changes))
        return {r.index: r.values(SHA256) for r in prediction.registers}

    def changed(name, data):
        return samples.uki([(n, data if n == name else d) for n, d in samples.SECTIONS])

    base = values()
    for image, moved in (
        (changed(".cmdline", b"root=/dev/vda3 quiet"), {4, 9, 11}),
        (changed(".initrd", samples.INITRD[:-1] + b"!"), {4, 9, 11}),
        (changed(".osrel", b"ID=tesT\nVERSION_ID=1\n"), {4, 9, 11}),
        (changed(".uname", b"6.12.0-tesT"), {4, 11}),
    ):
        other = values(image=image)
        assert {index for index in base if base[index] != other[index]} == moved


def test_phases_are_words_without_a_log_type():
    last = register(11).alternatives[0].events[-1]
    assert last.type is None
    assert last.digests[SHA256] == Digest.of(SHA256, b"ready")
    section = register(11).alternatives[0].events[0]
    assert (section.type, section.cause, section.data) == (
        EventType.IPL,
        "uki .linux",
        ".linux\0".encode("utf-16-le"),
    )
    assert fold([], SHA256) == Digest.zero(SHA256)
