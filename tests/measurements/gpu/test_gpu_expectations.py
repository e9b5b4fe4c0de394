"""What an image expects of its GPUs: one form, strictly read, and nothing that would let a GPU be open."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import json

import pytest
import rfc8785
from gpu_evidence import DRIVER_PIN, EXPECTED, THEN, VBIOS_PIN
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.gpu import expectations
from measurements.gpu.expectations import (
    Architecture,
    GpuExpectations,
    RimReference,
    driver_rim_id,
    parse,
    serialize,
    to_value,
)
from measurements.gpu.rim import RimKind


def test_the_member_in_words():
    """Written out by hand after docs/golden-format.md."""
    assert to_value(EXPECTED) == {
        "architecture": "hopper",
        "driver_version": "550.90.07",
        "count": 1,
        "nvswitches": 0,
        "confidential_mode": True,
        "developer_tools": False,
        "vbios": ["96.00.9F.00.01"],
        "rims": [
            {
                "id": "NV_GPU_DRIVER_GH100_550.90.07",
                "kind": "driver",
                "chip": "GH100",
                "version": "550.90.07",
                "sha256": DRIVER_PIN.sha256,
                "judged_at": "2024-06-01T00:00:00Z",
            },
            {
                "id": "NV_GPU_VBIOS_1010_0200_882_96009F0001",
                "kind": "vbios",
                "chip": "GH100",
                "version": "96.00.9F.00.01",
                "sha256": VBIOS_PIN.sha256,
                "judged_at": "2024-06-01T00:00:00Z",
            },
        ],
    }


@pytest.mark.parametrize("each", [EXPECTED, dataclasses.replace(EXPECTED, vbios=None, rims=())])
def test_the_file_is_canonical_and_reads_back(each):
    data = serialize(each)
    assert data == rfc8785.dumps(to_value(each)) + b"\n"
    assert parse(data) == each == parse(json.dumps(to_value(each), indent=3).encode())


def changed(change):
    value = copy.deepcopy(to_value(EXPECTED))
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(confidential_mode=False),
        lambda v: v.update(confidential_mode=None),
        lambda v: v.update(developer_tools=True),
        lambda v: v.update(architecture="ampere"),
        lambda v: v.update(driver_version="550.90.07 "),
        lambda v: v.update(driver_version="550.163.01"),  # no manifest of it among the pinned ones
        lambda v: v.update(count=0),
        lambda v: v.update(count=17),
        lambda v: v.update(count=True),
        lambda v: v.update(nvswitches=-1),
        lambda v: v.update(vbios=[]),
        lambda v: v.update(vbios=["96.00.9f.00.01"]),
        lambda v: v.update(vbios=["96.00.9F.00.02", "96.00.9F.00.01"]),
        lambda v: v.update(vbios=["96.00.9F.00.01", "96.00.9F.00.01"]),
        lambda v: v.update(vbios=["96.00.9F.00.02"]),
        lambda v: v.update(vbios=[1]),
        lambda v: v.update(vbios="96.00.9F.00.01"),
        lambda v: v.update(more=1),
        lambda v: v.pop("rims"),
        lambda v: v["rims"].reverse(),
        lambda v: v["rims"].append(v["rims"][1]),
        lambda v: v["rims"][0].update(sha256=v["rims"][1]["sha256"]),
        lambda v: v["rims"][0].update(sha256=v["rims"][0]["sha256"].upper()),
        lambda v: v["rims"][0].update(id="../../etc/passwd"),
        lambda v: v["rims"][0].update(id="NV_GPU_DRIVER_GH100_545.00"),
        lambda v: v["rims"][0].update(id="NV_GPU_VBIOS_1010_0200_882_9600900000"),
        lambda v: v["rims"][1].update(id="NV_GPU_VBIOS_1010_0200_882_96005E0001"),
        lambda v: v["rims"][0].update(chip="GB100", id="NV_GPU_CC_DRIVER_GB100_550.90.07"),
        lambda v: v["rims"][0].update(kind="vbios"),
        lambda v: v["rims"][0].update(kind="switch"),
        lambda v: v["rims"][0].update(judged_at="2024-06-01"),
        lambda v: v["rims"][0].pop("judged_at"),
        lambda v: v["rims"][0].update(more=1),
    ],
)
def test_refused(change):
    with pytest.raises(FormatError):
        parse(changed(change))


def test_limits(monkeypatch):
    with pytest.raises(LimitError):
        parse(b" " * (expectations.MAX_EXPECTATIONS_BYTES + 1))
    monkeypatch.setattr(expectations, "MAX_RIMS", 1)
    with pytest.raises(LimitError):
        dataclasses.replace(EXPECTED, count=1)
    with pytest.raises(LimitError):
        dataclasses.replace(EXPECTED, rims=(), vbios=tuple(f"96.00.00.00.{n:02X}" for n in range(65)))


def test_a_moment_has_one_form():
    for moment in (THEN.replace(microsecond=1), THEN.replace(tzinfo=None)):
        with pytest.raises(FormatError, match="whole second"):
            dataclasses.replace(DRIVER_PIN, judged_at=moment)
    east = datetime.timezone(datetime.timedelta(hours=1))
    with pytest.raises(FormatError, match="whole second"):
        dataclasses.replace(DRIVER_PIN, judged_at=THEN.astimezone(east))


def test_two_manifests_of_one_version():
    """Validly signed for two boards: a verifier would believe neither."""
    twin = dataclasses.replace(VBIOS_PIN, id="NV_GPU_VBIOS_G520_0228_889_96009F0001", sha256="ab" * 32)
    with pytest.raises(FormatError, match="one version"):
        dataclasses.replace(EXPECTED, rims=(DRIVER_PIN, VBIOS_PIN, twin))


@pytest.mark.parametrize(
    ("chip", "version", "name"),
    [
        # docs/gpu.md; the first two are names that NVIDIA's service answers to.
        ("GH100", "550.90.07", "NV_GPU_DRIVER_GH100_550.90.07"),
        ("GH100", "550.163.01", "NV_GPU_DRIVER_GH100_550.163.01"),
        ("GB100", "595.91.07", "NV_GPU_CC_DRIVER_GB100_595.91.07"),
    ],
)
def test_names_of_nvidias_service(chip, version, name):
    assert driver_rim_id(chip, version) == name


def test_chips():
    assert Architecture.HOPPER.has("GH100") and not Architecture.HOPPER.has("GB100")
    assert Architecture.BLACKWELL.has("GB202") and not Architecture.BLACKWELL.has("GA100")
    with pytest.raises(FormatError, match="no known architecture"):
        driver_rim_id("GA100", "550.90.07")


def test_what_is_missing():
    assert EXPECTED.missing == ()
    bare = GpuExpectations(architecture=Architecture.HOPPER, driver_version="550.163.01", count=1)
    assert [text.partition(" (")[0] for text in bare.missing] == ["driver 550.163.01", "any VBIOS"]
    assert "NV_GPU_DRIVER_GH100_550.163.01" in bare.missing[0]
    more = dataclasses.replace(EXPECTED, vbios=("96.00.9F.00.01", "96.00.9F.00.02"))
    assert more.missing == ("VBIOS 96.00.9F.00.02",)


RIM = st.builds(
    RimReference,
    id=st.just(DRIVER_PIN.id),
    kind=st.just(RimKind.DRIVER),
    chip=st.just("GH100"),
    version=st.just("550.90.07"),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    judged_at=st.datetimes(min_value=datetime.datetime(1970, 1, 1), timezones=st.just(datetime.UTC)).map(
        lambda moment: moment.replace(microsecond=0)
    ),
)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        GpuExpectations,
        architecture=st.just(Architecture.HOPPER),
        driver_version=st.just("550.90.07"),
        count=st.integers(1, 16),
        nvswitches=st.integers(0, 16),
        vbios=st.none() | st.just(("96.00.9F.00.01",)),
        rims=st.lists(RIM, max_size=1).map(tuple),
    )
)
def test_every_value_reads_back(each):
    assert parse(serialize(each)) == each


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_our_errors(data):
    sample = bytearray(serialize(EXPECTED))
    for _ in range(data.draw(st.integers(0, 3))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(sample[: data.draw(st.integers(0, len(sample)))])
    with contextlib.suppress(MeasurementError):
        parse(data.draw(st.sampled_from([bytes(sample), cut]) | st.binary(max_size=200)))
