"""What an image expects of GPUs, as part of its golden document."""

from __future__ import annotations

import copy
import dataclasses
import json

import jsonschema
import pytest
from attester import document
from gpu_evidence import DRIVER_PIN, EXPECTED, VBIOS_PIN

from measurements import golden
from measurements.errors import FormatError
from measurements.gpu.expectations import Architecture, serialize, to_value

BARE = dataclasses.replace(EXPECTED, vbios=None, rims=())


def with_gpu(expectations=EXPECTED):
    return dataclasses.replace(document(), gpu=expectations)


def schema():
    return jsonschema.Draft202012Validator(json.loads(golden.json_schema()))


@pytest.mark.parametrize("expectations", [None, EXPECTED, BARE])
def test_written_and_read(expectations):
    whole = with_gpu(expectations)
    for data in (golden.to_canonical(whole), golden.to_pretty(whole)):
        assert golden.parse(data) == whole
    schema().validate(golden.to_value(whole))
    assert ("gpu" in golden.to_value(whole)) is (expectations is not None)


def test_the_policy_in_the_image_is_the_member():
    """docs/golden-format.md, "GPUs": canonical, and one newline."""
    canonical = golden.to_canonical(with_gpu()).decode()
    policy = serialize(EXPECTED).decode()
    assert policy.endswith("}\n") and f'"gpu":{policy[:-1]},"image"' in canonical


VALUE = golden.to_value(with_gpu())


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(gpu=None),
        lambda v: v.update(gpu={}),
        lambda v: v.update(gpu=[]),
        lambda v: v["gpu"].update(confidential_mode=False),
        lambda v: v["gpu"].update(developer_tools=True),
        lambda v: v["gpu"].update(count=0),
        lambda v: v["gpu"].update(architecture="ampere"),
        lambda v: v["gpu"].update(vbios=[]),
        lambda v: v["gpu"].update(more=1),
        lambda v: v["gpu"]["rims"][0].update(sha256="00"),
        lambda v: v["gpu"]["rims"][0].update(id="../x"),
        lambda v: v["gpu"]["rims"][0].update(kind="switch"),
    ],
)
def test_refused_by_reader_and_schema(change):
    value = copy.deepcopy(VALUE)
    change(value)
    with pytest.raises(FormatError):
        golden.parse(json.dumps(value).encode())
    assert not schema().is_valid(value)


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"driver_version": "550.163.01", "rims": ()}, ["driver version", "RIM", "RIM"]),
        ({"count": 8, "nvswitches": 4}, ["count", "NVSwitches"]),
        ({"vbios": None}, ["allowed VBIOS versions"]),
        ({"architecture": Architecture.BLACKWELL, "rims": ()}, ["architecture", "RIM", "RIM"]),
        ({"rims": (DRIVER_PIN,)}, [f"RIM {VBIOS_PIN.id}"]),
    ],
)
def test_what_moved(changes, moved):
    differences = golden.compare(with_gpu(), with_gpu(dataclasses.replace(EXPECTED, **changes)))
    assert all(each.where == "gpu" for each in differences) and len(differences) == len(moved)
    for each, what in zip(differences, moved, strict=True):
        assert each.what.startswith(what)


def test_another_manifest_under_the_same_name():
    other = dataclasses.replace(VBIOS_PIN, sha256="ab" * 32)
    (found,) = golden.compare(with_gpu(), with_gpu(dataclasses.replace(EXPECTED, rims=(DRIVER_PIN, other))))
    assert found.what == f"RIM {VBIOS_PIN.id}" and VBIOS_PIN.sha256 in found.old and "ab" * 32 in found.new


def test_an_image_that_begins_to_expect_a_gpu():
    (found,) = golden.compare(with_gpu(None), with_gpu())
    assert str(found) == "gpu: expectations: absent -> 1 of hopper, driver 550.90.07"
    assert golden.compare(with_gpu(), with_gpu()) == ()


def test_names_are_those_of_the_policy():
    assert VALUE["gpu"] == to_value(EXPECTED)
