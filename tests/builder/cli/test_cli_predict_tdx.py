"""``goldsmith predict tdx``: the contract for scripts, options, and files that are something else."""

import json
import struct
from pathlib import Path

import launch_samples as samples
import pytest
import tdx_samples
from firmware_files import ovmf
from test_cli_verbs import run_as_verifier

from builder.cli import run

GIVEN = ["--firmware", "fw.fd", "--kernel", "kernel"]


@pytest.fixture(autouse=True)
def files():
    """A firmware that nobody knows, a kernel, a UKI, a disk, and QEMU's files of a machine without TPM."""
    Path("fw.fd").write_bytes(tdx_samples.firmware(tdx_samples.OVMF))
    Path("kernel").write_bytes(samples.KERNEL)
    Path("initrd").write_bytes(samples.INITRD)
    Path("uki.efi").write_bytes(samples.UKI)
    Path("disk.raw").write_bytes(samples.vector("launches/disk-prefix.xz"))
    folder = Path("acpi")
    folder.mkdir()
    acpi = samples.acpi("disk")
    script = [acpi.table_loader[at : at + 128] for at in range(0, len(acpi.table_loader), 128)]
    loader = b"".join(command for command in script if b"etc/tpm/log" not in command)
    for name, content in (("table-loader", loader), ("rsdp", acpi.rsdp), ("tables", acpi.tables)):
        (folder / name).write_bytes(content)


def predicted(capfd, *arguments):
    assert run(["predict", "tdx", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_json_holds_the_contract(capfd):
    Path("fw.fd").write_bytes(ovmf("2025.02"))
    found = predicted(
        capfd,
        *GIVEN,
        "--initrd",
        "initrd",
        "--append",
        "quiet",
        "--memory",
        "2048",
        "--vcpus",
        "2",
        "--acpi",
        "acpi",
    )
    assert {"mrtd", "rtmr0", "rtmr1", "rtmr2", "td_hob", "events"} <= set(found)
    values = [
        *found["mrtd"].values(),
        found["rtmr0"],
        found["rtmr1"],
        found["rtmr2"],
        found["td_hob"]["sha384"],
    ]
    assert all(len(bytes.fromhex(value)) == 48 for value in values) and len(set(values)) == len(values)
    # The TD HOB of a trust domain with 2 GiB and this layout (tests/vectors/tdx/logs.json, mpc-2-gib).
    assert found["td_hob"]["sha384"].startswith("0e35f1b315ba6c912cf791e5c79dd9d3")
    assert set(found["reasons"]) == {"rtmr3"} and found["warnings"] == []


def test_without_tables_there_is_no_rtmr0(capfd):
    Path("fw.fd").write_bytes(ovmf("2025.02"))
    found = predicted(capfd, *GIVEN)
    assert found["rtmr0"] is None and "ACPI tables were not supplied" in found["reasons"]["rtmr0"]
    assert found["rtmr1"] and found["rtmr2"]


def test_without_the_toolbox_of_that_release_there_is_no_rtmr0(capfd):
    # There is no recipe here, so there is no toolbox either.
    assert run(["predict", "tdx", *GIVEN, "--qemu", "10.0", "--json"]) == 0
    told = capfd.readouterr()
    assert (
        json.loads(told.out)["rtmr0"] is None
        and "warning: no tables of the machine: no recipe 'base'" in told.err
    )


def test_firmware_alone(capfd):
    found = predicted(capfd, "--firmware", "fw.fd", "--memory", "4096")
    assert all(found["mrtd"].values()) and found["td_hob"]["sha384"]
    assert [found[f"rtmr{index}"] for index in range(4)] == [None] * 4
    assert "no image was given" in found["reasons"]["rtmr1"]


def test_a_uki_on_a_disk_and_compute_engine(capfd):
    given = ["--firmware", "fw.fd", "--uki", "uki.efi", "--disk", "disk.raw"]
    qemu = predicted(capfd, *given, "--memory", "16384")
    gce = predicted(capfd, *given, "--memory", "16384", "--vmm", "gce")
    assert qemu["mrtd"] == gce["mrtd"] and qemu["td_hob"] != gce["td_hob"]
    assert "Compute Engine" in gce["reasons"]["rtmr0"] and gce["rtmr2"] == qemu["rtmr2"]


def test_explanations(capfd):
    Path("fw.fd").write_bytes(ovmf("2025.02"))
    assert run(["predict", "tdx", *GIVEN, "--explain"]) == 0
    told = capfd.readouterr().out
    found = predicted(capfd, *GIVEN, "--explain")
    for order, value in found["mrtd"].items():
        assert found["pages"][order][-1]["value"] == value and value in told
    assert told.count("MEM.PAGE.ADD") == 2 * len([p for p in found["pages"]["one_pass"] if p["operations"]])
    assert found["rtmr1"] in told and "Exit Boot Services Invocation" in told


def test_a_firmware_that_would_refuse_the_image_is_a_warning(capfd):
    from firmware_files import ovmf_inteltdx

    Path("fw.fd").write_bytes(ovmf_inteltdx())
    found = predicted(capfd, *GIVEN)
    assert "Secure Boot would refuse the image" in found["warnings"][0] and found["rtmr1"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kernel", "kernel"], 2, "--firmware"),
        (["--firmware", "absent"], 2, "cannot read absent"),
        (["--firmware", "kernel"], 3, "kernel: firmware has no TDVF metadata"),
        ([*GIVEN, "--memory", "0"], 2, "0; expected 1 or more"),
        ([*GIVEN, "--memory", "much"], 2, "--memory"),
        ([*GIVEN, "--qemu", "new"], 2, "expected a release such as 10.1"),
        ([*GIVEN, "--vmm", "xen"], 2, "--vmm"),
        ([*GIVEN, "--device", "pci-testdev"], 2, "--device is for the machine of --qemu"),
        ([*GIVEN, "--qemu", "11.1", "--bare", "--device", "pci-testdev"], 2, "without --bare"),
        ([*GIVEN, "--vmm", "gce"], 3, "from disks alone"),
        ([*GIVEN, "--uki", "uki.efi"], 2, "name two images"),
        ([*GIVEN, "--disk", "disk.raw"], 2, "without the UKI"),
        ([*GIVEN, "--acpi", "absent"], 2, "cannot read absent/table-loader"),
        (["--firmware", "fw.fd", "--uki", "uki.efi"], 2, "without the disk"),
        (["--firmware", "fw.fd", "--uki", "uki.efi", "--disk", "kernel"], 3, "kernel: no GPT"),
        (["--firmware", "fw.fd", "--append", "quiet"], 2, "go with --kernel"),
        (["--firmware", "fw.fd", "--kernel", "initrd"], 3, "initrd: "),
    ],
)
def test_bad_inputs_say_which_and_why(capfd, arguments, code, words):
    assert run(["predict", "tdx", *arguments]) == code
    told = capfd.readouterr()
    assert words in told.err and told.out == ""


def test_hostile_firmware_is_a_clear_error(capfd):
    meta = bytearray(tdx_samples.metadata(tdx_samples.SMALL))
    struct.pack_into("<Q", meta, 16 + 16, 1 << 63)
    Path("fw.fd").write_bytes(tdx_samples.firmware(meta=bytes(meta)))
    assert run(["predict", "tdx", "--firmware", "fw.fd"]) == 3
    assert "fw.fd: TDVF metadata at offset" in capfd.readouterr().err


def test_it_runs_on_the_base_dependencies():
    done = run_as_verifier("predict", "tdx", *GIVEN, "--memory", "2048", "--vcpus", "2", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["mrtd"]["one_pass"]
