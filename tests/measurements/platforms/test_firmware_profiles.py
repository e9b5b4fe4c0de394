"""Firmware profiles and their JSON form."""

import contextlib
import copy
import json
from dataclasses import replace

import launch_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import Digest, HashAlgorithm
from measurements.platforms import firmware
from measurements.platforms.firmware import (
    PROFILES,
    FirmwareProfile,
    Patch,
    PeifvMode,
    PeifvObservation,
    find_profile,
)
from measurements.prediction import BootPath

CALIBRATED = samples.profile_for(
    samples.FIRMWARE,
    peifv=PeifvMode.CALIBRATE,
    shell=None,
    observations=(
        PeifvObservation(
            memory_mib=512,
            vcpus=2,
            boot=BootPath.DISK,
            digests={HashAlgorithm.SHA256: Digest(HashAlgorithm.SHA256, b"\1" * 32)},
        ),
    ),
)


def changed(path, value, base=PROFILES[0]):
    record = copy.deepcopy(base.to_json())
    *parents, last = path
    target = record
    for key in parents:
        target = target[key]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return record


@pytest.mark.parametrize(
    "profile",
    [*PROFILES, CALIBRATED, samples.PROFILE, samples.profile_for(b"", name="no version", crtm_version="")],
    ids=lambda profile: profile.name,
)
def test_json_round_trip(profile):
    assert FirmwareProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_profiles_have_different_keys():
    assert len({profile.sha384 for profile in PROFILES}) == len(PROFILES)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sha384",), "00" * 32, "'sha384'"),
        (("sha384",), "A0" * 48, "'sha384'"),
        (("sha384",), KeyError, "lacks 'sha384'"),
        (("name",), "", "'name'"),
        (("colour",), "red", "unknown key 'colour'"),
        (("acpi_measured",), 1, "'acpi_measured'"),
        (("pciexbar",), -1, "'pciexbar'"),
        (("pciexbar",), True, "'pciexbar'"),
        (("smbios",), "sometimes", "'sometimes'"),
        (("secure_boot_unset",), "0000", "'secure_boot_unset'"),
        (("shell", "file"), "7C04A583-9E3E-4F1C-AD65-E05268D0B4D1", "lower-case"),
        (("boot_options",), {}, "a list"),
        (("boot_options", 0, "extra"), 1, "unknown key 'extra'"),
        (("peifv", "mode"), "guess", "'guess'"),
        (("peifv", "mode"), "file", "unknown key 'patches'"),
        (("peifv", "patches"), [], "needs at least one"),
        (("peifv", "patches", 0, "bytes"), "", "'bytes'"),
        (("peifv", "observed"), [], "unknown key 'observed'"),
    ],
)
def test_strict_reading(path, value, message):
    with pytest.raises(FormatError, match=message):
        FirmwareProfile.from_json(changed(path, value))


def test_observations_are_unique_and_complete():
    record = CALIBRATED.to_json()
    record["peifv"]["observed"] *= 2
    with pytest.raises(FormatError, match="twice"):
        FirmwareProfile.from_json(record)
    with pytest.raises(FormatError, match="no digest"):
        FirmwareProfile.from_json(changed(("peifv", "observed", 0, "digests"), {}, CALIBRATED))
    with pytest.raises(FormatError, match="'boot' is 'tape'"):
        FirmwareProfile.from_json(changed(("peifv", "observed", 0, "boot"), "tape", CALIBRATED))
    with pytest.raises(FormatError, match="unknown key 'md5'"):
        FirmwareProfile.from_json(changed(("peifv", "observed", 0, "digests", "md5"), "00", CALIBRATED))


def test_limit(monkeypatch):
    monkeypatch.setattr(firmware, "MAX_BOOT_OPTIONS", 0)
    with pytest.raises(LimitError, match="limit is 0"):
        FirmwareProfile.from_json(PROFILES[0].to_json())


def test_modes_and_their_data_belong_together():
    with pytest.raises(FormatError, match="needs at least one"):
        samples.profile_for(samples.FIRMWARE, peifv=PeifvMode.PATCHED)
    with pytest.raises(FormatError, match="patches belong"):
        samples.profile_for(samples.FIRMWARE, patches=(Patch(offset=0, data=b"x"),))
    with pytest.raises(FormatError, match="observations"):
        samples.profile_for(samples.FIRMWARE, observations=CALIBRATED.observations)


def test_a_calibrated_profile_goes_before_the_table():
    assert find_profile(samples.FIRMWARE) is None
    assert find_profile(samples.FIRMWARE, (PROFILES[0], CALIBRATED)) == CALIBRATED


def test_a_calibrated_machine_adds_to_those_that_are_known():
    (seen,) = CALIBRATED.observations
    direct = replace(seen, boot=BootPath.DIRECT)
    other = replace(seen, digests={HashAlgorithm.SHA256: Digest(HashAlgorithm.SHA256, b"\2" * 32)})
    profiles = (CALIBRATED, replace(CALIBRATED, observations=(other, direct)))
    found = find_profile(samples.FIRMWARE, profiles)
    assert found.observation(512, 2, BootPath.DISK) == seen
    assert found.observation(512, 2, BootPath.DIRECT) == direct
    assert found.observation(512, 1, BootPath.DISK) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    st.sampled_from(
        ["sha384", "name", "peifv", "pciexbar", "smbios", "boot_options", "shell", "secure_boot"]
    ),
    JSON,
)
def test_random_members_raise_nothing_else(key, value):
    with contextlib.suppress(FormatError):
        FirmwareProfile.from_json(PROFILES[0].to_json() | {key: value})
