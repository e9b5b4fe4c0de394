"""Profiles that somebody slipped to a verifier: what an author cannot say is refused, and the rest gains nothing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import jsonschema
import layer_samples as samples
import pytest
from attester import Machine, prediction, signed
from confidential_samples import snp
from profile_samples import BASE, VALUE, changed, register, text
from verifying import failed, run

from measurements import golden, profile
from measurements.errors import FormatError, PredictionError
from measurements.image_layer import ImageEvent, Slot
from measurements.profile import compose, parse, profile_of
from measurements.snp.vmsa import Vmm

SCHEMA = jsonschema.Draft202012Validator(json.loads(profile.json_schema()))


def slot(value: Any, name: str) -> Any:
    """The first event with this slot."""
    return next(event for item in value["registers"] for event in item["events"] if event.get("slot") == name)


def without(events: list[Any], name: str, courses: list[Any]) -> None:
    """Take a slot out of a register, in all of its courses."""
    position = next(at for at, event in enumerate(events) if event.get("slot") == name)
    del events[position]
    for course in courses:
        course["events"] = [at - (at > position) for at in course["events"] if at != position]


# What an author cannot say: each is an attack by a profile that somebody slipped to a verifier.


def claims_the_images_event(value: Any) -> None:
    own = {
        "type": "EV_EFI_BOOT_SERVICES_APPLICATION",
        "description": "image at the removable path",
        "cause": "uki",
        "digests": {"sha256": "00" * 32, "sha384": "00" * 48},
        "data": None,
    }
    event = slot(value, "application")
    event.clear()
    event.update(own)


def claims_the_disk(value: Any) -> None:
    claims_the_images_event(value)
    event = next(
        each
        for item in value["registers"]
        for each in item["events"]
        if each.get("type") == "EV_EFI_BOOT_SERVICES_APPLICATION"
    )
    event["type"] = "EV_EFI_GPT_EVENT"


def claims_a_section(value: Any) -> None:
    register(value, "0.1")["events"][0]["type"] = "EV_IPL"


def claims_a_boot_phase(value: Any) -> None:
    register(value, "0.1")["events"][0]["type"] = None


def drops_the_image(value: Any) -> None:
    entry = register(value, "4.1")
    without(entry["events"], "application", entry["alternatives"])


def drops_the_image_in_an_alternative(value: Any) -> None:
    entry = register(value, "4.1")
    entry["alternatives"].append({"label": "without", "events": entry["alternatives"][0]["events"][:2]})


def drops_the_disk(value: Any) -> None:
    entry = register(value, "5.1")
    without(entry["events"], "partition-table", entry["alternatives"])


def leaves_the_images_register_open(value: Any) -> None:
    register(value, "4.1").update({"stability": "not-pinned", "reason": "who knows"})


def calls_the_images_register_the_machines(value: Any) -> None:
    # A verifier with --unpin vm-shape would not compare it.
    register(value, "4.1")["stability"] = "vm-shape"


def brings_a_register_of_the_images(value: Any) -> None:
    register(value, "6.1").update({"id": "11.1", "index": 11})
    for shape in value["platforms"][0]["shapes"]:
        shape["registers"] = [each if each != "6.1" else "11.1" for each in shape["registers"]]


def leaves_out_a_register(value: Any) -> None:
    for shape in value["platforms"][0]["shapes"]:
        shape["registers"].remove("0.1" if "0.1" in shape["registers"] else "0.2")


def makes_the_images_event_one_that_is_never_extended(value: Any) -> None:
    slot(value, "application")["type"] = "EV_NO_ACTION"


def fills_the_slot_itself(value: Any) -> None:
    slot(value, "application")["digests"] = {"sha256": "00" * 32, "sha384": "00" * 48}


def starts_the_image_twice(value: Any) -> None:
    course = register(value, "4.1")["alternatives"][0]
    course["events"].append(course["events"][2])


def starts_the_kernel_twice(value: Any) -> None:
    course = register(value, "4.1")["alternatives"][0]
    course["events"].append(course["events"][3])


def says_secure_boot_is_on(value: Any) -> None:
    shape = value["platforms"][0]["shapes"][0]
    shape.update({"secure_boot": True, "name": f"{shape['name']}/secure-boot"})


def is_named_for_other_firmware(value: Any) -> None:
    shape = value["platforms"][0]["shapes"][0]
    shape["name"] = shape["name"].replace("2025.02", "2024.11")


def binds_no_kernel(value: Any) -> None:
    steps = value["sev_snp"][0]["steps"]
    steps[:] = [step for step in steps if "slot" not in step]


def brings_a_page_with_contents(value: Any) -> None:
    step = next(step for step in value["sev_snp"][0]["steps"] if step.get("type") == "vmsa")
    step["type"] = "normal"


def brings_its_own_kernel_hashes(value: Any) -> None:
    step = next(step for step in value["sev_snp"][0]["steps"] if "slot" in step)
    step.clear()
    step.update(
        {"type": "normal", "address": 8454144, "pages": 1, "times": 1, "contents": "00" * 48, "cause": "x"}
    )


def puts_the_kernel_hashes_beyond_their_page(value: Any) -> None:
    next(step for step in value["sev_snp"][0]["steps"] if "slot" in step)["offset"] = 4096 - 175


def drops_the_image_of_a_trust_domain(value: Any) -> None:
    for entry in value["tdx"]["registers"]:
        if entry["index"] == 1:
            without(entry["events"], "application", entry["alternatives"])


def brings_rtmr2(value: Any) -> None:
    entry = value["tdx"]["registers"][-1]
    entry.update({"id": "2.1", "index": 2})


def names_a_launch_twice(value: Any) -> None:
    value["sev_snp"].append(copy.deepcopy(value["sev_snp"][0]))


def is_a_golden_document(value: Any) -> None:
    value["format"] = "goldsmith-golden"


def is_of_another_version(value: Any) -> None:
    value["format_version"] = 2


def says_more(value: Any) -> None:
    value["signer"] = "trust me"


def has_no_launch(value: Any) -> None:
    value.update({"platforms": [], "registers": [], "sev_snp": [], "tdx": {"shapes": [], "registers": []}})


def has_sha1_alone(value: Any) -> None:
    value.update({"banks": ["sha1"], "platforms": [], "registers": []})


ATTACKS = {
    claims_the_images_event: "is an event of an image",
    claims_the_disk: "is an event of an image",
    claims_a_section: "is an event of an image",
    claims_a_boot_phase: r"is an event of an image \(userspace\)",
    drops_the_image: "slot application once in each course",
    drops_the_image_in_an_alternative: "slot application once in each course",
    drops_the_disk: "slot partition-table once in each course",
    leaves_the_images_register_open: "stability image; without it any image would do",
    calls_the_images_register_the_machines: "stability image; without it any image would do",
    brings_a_register_of_the_images: "expected 0 to 7",
    leaves_out_a_register: "which are the firmware's",
    makes_the_images_event_one_that_is_never_extended: "unknown name 'type'",
    fills_the_slot_itself: "unknown name 'digests'",
    starts_the_image_twice: "slot application once in each course",
    starts_the_kernel_twice: "slot kernel twice",
    says_secure_boot_is_on: "expected the slot authority",
    is_named_for_other_firmware: "its own fields make it",
    binds_no_kernel: "slot for kernel hashes",
    brings_a_page_with_contents: "neither the firmware's nor the slot",
    brings_its_own_kernel_hashes: "slot for kernel hashes",
    puts_the_kernel_hashes_beyond_their_page: "leaves its page",
    drops_the_image_of_a_trust_domain: "slot application once in each course",
    brings_rtmr2: "expected 0 to 1",
    names_a_launch_twice: "distinct names",
    is_a_golden_document: "expected 'goldsmith-profile'",
    is_of_another_version: "update goldsmith",
    says_more: "unknown name 'signer'",
    has_no_launch: "at least one",
    has_sha1_alone: "sha256 or sha384 at least",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_refused(attack):
    with pytest.raises(FormatError, match=ATTACKS[attack]):
        parse(changed(attack))


#: What a schema cannot say: which slots a launch must have, and what values make of each other.
BEYOND_THE_SCHEMA = {
    drops_the_image, drops_the_image_in_an_alternative, drops_the_disk, leaves_the_images_register_open,
    calls_the_images_register_the_machines, starts_the_image_twice, starts_the_kernel_twice, says_secure_boot_is_on,
    is_named_for_other_firmware, binds_no_kernel, brings_a_page_with_contents, brings_its_own_kernel_hashes,
    drops_the_image_of_a_trust_domain, names_a_launch_twice, has_no_launch,
}  # fmt: skip


def test_the_schema_accepts_a_profile():
    SCHEMA.validate(VALUE)
    SCHEMA.validate(profile.to_value(samples.profile()))


@pytest.mark.parametrize(
    "attack", [each for each in ATTACKS if each not in BEYOND_THE_SCHEMA], ids=lambda attack: attack.__name__
)
def test_refused_by_the_schema_too(attack):
    assert not SCHEMA.is_valid(json.loads(changed(attack)))


# A profile of another platform than the machine's: it says something else, so nothing fits.


def test_a_profile_for_another_vmm_gives_another_launch_digest():
    """EC2 and Compute Engine start vCPUs in another state (docs/snp.md)."""
    uki = b"uki"
    layer = samples.layer_of(Machine())  # its kernel hashes are those of b"uki"
    of_qemu = snp(uki=uki)
    (mine,) = compose(layer, profile_of(layer, name="qemu", sev_snp=[of_qemu])).sev_snp
    assert mine.launch_digest == of_qemu.launch_digest
    for vmm in (Vmm.EC2, Vmm.GCE):
        (other,) = compose(
            layer, profile_of(layer, name="vmm", sev_snp=[snp(uki=uki, vmm=vmm, cpu=None)])
        ).sev_snp
        assert other.launch_digest != of_qemu.launch_digest


def test_a_profile_of_one_vmm_cannot_pass_for_another():
    def relabel(value: Any) -> None:
        value["sev_snp"][0]["vmm"] = "gce"

    layer = BASE.image_layer
    relabelled = compose(layer, parse(changed(relabel))).sev_snp[0]
    assert (
        relabelled.launch_digest == BASE.sev_snp[0].launch_digest
    )  # what is measured does not follow the label


def test_a_profile_for_another_machine_fits_nothing():
    machine = samples.with_other_image(samples.rolled())
    machine.records = [
        replace(item, digests=samples.record(1, item.type, b"ACPI of another machine").digests)
        if item.register == 1 and item.type == 0xA
        else item
        for item in machine.records
    ]
    other = profile_of(
        samples.layer_of(machine), name="other", predictions=[samples.launch(machine, machine="pc-q35-9.2")]
    )
    errors = failed(run(samples.rolled(), envelope=signed(samples.released()), profiles=(other,)))
    assert "PCR 1" in errors[13]


def test_an_image_layer_that_nobody_signed_composes_with_nothing():
    """The attacker's own release, its layer right for the machine, and a good profile."""
    envelope = signed(samples.released())
    parsed = json.loads(envelope)
    parsed["signatures"][0]["sig"] = "A" * 86 + "=="
    errors = failed(run(samples.rolled(), envelope=text(parsed), profiles=(samples.profile(),)))
    assert "0 of 1 trusted keys" in errors[1]
    bare = golden.to_canonical(samples.released())
    assert (
        "without any signature"
        in failed(run(samples.rolled(), envelope=bare, profiles=(samples.profile(),)))[1]
    )


def test_secure_boot_needs_a_sealed_release():
    """A profile with Secure Boot on composes only where the image layer names the entry that allows the image."""
    allowed = samples.record(7, 0x800000E0, b"db")
    entry = ImageEvent(digests=allowed.digests, data=allowed.data)
    layer = samples.layer_of(Machine())
    sealed = replace(layer, events={**layer.events, Slot.AUTHORITY: entry})
    usual = prediction()
    machine = Machine()
    machine.records.append(allowed)
    told = profile_of(
        sealed,
        name="sealed",
        predictions=[replace(prediction(machine), shape=replace(usual.shape, secure_boot=True))],
    )
    assert compose(sealed, told).predictions[0].register(7) == prediction(machine).register(7)
    with pytest.raises(PredictionError, match="not sealed for Secure Boot"):
        compose(layer, told)
    with pytest.raises(FormatError, match="Secure Boot is off"):
        profile_of(sealed, name="off", predictions=[prediction(machine)])


def test_a_launch_of_another_image_is_no_profile_of_this_one():
    with pytest.raises(FormatError, match="is an event of an image"):
        profile_of(
            samples.layer_of(Machine()),
            name="x",
            predictions=[samples.launch(samples.with_other_image(Machine()))],
        )
