"""Trust domains: what has no value says why, contradictions are errors, and the JSON of a prediction."""

import hashlib
from dataclasses import replace

import launch_samples as samples
import pytest
from firmware_files import ovmf
from tdx_inputs import inputs, register

from measurements.errors import PredictionError
from measurements.platforms.firmware import UI_APP, BuiltinOption, find_profile
from measurements.prediction import BootPath
from measurements.tdx.predict import predict_tdx, prediction_to_json
from measurements.tdx.td_hob import Vmm


@pytest.mark.parametrize(
    ("index", "changes", "words"),
    [
        (0, {}, "calibrate"),
        (0, {"image": None}, "calibrate"),
        (1, {"image": None}, "no image was given"),
        (2, {"image": None}, "no image was given"),
        (0, {"memory_mib": 4}, "4 MiB of memory do not hold"),
        (2, {}, "before or behind the command line"),
        (2, {"command_line": "ä", "initrd": None}, "beyond ASCII"),
        (2, {"image": samples.kernel(version=b"6.8.0")}, "Linux 6.8 may measure"),
        (3, {}, "until an application extends it"),
    ],
)
def test_without_a_value_there_is_a_reason(index, changes, words):
    found = register(index, **changes)
    assert found.value is None and words in found.reason


def test_the_disk_is_needed_for_a_disk_boot():
    with pytest.raises(PredictionError, match="needs the disk's partition table"):
        predict_tdx(inputs(image=samples.UKI, boot=BootPath.DISK, firmware=ovmf("2025.02")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vcpus": 0}, "0 vCPUs cannot boot"),
        ({"command_line": "a\0b"}, "no NUL"),
        ({"vmm": Vmm.GCE}, "from disks alone"),
    ],
)
def test_inputs_that_contradict_each_other(changes, words):
    with pytest.raises(PredictionError, match=words):
        inputs(**changes)


def test_boot_options_need_a_known_machine():
    options = (BuiltinOption(description="UiApp", attributes=0x109, file=UI_APP),)
    profile = replace(find_profile(ovmf("2025.02")[0x84000:]), boot_options=options)
    found = register(
        0,
        firmware=ovmf("2025.02"),
        profiles=(profile,),
        image=samples.UKI,
        boot=BootPath.DISK,
        disk=samples.disk(),
        initrd=None,
    )
    assert found.value is None and "an unknown number" in found.reason
    assert found.events[-1].description.startswith("ACPI DATA")


def test_json_of_a_prediction():
    found = prediction_to_json(predict_tdx(inputs(firmware=ovmf("2025.02"))))
    assert set(found["mrtd"]) == {"one_pass", "two_pass"} and len(found["td_hob"]["sha384"]) == 96
    for index in range(3):
        name = f"rtmr{index}"
        events = [event for event in found["events"] if event["register"] == name]
        assert events[-1]["value"] == found[name]
        value = bytes(48)
        for event in events:
            value = hashlib.sha384(value + bytes.fromhex(event["digest"])).digest()
            assert value.hex() == event["value"]
    assert found["rtmr3"] is None and set(found["reasons"]) == {"rtmr3"}
    assert found["alternatives"]["rtmr1"][0]["value"] == found["rtmr1"]
