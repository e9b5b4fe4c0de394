"""An auditor's prediction, made from the release's files alone, is the one that the builder signed."""

from __future__ import annotations

import json

import pytest

from builder.recipe import find_recipe, load_recipe
from builder.toolbox import single_file_firmware
from measurements import golden
from measurements.events import HashAlgorithm

SHAPES = [(firmware, boot) for firmware in ("ovmf-2025.02", "ovmf-2026.08") for boot in ("disk", "direct")]


@pytest.mark.integration
@pytest.mark.parametrize(("firmware", "boot"), SHAPES)
def test_predict_gives_the_signed_values(goldsmith, release, firmware, boot):
    medium = ["--direct"] if boot == "direct" else ["--disk", release / "disk.raw"]
    done = goldsmith(
        "predict", "tpm", "--firmware", firmware, "--uki", release / "uki.efi", *medium,
        "--machine-unmeasured", "--json", timeout=60,
    )  # fmt: skip
    assert_signed(done, release)


@pytest.mark.integration
@pytest.mark.parametrize(("firmware", "boot"), SHAPES)
def test_predict_gives_the_values_of_a_sealed_release(goldsmith, sealed, firmware, boot):
    """The variable store is the release's; that such firmware needs SMM, which ACPI shows, its file tells."""
    medium = ["--direct"] if boot == "direct" else ["--disk", sealed / "disk.raw"]
    done = goldsmith(
        "predict", "tpm", "--firmware", f"{firmware}-secboot", "--uki", sealed / "uki.efi", *medium,
        "--secure-boot", sealed / f"{firmware}-secboot.vars.fd", "--machine-unmeasured", "--json", timeout=60,
    )  # fmt: skip
    assert_signed(done, sealed)


def assert_signed(done, release):
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    document = golden.parse((release / "golden.json").read_bytes())
    (signed,) = [item for item in document.predictions if item.shape.name == found["shape"]["name"]]
    for bank in document.banks:
        for register in signed.registers:
            entry = found["registers"][bank][str(register.index)]
            assert entry["alternatives"] == [value.hex() for value in register.values(bank)]
            assert entry["stability"] == register.stability.value
    assert signed.register(1).values(document.banks[0])  # the tables were there, so PCR 1 has a value


@pytest.mark.integration
def test_a_qcow2_disk_is_refused_with_the_command_that_helps(goldsmith, release):
    done = goldsmith(
        "predict", "tpm", "--firmware", "ovmf-2025.02", "--uki", release / "uki.efi",
        "--disk", release / "disk.qcow2", timeout=60,
    )  # fmt: skip
    assert done.code == 2 and "qemu-img convert -O raw" in done.stderr


@pytest.mark.integration
def test_predict_gives_the_signed_values_of_trust_domains(goldsmith, release, store, lock):
    """RTMR0 too: the tables come from the QEMU release that the machine type names."""
    document = golden.parse((release / "golden.json").read_bytes())
    sources = load_recipe(find_recipe("base")).firmware
    files = single_file_firmware(sources, lock, store)
    assert {shape.boot for shape in document.tdx} == {"disk", "direct"}
    for shape in document.tdx:
        direct = shape.boot == "direct"
        image = ["--kernel"] if direct else ["--disk", release / "disk.raw", "--uki"]
        done = goldsmith(
            "predict", "tdx", "--firmware", files[shape.firmware.name], *image, release / "uki.efi",
            "--memory", str(shape.memory_mib), "--vcpus", str(shape.vcpus),
            "--qemu", shape.machine.removeprefix("pc-q35-"), "--json", timeout=60,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        found = json.loads(done.stdout)
        for register in shape.registers[:3]:
            assert found[f"rtmr{register.index}"] in {
                course.value(HashAlgorithm.SHA384).hex() for course in register.alternatives
            }
        assert shape.registers[0].alternatives, "RTMR0 is pinned"


@pytest.mark.integration
def test_a_device_more_moves_rtmr0_alone(goldsmith, release, store, lock):
    files = single_file_firmware(load_recipe(find_recipe("base")).firmware, lock, store)
    given = [
        "--firmware",
        files["ovmf-single-2025.02"],
        "--kernel",
        release / "uki.efi",
        "--qemu",
        "11.1",
        "--json",
    ]
    machines = ([], ["--device", "pci-testdev,membar=1M"], ["--device", "pci-testdev,membar=64G"], ["--bare"])
    found = [json.loads(goldsmith("predict", "tdx", *given, *more, timeout=60).stdout) for more in machines]
    assert len({values["rtmr0"] for values in found}) == len(machines) and all(
        values["rtmr0"] for values in found
    )
    for name in ("mrtd", "td_hob", "rtmr1", "rtmr2"):
        assert all(values[name] == found[0][name] for values in found), name
