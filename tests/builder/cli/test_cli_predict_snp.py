"""``goldsmith predict snp``: its contract, and that it computes what sev-snp-measure does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import launch_samples
import pytest
import sev_samples as samples
from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode

from builder.cli import run

VCPUS = ["--vcpus", "2", "--vcpu-type", "EPYC-Milan"]
MILAN = 0xA00F11


@pytest.fixture(autouse=True)
def files():
    Path("ovmf.fd").write_bytes(samples.firmware())
    Path("kernel").write_bytes(b"kernel")
    Path("initrd").write_bytes(b"initrd")
    Path("uki.efi").write_bytes(launch_samples.UKI)


def predict(capfd, *arguments):
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def theirs(mode, kernel="", initrd="", append="", features=1):
    return guest.calc_launch_digest(
        SevMode.from_str(mode), 2, MILAN, "ovmf.fd", kernel, initrd, append, features
    ).hex()


@pytest.mark.parametrize("mode", ["snp", "seves", "sev"])
@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [
        ([], []),
        (["--kernel", "kernel"], ["kernel"]),
        (["--kernel", "kernel", "--initrd", "initrd", "--append", "a=ü"], ["kernel", "initrd", "a=ü"]),
        (["--uki", "uki.efi"], ["uki.efi"]),
    ],
)
def test_digests(capfd, mode, arguments, inputs):
    found = predict(capfd, "--mode", mode, *VCPUS, *arguments)
    assert found["launch_digest"] == theirs(mode, *inputs)
    assert found["mode"] == mode and (found["kernel_hashes"] is None) == (not inputs)


def test_contract(capfd):
    found = predict(capfd, *VCPUS, "--guest-features", "0x21")
    assert found["launch_digest"] == theirs("snp", features=0x21)
    sections = sum(size for _, size, _ in samples.OVMF_SECTIONS) // 4096
    assert found["pages"] == 2 + sections + 2
    assert found["guest_features"] == {"value": "0x21", "names": ["snp-active", "debug-swap"]}
    assert (found["vmm"], found["vcpus"], found["vcpu_signature"]) == ("qemu", 2, "0x00a00f11")
    assert found["firmware"]["size"] == 8192 and found["firmware"]["gpa"] == "0xffffe000"
    assert predict(capfd, "--vcpus", "2", "--vcpu-sig", "a00f11", "--guest-features", "21") == found


def test_every_page_is_explained(capfd):
    found = predict(capfd, *VCPUS, "--kernel", "kernel", "--explain")
    assert len(found["measured"]) == found["pages"]
    assert found["measured"][-1]["digest"] == found["launch_digest"]
    assert {page["cause"] for page in found["measured"]} >= {"firmware", "kernel hashes", "vCPU 1", "vCPU 2"}
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *VCPUS, "--kernel", "kernel", "--explain"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == found["launch_digest"] and len(lines) == found["pages"] + 4
    assert lines[0].split() == ["type", "gpa", "contents", "digest", "cause"]


def test_every_part_of_older_guests_is_explained(capfd):
    found = predict(capfd, "--mode", "seves", *VCPUS, "--kernel", "kernel", "--explain")
    assert [part["cause"] for part in found["measured"]] == ["firmware", "kernel hashes", "vCPU 1", "vCPU 2"]
    assert found["measured"][-1]["digest"] == found["launch_digest"]


def test_vmm_types_measure_other_state(capfd):
    digests = {predict(capfd, "--vmm", vmm, *VCPUS)["launch_digest"] for vmm in ("qemu", "EC2", "gce")}
    assert len(digests) == 3
    assert predict(capfd, "--vmm", "gce", "--vcpus", "2")["launch_digest"] in digests


def test_svsm(capfd):
    info = (samples.guidtable.SVSM_INFO, (0x10).to_bytes(4, "little"))
    sections = [(0x800000, 0x1000, 1)]
    Path("svsm").write_bytes(samples.firmware(sections=sections, ap_eip=None, hash_table=None, extra=[info]))
    Path("vars").write_bytes(bytes(4096))
    found = predict(capfd, *VCPUS, "--svsm", "svsm", "--vars", "vars")
    assert found["svsm"]["gpa"] == f"0x{(1 << 32) - 8192 - 4096 - 8192:x}"
    assert found == predict(capfd, *VCPUS, "--svsm", "svsm", "--vars-size", "4096")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "every vCPU is measured"),
        (["--vcpus", "2"], "QEMU measures the CPU's signature"),
        (["--vcpus", "0"], "expected 1 to 4096"),
        (
            ["--vcpus", "2", "--vcpu-type", "EPYC-Naples"],
            "--vcpu-type EPYC-Naples: not known; known are EPYC,",
        ),
        ([*VCPUS, "--vcpu-sig", "1"], "--vcpu-type and --vcpu-sig exclude each other"),
        ([*VCPUS, "--guest-features", "x"], "invalid hexadecimal number value: 'x'"),
        ([*VCPUS, "--vmm", "xen"], "invalid choice"),
        ([*VCPUS, "--initrd", "initrd"], "--initrd goes with --kernel"),
        ([*VCPUS, "--append", ""], "--append goes with --kernel"),
        ([*VCPUS, "--uki", "uki.efi", "--kernel", "kernel"], "--kernel and --uki exclude each other"),
        ([*VCPUS, "--uki", "uki.efi", "--append", "x"], "--uki and --append exclude each other"),
        ([*VCPUS, "--svsm", "kernel"], "depends on the variable store above it"),
        ([*VCPUS, "--svsm", "kernel", "--vars-size", "1"], "a variable store of 1 bytes"),
        ([*VCPUS, "--svsm", "kernel", "--kernel", "kernel"], "--kernel and --svsm exclude each other"),
        ([*VCPUS, "--vars-size", "0"], "--vars-size goes with --svsm"),
        ([*VCPUS, "--mode", "seves", "--guest-features", "1"], "--guest-features is for --mode snp"),
        ([*VCPUS, "--kernel", "nowhere"], "cannot read nowhere"),
    ],
)
def test_usage(capfd, arguments, message):
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *arguments, "--json"]) == 2
    told = capfd.readouterr()
    assert told.out == "" and message in told.err


def test_a_kernel_is_no_uki(capfd):
    Path("plain.efi").write_bytes(launch_samples.KERNEL)
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *VCPUS, "--uki", "plain.efi"]) == 2
    assert "plain.efi is no UKI" in capfd.readouterr().err


def test_firmware_that_lacks_something_is_named(capfd):
    Path("ovmf.fd").write_bytes(samples.firmware(hash_table=None))
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *VCPUS, "--kernel", "kernel"]) == 3
    assert "goldsmith: ovmf.fd: the firmware lacks a kernel hash table" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"OVMF", bytes(4097)])
def test_hostile_files_are_clear_errors(capfd, content):
    Path("ovmf.fd").write_bytes(content)
    assert run(["predict", "snp", "--firmware", "ovmf.fd", *VCPUS]) == 3
    assert "ovmf.fd: firmware has" in capfd.readouterr().err


def test_it_starts_without_what_builders_need():
    """Only the base dependencies, and not even cryptography: a digest costs milliseconds, and so does its verb."""
    code = (
        "import sys; from builder.cli import run; "
        f"assert run(['predict', 'snp', '--firmware', 'ovmf.fd', *{VCPUS}]) == 0; "
        "sys.exit(any(name in sys.modules for name in ('typer', 'pydantic', 'yaml', 'rich', 'cryptography')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
