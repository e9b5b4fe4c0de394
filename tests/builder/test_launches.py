"""Which machines a release is predicted for and booted on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from builder.artifacts import Firmware
from builder.errors import UsageError
from builder.launches import enrolled_firmware, launches, store_name
from builder.recipe.platforms import PassedThrough, Platform

PLATFORM = Platform(
    name="qemu-vtpm",
    machine="pc-q35-10.0",
    firmware=("plain",),
    secure_boot=("verifying", "another"),
    memory_mib=(512, 1024),
    vcpus=(1,),
)
BUILDS = tuple(
    Firmware(name=name, package="p", version="1", code=Path("/code"), variables=Path("/blank"))
    for name in ("plain", "verifying", "another")
)


def test_launches_with_secure_boot_are_apart():
    usual = list(launches((PLATFORM,), BUILDS))
    assert {launch.firmware.name for launch in usual} == {"plain"}
    assert not any(launch.machine.smm for launch in usual)
    sealed = list(launches((PLATFORM,), BUILDS, secure_boot=True))
    assert {launch.firmware.name for launch in sealed} == {"verifying", "another"}
    assert all(launch.machine.smm for launch in sealed)
    assert (len(usual), len(sealed)) == (4, 8)


def test_a_sealed_release_brings_the_variable_stores(tmp_path):
    assert enrolled_firmware((PLATFORM,), BUILDS, tmp_path) == ()
    (tmp_path / store_name("verifying")).touch()
    with pytest.raises(UsageError, match=r"lacks another\.vars\.fd"):
        enrolled_firmware((PLATFORM,), BUILDS, tmp_path)
    (tmp_path / store_name("another")).touch()
    found = enrolled_firmware((PLATFORM,), BUILDS, tmp_path)
    assert [build.variables for build in found] == [
        tmp_path / "verifying.vars.fd", tmp_path / "another.vars.fd",
    ]  # fmt: skip


def test_gpus_are_one_more_list():
    gpus = {"counts": [0, 2], "bars_mib": [16, 1024, 32]}
    platform = Platform.model_validate(PLATFORM.model_dump() | {"gpus": gpus}, strict=False)
    found = list(launches((platform,), BUILDS))
    assert len(found) == 8
    assert {launch.machine.gpus for launch in found} == {(), ((1 << 24, 1 << 30, 1 << 25),) * 2}


@pytest.mark.parametrize(
    "gpus",
    [
        {"counts": [1], "bars_mib": [3]},
        {"counts": [16], "bars_mib": [1]},
        {"counts": [], "bars_mib": [1]},
        {"counts": [1], "bars_mib": []},
        {"counts": [1], "bars_mib": [1] * 4},
    ],
)
def test_gpus_that_no_bus_has(gpus):
    with pytest.raises(ValidationError):
        PassedThrough.model_validate(gpus, strict=False)
