"""Two layers give what one calculation gives; a firmware roll voids no release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import layer_samples as samples
import pytest
from attester import Machine, document, prediction, signed
from verifying import failed, run

from measurements import golden
from measurements.errors import FormatError, PredictionError
from measurements.events import Stability
from measurements.golden import GoldenDocument
from measurements.image_layer import Slot
from measurements.profile import Gap, PlatformProfile, compose, extended, parse, profile_of, to_pretty

RECIPES = Path(__file__).parents[3] / "recipes"
IMAGES = ("base", "gpu-cc")


def committed(image: str) -> GoldenDocument:
    return golden.parse((RECIPES / image / "golden.json").read_bytes())


def everything_of(found: GoldenDocument, name: str = "all") -> PlatformProfile:
    return profile_of(
        found.image_layer, name=name, predictions=found.predictions, sev_snp=found.sev_snp, tdx=found.tdx
    )


@pytest.mark.parametrize("image", IMAGES)
def test_the_two_layers_of_a_release_give_its_reference_values(image):
    found = committed(image)
    again = compose(found.image_layer, everything_of(found))
    assert again.predictions == found.predictions
    assert again.sev_snp == found.sev_snp
    assert again.tdx == found.tdx


@pytest.mark.parametrize(("image", "author"), [IMAGES, IMAGES[::-1]])
def test_a_profile_of_one_image_gives_the_reference_values_of_another(image, author):
    """The values of ``image`` were calculated from its own files, and boots held against them.

    Only gpu-cc is for machines with a GPU; of all others the two say the same.
    """
    found, other = committed(image), committed(author)
    again = compose(found.image_layer, everything_of(other))
    assert again.predictions == found.predictions
    assert again.sev_snp == found.sev_snp
    shared = {each.name for each in found.tdx} & {each.name for each in other.tdx}
    assert shared == {each.name for each in found.tdx if not each.gpus}
    told = [each for each in again.tdx if each.name in shared]
    assert told == [each for each in found.tdx if each.name in shared]


@pytest.mark.parametrize("image", IMAGES)
def test_a_profile_holds_nothing_of_the_image(image):
    found = committed(image)
    text = to_pretty(everything_of(found)).decode()
    layer = found.image_layer
    told = [digest for event in layer.events.values() for digest in event.digests.values()]
    for register in (*layer.registers, *layer.rtmrs):
        told += [
            digest
            for course in register.alternatives
            for event in course.events
            for digest in event.digests.values()
        ]
    assert len(told) > 50
    assert not [digest.hex() for digest in told if digest.hex() in text]
    assert layer.kernel_hashes.kernel.hex() not in text


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_layer_names_the_released_files(image):
    found = committed(image)
    digests = {output.name: output.sha256 for output in found.outputs}
    assert found.image_layer.kernel_hashes.kernel.hex() == digests["uki.efi"]
    assert set(found.image_layer.events) == set(Slot) - {Slot.AUTHORITY}  # not sealed


def test_profiles_survive_the_round_trip():
    whole = everything_of(committed("base"))
    assert parse(to_pretty(whole)) == whole


def test_where_the_image_speaks_and_where_the_firmware_does():
    """docs/platform-profiles.md, the table."""
    whole = everything_of(committed("base"))
    slots = {
        (template.shape.boot.value, register.index): [
            event.slot.value for event in register.alternatives[0].events if isinstance(event, Gap)
        ]
        for template in whole.tpm
        for register in template.registers
        if any(register.holds(slot) for slot in Slot)
    }
    assert slots == {
        ("disk", 4): ["application", "kernel"],
        ("disk", 5): ["partition-table"],
        ("direct", 4): ["application", "kernel"],
    }


# The firmware roll: real logs of one image on OVMF 2025.02 and 2026.08, from tests/vectors/eventlog.


def test_new_firmware_is_refused_without_a_profile():
    errors = failed(run(samples.rolled(), envelope=signed(samples.released())))
    assert "no launch shape fits" in errors[12]
    assert "PCR" in errors[13]


def test_new_firmware_is_accepted_through_a_profile_of_another_image():
    verdict = run(samples.rolled(), envelope=signed(samples.released()), profiles=(samples.profile(),))
    assert verdict.passed, verdict.failures
    assert verdict.shape == "qemu-vtpm/ovmf-2026.08/disk/2-vcpus/2048-mib"
    details = {check.number: check.detail for check in verdict.checks}
    assert details[2].endswith("1 launch shapes, and 1 of the verifier's profile ovmf-2026.08")
    assert "by the verifier's profile ovmf-2026.08" in details[12]
    compared = {item.index for item in verdict.registers if item.pinned and item.equal}
    assert compared == {*range(10), *range(11, 15)}


def test_old_firmware_is_still_accepted_beside_a_profile():
    verdict = run(Machine(), envelope=signed(samples.released()), profiles=(samples.profile(),))
    assert verdict.passed
    assert verdict.shape == prediction().shape.name
    named = run(
        Machine(),
        envelope=signed(samples.released()),
        profiles=(samples.profile(),),
        shape=samples.shape().name,
    )
    assert 13 in failed(named)  # a policy that wants the new one alone


def test_a_foreign_image_on_the_new_firmware_is_refused():
    """The very image that the profile's author started: the profile vouches for firmware and for no image."""
    errors = failed(
        run(
            samples.with_other_image(samples.rolled()),
            envelope=signed(samples.released()),
            profiles=(samples.profile(),),
        )
    )
    assert {12, 13, 14} <= set(errors)


@pytest.mark.parametrize("register", [4, 5, 9, 11])
def test_one_changed_event_of_the_image_on_the_new_firmware_is_refused(register):
    machine, other = samples.rolled(), samples.with_other_image(samples.rolled())
    machine.records = [
        changed if item.register == register else item
        for item, changed in zip(machine.records, other.records, strict=True)
    ]
    errors = failed(run(machine, envelope=signed(samples.released()), profiles=(samples.profile(),)))
    assert f"PCR {register}" in errors[13]


@pytest.mark.parametrize("register", range(2))
def test_one_changed_event_of_the_firmware_is_refused(register):
    machine = samples.rolled()
    machine.change(next(at for at, item in enumerate(machine.records) if item.register == register), b"other")
    errors = failed(run(machine, envelope=signed(samples.released()), profiles=(samples.profile(),)))
    assert f"PCR {register}" in errors[13]


def test_a_document_without_an_image_layer_still_verifies_and_takes_no_profile():
    plain = signed(replace(samples.released(), image_layer=None))
    assert run(Machine(), envelope=plain).passed
    assert "no image layer" in failed(run(Machine(), envelope=plain, profiles=(samples.profile(),)))[2]


def test_a_firmware_roll_moves_the_profiles_registers_alone():
    old = samples.released()
    new = replace(
        old, predictions=(replace(samples.launch(samples.rolled()), shape=old.predictions[0].shape),)
    )
    differences = golden.compare(old, new)
    moved = {register for move in golden.moves(differences) for register in move.registers}
    assert moved
    assert moved <= {f"PCR {index}" for index in range(8)}
    assert golden.image_moves(differences) == ()


def test_a_changed_image_moves_the_image_layer():
    old = samples.released()
    other = samples.with_other_image(Machine())
    new = replace(document(prediction(other)), image_layer=samples.layer_of(other))
    moved = golden.image_moves(golden.compare(old, new))
    assert moved == ("application", "kernel", "partition-table", "PCR 9", "PCR 11")
    assert golden.compare(replace(old, image_layer=None), old)[0].what == "image layer"


def test_names_are_not_taken_over():
    """A launch that the release tells itself: the profile's author might say otherwise."""
    again = profile_of(samples.layer_of(Machine()), name="again", predictions=[prediction()])
    with pytest.raises(FormatError, match="stands for a launch of the document"):
        extended(samples.released(), [again])
    with pytest.raises(FormatError, match="or of another profile"):
        extended(samples.released(), [samples.profile(), samples.profile()])


def test_a_profile_without_a_bank_of_the_release_is_refused():
    whole = everything_of(committed("base"))
    with pytest.raises(PredictionError, match="has the banks sha256, sha384; the image layer needs sha1"):
        compose(samples.layer_of(Machine()), whole)


def test_banks_beyond_the_releases_are_left_out():
    layer = committed("base").image_layer
    filled = compose(layer, samples.profile())
    banks = {
        tuple(event.digests)
        for register in filled.predictions[0].registers
        for course in register.alternatives
        for event in course.events
    }
    assert banks == {layer.banks}


def test_a_register_that_the_image_leaves_open_stays_open():
    layer = samples.layer_of(Machine())
    (filled,) = compose(layer, samples.profile()).predictions
    assert filled.register(10).stability is Stability.NOT_PINNED
    assert filled.register(15).stability is Stability.NOT_PINNED
