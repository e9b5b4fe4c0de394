"""Profiles as files: strict reading, signatures, limits, and hostile bytes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import layer_samples as samples
import pytest
import rfc8785
from attester import Machine
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from profile_samples import BASE, VALUE, WHOLE, changed, register, text

from measurements import keys, profile
from measurements.envelope import VerifiedPayload, verify_envelope, write_statement
from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.events import Stability
from measurements.golden import model
from measurements.image_layer import Slot
from measurements.profile import compose, parse
from measurements.profile.signed import PREDICATE_TYPE, parse_statement, sign_profile


def test_both_forms_read_back():
    for form in (profile.to_canonical(WHOLE), profile.to_pretty(WHOLE)):
        assert parse(form) == WHOLE
    assert rfc8785.dumps(json.loads(profile.to_pretty(WHOLE))) == profile.to_canonical(WHOLE)


def test_unused_and_doubled_entries_are_refused():
    def unused(value: Any) -> None:
        value["registers"].append(register(copy.deepcopy(value), "6.1") | {"id": "6.2"})

    def doubled(value: Any) -> None:
        value["registers"].append(register(value, "6.1"))

    for change, words in ((unused, "unused, doubled, or out of order"), (doubled, "appears twice")):
        with pytest.raises(FormatError, match=words):
            parse(changed(change))


def test_the_firmware_may_speak_of_the_image_in_another_register():
    """Compute Engine's trust domains measure partition table and image into PCR 2 of their vTPM."""
    whole = samples.profile()
    (template,) = whole.tpm
    second, fourth, fifth = (template.registers[index] for index in (2, 4, 5))
    gaps = tuple(
        event
        for register in (fifth, fourth)
        for event in register.alternatives[0].events
        if isinstance(event, profile.Gap)
    )

    def course(register: profile.RegisterTemplate, *more: profile.Gap) -> Any:
        (own, *_) = register.alternatives
        events = tuple(event for event in own.events if not isinstance(event, profile.Gap))
        return replace(register, alternatives=(replace(own, events=(*events, *more)),))

    registers = list(template.registers)
    registers[2] = replace(course(second, *gaps), stability=Stability.IMAGE)
    registers[4], registers[5] = course(fourth), course(fifth)
    moved = replace(whole, tpm=(replace(template, registers=tuple(registers)),))
    assert parse(profile.to_pretty(moved)) == moved
    layer = samples.layer_of(Machine())
    (filled,) = compose(layer, moved).predictions
    measured = [event.digests for event in filled.register(2).alternatives[0].events][-3:]
    assert measured == [
        layer.events[slot].digests for slot in (Slot.PARTITION_TABLE, Slot.APPLICATION, Slot.KERNEL)
    ]
    registers[2] = course(second, *gaps)  # of stability firmware, as the register was
    with pytest.raises(FormatError, match="stability image"):
        replace(template, registers=tuple(registers))


# What is signed.


def test_a_signed_profile_reads_back_and_names_its_firmware():
    key = keys.generate(keys.KeyAlgorithm.ED25519)
    envelope = sign_profile(WHOLE, [key])
    verified = verify_envelope(envelope, [key.public()])
    assert parse_statement(verified) == WHOLE
    subjects = json.loads(verified.payload)["subject"]
    assert [each["name"] for each in subjects] == list(dict.fromkeys(each.name for each in WHOLE.firmware))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value["subject"].pop(), "firmware files"),
        (lambda value: value["subject"][0]["digest"].update(sha256="00" * 32), "firmware files"),
        (lambda value: value.update(predicateType="urn:goldsmith:golden:v1"), "predicateType"),
        (lambda value: value["predicate"].update(name="a b"), "name"),
        (lambda value: value.update(more=1), "unknown name"),
    ],
)
def test_a_statement_that_says_something_else_is_refused(change, words):
    value = json.loads(write_statement(PREDICATE_TYPE, _subjects(WHOLE), VALUE))
    change(value)
    with pytest.raises(FormatError, match=words):
        parse_statement(VerifiedPayload(payload=rfc8785.dumps(value), key_ids=()))


def _subjects(whole: profile.PlatformProfile) -> list[Any]:
    return [
        {"name": each.name, "digest": {"sha256": each.sha256, "sha384": each.sha384}}
        for each in dict.fromkeys(whole.firmware)
    ]


# Hostile bytes.


def test_limits(monkeypatch):
    with pytest.raises(LimitError):
        parse(b" " * (profile.MAX_PROFILE_BYTES + 1))
    for name, value in (("MAX_SHAPES", 3), ("MAX_CONFIDENTIAL", 1), ("MAX_FOLDS", 10), ("MAX_EVENTS", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(model, name, value)
            with pytest.raises(LimitError):
                parse(text(VALUE))
    with pytest.raises(LimitError):
        parse(changed(lambda value: value["sev_snp"][0]["steps"][0].update({"pages": 1 << 15})))


def test_launches_that_share_a_large_register_are_limited(monkeypatch):
    def events_of(template):
        return sum(len(course.events) for register in template.registers for course in register.alternatives)

    table = sum(len(course["events"]) for item in VALUE["registers"] for course in item["alternatives"])
    shared = sum(map(events_of, WHOLE.tpm))
    assert table < shared
    monkeypatch.setattr(model, "MAX_FOLDS", shared)
    assert parse(text(VALUE)) == WHOLE
    monkeypatch.setattr(model, "MAX_FOLDS", shared - 1)
    with pytest.raises(LimitError, match="all launches together"):
        parse(text(VALUE))


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=100, deadline=None)
def test_random_bytes_are_an_error_of_ours(data):
    with pytest.raises(MeasurementError):
        parse(data)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += _paths(value[key], (*path, key))
    return found


PATHS = [path for path in _paths(VALUE) if path]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**54), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from(["application", "kernel-hashes", "EV_NO_ACTION", "image", "4.1", "00" * 48]),
)  # fmt: skip


@given(st.sampled_from(PATHS), JUNK)
@hypothesis_settings(max_examples=150, deadline=None)
def test_mutations_are_an_error_of_ours_or_another_profile_that_binds_the_image(path, junk):
    value = copy.deepcopy(VALUE)
    node = value
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = junk
    try:
        found = parse(text(value))
    except MeasurementError:
        return
    for filled in compose(BASE.image_layer, found).predictions:
        assert filled.registers[8:] == BASE.image_layer.registers
        application = BASE.image_layer.events[Slot.APPLICATION].digests
        assert all(
            application in [event.digests for event in course.events]
            for course in filled.register(4).alternatives
        )


@given(st.integers(0, len(text(VALUE)) - 1))
@hypothesis_settings(max_examples=100, deadline=None)
def test_truncations_are_an_error_of_ours(size):
    with pytest.raises(MeasurementError):
        parse(text(VALUE)[:size])
