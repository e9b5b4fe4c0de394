"""The image layer as a member of golden documents: optional to readers, strict where it is there."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import jsonschema
import pytest
from attester import Machine
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from layer_samples import layer_of, released

from measurements import golden
from measurements.errors import FormatError, MeasurementError
from measurements.golden import model
from measurements.image_layer import Slot

VALUE = golden.to_value(released())
SCHEMA = jsonschema.Draft202012Validator(json.loads(golden.json_schema()))


def text(value):
    return json.dumps(value).encode()


def test_both_forms_read_back():
    for form in (golden.to_canonical(released()), golden.to_pretty(released())):
        assert golden.parse(form) == released()
    SCHEMA.validate(VALUE)


def test_documents_from_before_there_was_one_are_read_as_they_are():
    older = replace(released(), image_layer=None)
    assert "image_layer" not in golden.to_value(older)
    assert golden.parse(golden.to_canonical(older)) == older
    SCHEMA.validate(golden.to_value(older))


def test_large_event_data_stays_out():
    layer = layer_of(Machine())
    table = layer.events[Slot.PARTITION_TABLE]
    events = {**layer.events, Slot.PARTITION_TABLE: replace(table, data=bytes(model.MAX_EVENT_DATA + 1))}
    old = released()
    document = golden.document_from(
        image=old.image,
        source_date_epoch=old.source_date_epoch,
        validity=old.validity,
        inputs=old.inputs,
        outputs=old.outputs,
        calculator=old.calculator,
        predictions=old.predictions,
        image_layer=replace(layer, events=events),
    )
    assert document.image_layer.events[Slot.PARTITION_TABLE] == replace(table, data=None)


def says_nothing_of_the_image(layer):
    layer["events"]["application"] = None


def knows_another_slot(layer):
    layer["events"]["shim"] = None


def lacks_a_slot(layer):
    del layer["events"]["authority"]


def is_of_other_banks(layer):
    del layer["events"]["application"]["digests"]["sha256"]


def states_another_value(layer):
    layer["registers"][3]["alternatives"][0]["values"]["sha256"] = "00" * 32


def drops_a_register(layer):
    del layer["registers"][3]


def tells_a_register_of_the_firmwares(layer):
    layer["registers"].insert(0, copy.deepcopy(VALUE["registers"][7]))


def tells_a_register_twice(layer):
    layer["registers"].append(copy.deepcopy(layer["registers"][-1]) | {"id": "15.2"})


def swaps_two_registers(layer):
    layer["registers"][:2] = layer["registers"][1::-1]


def tells_rtmr0(layer):
    layer["rtmrs"][0].update({"id": "0.1", "index": 0})


def shortens_a_hash(layer):
    layer["kernel_hashes"]["kernel"] = "00" * 31


def differs_from_the_launches(layer):
    layer["registers"][1]["alternatives"][0]["events"].pop()
    values = layer["registers"][1]["alternatives"][0]["values"]
    one = golden.parse(text(VALUE)).image_layer.registers[1].alternatives[0]
    shorter = replace(one, events=one.events[:-1])
    values.update({bank.value: shorter.value(bank).hex() for bank in released().banks})


def says_more(layer):
    layer["firmware"] = {}


BROKEN = {
    says_nothing_of_the_image: "'application'",
    knows_another_slot: "unknown name 'shim'",
    lacks_a_slot: "'authority' is missing",
    is_of_other_banks: "sha256",
    states_another_value: "fold to",
    drops_a_register: "expected .*8, 9, 10, 11",
    tells_a_register_of_the_firmwares: "expected .*8, 9, 10, 11",
    tells_a_register_twice: "expected 15.1",
    swaps_two_registers: "expected .*8, 9, 10, 11",
    tells_rtmr0: "expected .*2, 3",
    shortens_a_hash: "expected 64",
    differs_from_the_launches: "register 9 is not the one of the image layer",
    says_more: "unknown name 'firmware'",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_refused(change):
    value = copy.deepcopy(VALUE)
    change(value["image_layer"])
    with pytest.raises(FormatError, match=BROKEN[change]):
        golden.parse(text(value))


def test_null_is_no_image_layer():
    with pytest.raises(FormatError, match="expected an object"):
        golden.parse(text(VALUE | {"image_layer": None}))


def _paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _paths(value[key], (*path, key))


PATHS = [path for path in _paths(VALUE["image_layer"]) if path]


@given(st.sampled_from(PATHS), st.one_of(st.none(), st.integers(-1, 20), st.text(max_size=4), st.just([])))
@hypothesis_settings(max_examples=100, deadline=None)
def test_mutations_are_an_error_of_ours_or_read_back(path, junk):
    value = copy.deepcopy(VALUE)
    node = value["image_layer"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = junk
    try:
        document = golden.parse(text(value))
    except MeasurementError:
        return
    assert golden.to_value(document) == value
