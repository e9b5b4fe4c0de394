"""``goldsmith predict tpm``: recorded boots, options, and files that are something else. QEMU is not asked here."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import launch_samples as samples
import pytest
from firmware_files import ovmf_code
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import run
from builder.disks import partition_table
from builder.errors import UsageError
from measurements.errors import FormatError
from measurements.events import EventType, HashAlgorithm
from measurements.formats import eventlog
from measurements.replay import replay

GIVEN = ["--firmware", "fw.fd", "--uki", "uki.efi", "--no-acpi"]


@pytest.fixture(autouse=True)
def files():
    """A firmware, its profile in this user's data folder, a UKI and a disk, all small."""
    Path("fw.fd").write_bytes(samples.FIRMWARE)
    Path("uki.efi").write_bytes(samples.UKI)
    Path("disk.raw").write_bytes(samples.vector("launches/disk-prefix.xz"))
    Path("vars.fd").write_bytes(samples.vector("launches/secure-boot-2026.08.vars.fd.xz"))
    Path("profile.json").write_text(json.dumps(samples.profile_for(samples.FIRMWARE).to_json()))


def predicted(capfd, *arguments):
    assert run(["predict", "tpm", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("release", ["2025.02", "2026.08"])
@pytest.mark.parametrize("name", ["disk", "direct"])
def test_registers_of_a_recorded_launch(capfd, release, name):
    Path("real.fd").write_bytes(ovmf_code(release))
    medium = ["--direct"] if name == "direct" else ["--disk", "disk.raw"]
    given = ["--firmware", "real.fd", "--uki", "uki.efi", "--no-acpi", *medium, "--memory", "512"]
    found = predicted(capfd, *given)
    log = eventlog.parse(samples.vector(f"launches/{name}-{release}.eventlog.xz"))
    for bank in (HashAlgorithm.SHA256, HashAlgorithm.SHA384):
        folded = replay(log).registers[bank]
        for index in (0, 2, 3, 6, 7):
            entry = found["registers"][bank][str(index)]
            assert entry["value"] == folded[index].hex() and entry["alternatives"] == [entry["value"]]
    # The log of this UKI, whose program loops, ends with the UKI itself; PCR 4 and 5 go on after it.
    events = {item["register"]: item["events"] for item in found["events"]}
    for index, kind in ((4, EventType.EFI_BOOT_SERVICES_APPLICATION), (5, EventType.EFI_GPT_EVENT)):
        observed = [
            record.digests[HashAlgorithm.SHA256].hex()
            for record in log.records
            if (record.register, record.type) == (index, kind)
        ]
        assert bool(observed) is (name == "disk" or index == 4)
        assert set(observed) <= {event["digests"]["sha256"] for event in events[index]}


def test_json_holds_the_contract(capfd):
    found = predicted(capfd, *GIVEN, "--disk", "disk.raw", "--profile", "profile.json")
    assert set(found) == {"shape", "registers", "events"} and set(found["registers"]) == {"sha256", "sha384"}
    assert found["shape"]["firmware"]["sha256"] == hashlib.sha256(samples.FIRMWARE).hexdigest()
    for registers in found["registers"].values():
        assert list(registers) == [str(index) for index in range(16)]
        for entry in registers.values():
            assert set(entry) == {"value", "alternatives", "phases", "stability", "reason"}
            assert entry["reason"] or entry["value"] == entry["alternatives"][0]
    assert len(found["registers"]["sha256"]["5"]["alternatives"]) > 1
    assert found["registers"]["sha256"]["11"]["phases"]


def test_pcr_11_is_what_systemd_measure_says(capfd):
    vectors = json.loads((samples.VECTORS / "systemd/measure.json").read_text())
    found = predicted(capfd, *GIVEN, "--direct", "--banks", "sha1,sha256,sha384")
    text = json.dumps(vectors)
    for bank in ("sha1", "sha256", "sha384"):
        entry = found["registers"][bank]["11"]
        assert entry["value"] in text and all(value in text for value in entry["phases"].values())


def test_firmware_without_a_profile_is_not_guessed(capfd):
    found = predicted(capfd, *GIVEN, "--direct")["registers"]["sha256"]["0"]
    assert found["value"] is None and found["stability"] == "not-pinned"
    assert "goldsmith calibrate" in found["reason"]


def test_calibrated_profiles_come_from_a_file_or_the_users_folder(capfd):
    by_file = predicted(capfd, *GIVEN, "--direct", "--profile", "profile.json")
    assert by_file["registers"]["sha256"]["0"]["value"]
    folder = Path(".local/share/goldsmith/profiles")
    folder.mkdir(parents=True)
    Path("profile.json").rename(folder / "sample.json")
    assert predicted(capfd, *GIVEN, "--direct") == by_file
    (folder / "broken.json").write_text("{}")
    assert run(["predict", "tpm", *GIVEN, "--direct"]) == 3
    assert "broken.json is no firmware profile" in capfd.readouterr().err


def test_without_qemu_pcr_1_says_so(capfd):
    Path("real.fd").write_bytes(ovmf_code("2026.08"))
    # There is no recipe here, so there is no toolbox either.
    given = ["--firmware", "real.fd", "--uki", "uki.efi", "--direct"]
    assert run(["predict", "tpm", *given, "--json"]) == 0
    told = capfd.readouterr()
    assert "note: PCR 1 is not pinned" in told.err
    entry = json.loads(told.out)["registers"]["sha256"]["1"]
    assert entry["value"] is None and "QEMU" in entry["reason"]


def test_secure_boot_keys_move_pcr_7_and_the_shape(capfd):
    able = samples.profile_for(samples.FIRMWARE, secure_boot=True)
    Path("able.json").write_text(json.dumps(able.to_json()))
    profile = ["--profile", "able.json", "--direct"]
    off = predicted(capfd, *GIVEN, *profile)
    signed = samples.vector("launches/secure-boot-image.efi.xz")
    Path("uki.efi").write_bytes(signed)
    on = predicted(capfd, *GIVEN, *profile, "--secure-boot", "vars.fd")
    assert on["shape"]["secure_boot"] is True and off["shape"]["secure_boot"] is False
    assert on["registers"]["sha256"]["7"]["value"] != off["registers"]["sha256"]["7"]["value"]


def test_pcr_15_is_zero_only_when_nothing_is_said_to_extend_it(capfd):
    usual = predicted(capfd, *GIVEN, "--direct")["registers"]["sha256"]["15"]
    assert usual["value"] is None and usual["reason"]
    masked = predicted(capfd, *GIVEN, "--direct", "--machine-unmeasured")["registers"]["sha256"]["15"]
    assert masked["value"] == "00" * 32


def test_table_and_events_for_people(capfd):
    assert run(["predict", "tpm", *GIVEN, "--direct", "--events", "--banks", "sha256"]) == 0
    told = capfd.readouterr().out
    assert told.startswith("qemu-vtpm/fw/direct/2-vcpus/2048-mib, sha256\nPCR  value")
    assert "EV_EFI_BOOT_SERVICES_APPLICATION" in told and "uki" in told and "sha384" not in told


def test_a_disk_of_4096_byte_sectors_is_recognised():
    prefix = samples.vector("launches/disk-prefix.xz")
    header, table = bytearray(prefix[512:604]), prefix[1024 : 1024 + 128 * 128]
    wide = bytes(4096) + bytes(header).ljust(4096, b"\0") + table
    assert partition_table(wide).sector_size == 4096
    assert partition_table(prefix).sector_size == 512


@given(st.binary(max_size=300), st.integers(0, 17_000), st.sampled_from([None, 512, 4096]))
def test_a_hostile_disk_is_a_clear_error(junk, place, sector_size):
    disk = bytearray(samples.vector("launches/disk-prefix.xz"))
    disk[place : place + len(junk)] = junk
    with contextlib.suppress(FormatError, UsageError):
        partition_table(bytes(disk[: place + 600]), sector_size=sector_size)
    with contextlib.suppress(FormatError, UsageError):
        partition_table(bytes(disk), sector_size=sector_size)


@pytest.mark.parametrize(
    ("name", "magic"),
    [("qcow2", b"QFI\xfb"), ("VMDK", b"KDMV"), ("VHDX", b"vhdxfile"), ("zstd", b"\x28\xb5\x2f\xfd")],
)
def test_wrapped_disks_are_refused_by_name(capfd, name, magic):
    Path("disk.raw").write_bytes(magic + bytes(8192))
    assert run(["predict", "tpm", *GIVEN, "--disk", "disk.raw"]) == 2
    assert f"the disk is a {name} file" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([*GIVEN], 2, "--disk FILE, or --direct"),
        ([*GIVEN, "--disk", "absent"], 2, "cannot read absent"),
        ([*GIVEN, "--disk", "uki.efi"], 3, "uki.efi: no GPT"),
        ([*GIVEN, "--disk", "disk.raw", "--sector-size", "520"], 2, "expected 512 or 4096"),
        ([*GIVEN, "--direct", "--banks", "md5"], 2, "a list of sha1, sha256"),
        ([*GIVEN, "--direct", "--machine", "pc-i440fx-9.0"], 2, "no versioned q35"),
        ([*GIVEN, "--direct", "--vcpus", "0"], 2, "--vcpus"),
        ([*GIVEN, "--direct", "--memory", "much"], 2, "--memory"),
        ([*GIVEN, "--direct", "--secure-boot", "uki.efi"], 3, "uki.efi: variable store"),
        ([*GIVEN, "--direct", "--profile", "uki.efi"], 3, "uki.efi is no firmware profile"),
        (["--firmware", "fw.fd", "--uki", "fw.fd", "--direct", "--no-acpi"], 3, "fw.fd: "),
        (["--firmware", "fw.fd", "--uki", ".", "--direct", "--no-acpi"], 2, "cannot read ."),
        (
            ["--firmware", "no/such.fd", "--uki", "uki.efi", "--direct"],
            2,
            "no/such.fd: there is no such file",
        ),
        (["--firmware", "ovmf-1", "--uki", "uki.efi", "--direct"], 2, "no recipe 'base'"),
        (["--uki", "uki.efi", "--direct"], 2, "--firmware"),
    ],
)
def test_bad_inputs_say_which_and_why(capfd, arguments, code, words):
    assert run(["predict", "tpm", *arguments]) == code
    told = capfd.readouterr()
    assert words in told.err and told.out == ""


def test_a_uki_beyond_the_limit_is_refused_without_reading_it(capfd):
    with Path("uki.efi").open("wb") as file:
        file.truncate(1 << 40)
    assert run(["predict", "tpm", *GIVEN, "--direct"]) == 2
    assert "uki.efi is larger than 1073741824 bytes" in capfd.readouterr().err


def test_a_sub_verb_that_is_not_there(capfd):
    assert run(["predict", "tmp"]) == 2
    assert "tpm" in capfd.readouterr().err
