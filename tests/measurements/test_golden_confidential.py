"""SEV-SNP launches and trust domains in golden documents: round trip, refolding, limits, differences."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import jsonschema
import pytest
import sev_samples
from attester import document, prediction
from confidential_samples import snp, snp_launch, tdx
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import golden
from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.golden import sev_snp as model
from measurements.snp.image import load
from measurements.snp.launch import LaunchDigests
from measurements.snp.vmsa import Vmm

SCHEMA = jsonschema.Draft202012Validator(json.loads(golden.json_schema()))


def confidential(*, snp_references=None, tdx_references=None):
    return replace(
        document(prediction()),
        sev_snp=tuple([snp(), snp(uki=None, vcpus=1)] if snp_references is None else snp_references),
        tdx=tuple([tdx(), tdx(memory_mib=4096)] if tdx_references is None else tdx_references),
    )


VALUE = golden.to_value(confidential())


def text(value):
    return json.dumps(value).encode()


def test_both_forms_read_back():
    whole = confidential()
    for form in (golden.to_canonical(whole), golden.to_pretty(whole)):
        assert golden.parse(form) == whole
    SCHEMA.validate(VALUE)


@pytest.mark.parametrize("vmm", list(Vmm))
@pytest.mark.parametrize("uki", [b"uki", None])
@pytest.mark.parametrize("vcpus", [1, 2, 7])
def test_steps_fold_to_what_the_calculator_says(vmm, uki, vcpus):
    """The calculator itself is held against sev-snp-measure (tests/measurements/snp)."""
    cpu = "EPYC-Genoa" if vmm is Vmm.QEMU else None
    reference = snp(vmm=vmm, uki=uki, vcpus=vcpus, cpu=cpu)
    digests = LaunchDigests(load(sev_samples.firmware()))
    launch = snp_launch(vmm=vmm, uki=uki, vcpus=vcpus, cpu=cpu)
    assert reference.launch_digest.value == digests.digest(launch)
    assert reference.pages == digests.pages(launch)


def test_vcpus_of_one_state_are_one_step():
    first, others = snp(vcpus=64).steps[-2:]
    assert (first.cause, first.times, others.cause, others.times) == ("vCPU 1", 1, "vCPU 2 to 64", 63)


def test_trust_domains_share_registers():
    shapes = VALUE["tdx"]["shapes"]
    assert shapes[0]["registers"][3] == shapes[1]["registers"][3] == "3.1"
    assert shapes[0]["td_hob"] != shapes[1]["td_hob"]


def test_launches_with_gpus_say_how_many():
    plain = document(prediction())
    shape = replace(prediction().shape, gpus=2)
    both = (prediction(), replace(prediction(), shape=shape))
    whole = replace(plain, predictions=both, tdx=(tdx(), replace(tdx(), gpus=8)))
    value = golden.to_value(whole)
    assert golden.parse(golden.to_canonical(whole)) == whole
    SCHEMA.validate(value)
    shapes = value["platforms"][0]["shapes"]
    assert [item.get("gpus") for item in (*shapes, *value["tdx"]["shapes"])] == [None, 2, None, 8]
    assert shapes[1]["name"].endswith("/2048-mib/2-gpus")
    for gpus in (0, 16, None, "2"):
        changed_one = copy.deepcopy(value)
        changed_one["tdx"]["shapes"][1]["gpus"] = gpus
        with pytest.raises(FormatError, match="gpus"):
            golden.parse(text(changed_one))


def test_a_register_without_a_value_says_why():
    register = next(item for item in VALUE["tdx"]["registers"] if item["id"] == "3.1")
    assert register["stability"] == "not-pinned" and "zero until an application" in register["reason"]


def changed(change):
    value = copy.deepcopy(VALUE)
    change(value)
    return text(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["sev_snp"][0].update(launch_digest="00" * 48), "launch_digest is"),
        (lambda v: v["sev_snp"][0]["steps"].pop(), "launch_digest is"),
        (lambda v: v["sev_snp"][0]["steps"][0].update(address=0), "launch_digest is"),
        (lambda v: v["sev_snp"][0]["loaded"].update(value="11" * 48), "launch_digest is"),
        (lambda v: v["sev_snp"][0].update(vcpus=5), "name is"),
        (lambda v: v["sev_snp"][0].update(name="another"), "name is"),
        (lambda v: v["sev_snp"][0].update(guest_features="1"), "guest_features"),
        (lambda v: v["sev_snp"][0]["steps"][0].update(type="huge"), "expected one of"),
        (lambda v: v["sev_snp"][0]["steps"][0].update(contents="22" * 48), "contents are of one page"),
        (lambda v: v["sev_snp"][0]["steps"][-1].update(contents=None), "contents are of one page"),
        (lambda v: v["sev_snp"][0].update(extra=1), "extra"),
        (lambda v: v["sev_snp"].append(v["sev_snp"][0]), "two share one name"),
        (lambda v: v["tdx"]["shapes"][0].update(memory_mib=1), "name is"),
        (lambda v: v["tdx"]["shapes"][0]["mrtd"].pop("one_pass"), "one_pass"),
        (lambda v: v["tdx"]["shapes"][0]["registers"].pop(), "RTMRs"),
        (lambda v: v["tdx"]["shapes"][0].update(registers=["9.9"] * 4), "is not in 'registers'"),
        (lambda v: v["tdx"]["registers"].reverse(), "tables are not the ones"),
        (lambda v: v.pop("tdx"), "tdx"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(change, message):
    with pytest.raises(FormatError, match=message):
        golden.parse(changed(change))


def test_limits(monkeypatch):
    monkeypatch.setattr(model, "MAX_FOLDS", 10)
    with pytest.raises(LimitError, match="pages to fold"):
        golden.parse(text(VALUE))
    with pytest.raises(LimitError):
        golden.parse(changed(lambda v: v["sev_snp"][0]["steps"][0].update(pages=1 << 20)))


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_changed_value_never_escapes_and_never_means_the_same(data):
    value = copy.deepcopy(VALUE)
    place = data.draw(
        st.sampled_from([value["sev_snp"][0], value["sev_snp"][0]["steps"][-1], value["tdx"]["shapes"][0]])
    )
    name = data.draw(st.sampled_from(sorted(place)))
    new = data.draw(
        st.one_of(st.none(), st.integers(-1, 1 << 60), st.text(max_size=8), st.just([]), st.just({}))
    )
    if place[name] == new and type(place[name]) is type(new):
        return
    place[name] = new
    try:
        parsed = golden.parse(text(value))
    except MeasurementError:
        return
    assert parsed != confidential()


def test_the_guilty_input_is_named():
    def moved(**after):
        differences = golden.compare(confidential(), confidential(**after))
        return {move.cause: tuple(move.registers) for move in golden.moves(differences)}

    second = snp(uki=None, vcpus=1)
    assert moved(snp_references=[snp(uki=b"another"), second]) == {"kernel hashes": ("launch digest",)}
    assert moved(tdx_references=[tdx(seed=b"x"), tdx(memory_mib=4096)])["firmware"] == ("MRTD",)
    by_firmware = moved(snp_references=[snp(seed=b"x"), second])
    assert by_firmware == {"firmware": ("launch digest",)}


def test_launch_with_another_input_is_compared_with_its_predecessor():
    """vCPUs move the launch digest, and nothing of a trust domain without ACPI tables; memory moves the TD HOB."""

    def found(**after):
        differences = golden.compare(
            confidential(snp_references=[snp()], tdx_references=[tdx()]),
            confidential(**{"snp_references": [snp()], "tdx_references": [tdx()]} | after),
        )
        moved = {move.cause: tuple(move.registers) for move in golden.moves(differences)}
        return moved, [
            (item.what, item.old, item.new)
            for item in differences
            if item.cause is None and item.register is None
        ]

    assert found(snp_references=[snp(vcpus=8)]) == (
        {"vCPU 2 to 8": ("launch digest",)},
        [("vcpus", "4", "8")],
    )
    moved, inputs = found(snp_references=[snp(cpu="EPYC-Genoa")])
    assert moved == {"vCPU 1": ("launch digest",), "vCPU 2 to 4": ("launch digest",)}
    assert inputs == [
        ("cpu", "EPYC-Milan", "EPYC-Genoa"),
        ("CPU signature", "0x00a00f11", "0x00a10f10"),
    ]
    moved, inputs = found(tdx_references=[tdx(vcpus=4)])
    assert (moved, inputs) == ({}, [("vcpus", "2", "4")])
    _, inputs = found(tdx_references=[tdx(memory_mib=4096)])
    assert [what for what, _, _ in inputs] == ["memory_mib", "TD HOB"]


def test_launches_that_come_and_go_are_listed():
    differences = golden.compare(confidential(), confidential(snp_references=[snp()], tdx_references=[]))
    assert [(item.what, item.new) for item in differences] == [("launch shape", None)] * 3
