"""RTMR0-2: quotes and logs of real trust domains, another program's values, and what has no value."""

import hashlib
import json
from dataclasses import replace

import launch_samples as samples
import pytest
import tdx_samples
from firmware_files import ovmf, ovmf_inteltdx
from tdx_inputs import inputs, register

from measurements.events import Digest, EventType, HashAlgorithm, fold
from measurements.formats import eventlog
from measurements.platforms.firmware import find_profile
from measurements.platforms.qemu import VirtioBlk
from measurements.prediction import BootPath
from measurements.replay import replay
from measurements.tdx.predict import predict_tdx
from measurements.tdx.td_hob import Vmm

SHA384 = HashAlgorithm.SHA384
LOGS = json.loads((samples.VECTORS / "tdx/logs.json").read_text())


def with_digests(events, wanted, found):
    """Put digests that only the log tells into the events that ``wanted`` picks, in order."""
    rest = iter(found)
    result = [
        replace(event, digests={SHA384: Digest(SHA384, bytes.fromhex(next(rest)))})
        if wanted(event)
        else event
        for event in events
    ]
    assert next(rest, None) is None
    return result


def is_acpi(event):
    return event.description.startswith("ACPI DATA")


@pytest.mark.parametrize("name", LOGS)
def test_rtmr0_of_a_quoted_trust_domain(name):
    """Everything but the ACPI tables is ours; the fold is what the TDX module signed."""
    log, firmware = LOGS[name], ovmf("2025.02")
    profiles = ()
    if log["temporary_memory"] == ["0x810000", "0x10000"]:
        # The same firmware with the memory layout that this one's metadata ask for.
        old, new = (
            tdx_samples.metadata((layout[2],))[16:] for layout in (tdx_samples.OVMF, tdx_samples.INTEL_TDX)
        )
        assert firmware.count(old) == 1
        profile = find_profile(firmware[0x84000:])
        firmware = firmware.replace(old, new)
        profiles = (replace(profile, sha384=hashlib.sha384(firmware).hexdigest()),)
    found = register(0, firmware=firmware, memory_mib=log["memory_mib"], profiles=profiles)
    events = with_digests(found.events, is_acpi, log["acpi"])
    assert found.reason is None and fold(events, SHA384).hex() == log["rtmr0"]


@pytest.mark.parametrize("name", [name for name, log in LOGS.items() if "rtmr1" in log])
def test_rtmr1_of_a_quoted_trust_domain(name):
    found = register(1, firmware=ovmf("2025.02"))
    events = with_digests(
        found.events,
        lambda event: event.type is EventType.EFI_BOOT_SERVICES_APPLICATION,
        [LOGS[name]["kernel"]],
    )
    assert fold(events, SHA384).hex() == LOGS[name]["rtmr1"]


@pytest.mark.parametrize("log", [log for log in LOGS.values() if "rtmr2" in log])
def test_rtmr2_of_a_quoted_trust_domain(log):
    events = with_digests(
        register(2, firmware=ovmf("2025.02")).events, lambda _: True, [log["options"], log["initrd"]]
    )
    assert fold(events, SHA384).hex() == log["rtmr2"]


def observed(log, index):
    return [
        (record.type, record.digests[SHA384].hex())
        for record in log.records
        if record.extends and record.register == index
    ]


def test_a_logged_direct_boot_with_an_older_build():
    """Intel's log: edk2 before stable202411, 8 GiB, a kernel without initrd."""
    log = eventlog.parse(samples.vector("tdx/qemu-direct.ccel.xz"))
    firmware = ovmf("2025.02")
    old, new = (
        tdx_samples.metadata((layout[2],))[16:] for layout in (tdx_samples.OVMF, tdx_samples.INTEL_TDX)
    )
    profile = find_profile(firmware[0x84000:])
    firmware = firmware.replace(old, new)
    older = replace(
        profile,
        sha384=hashlib.sha384(firmware).hexdigest(),
        crtm_version="2023.05",
        secure_boot=True,
        secure_boot_unset=b"\0",
    )
    prediction = predict_tdx(inputs(firmware=firmware, memory_mib=8192, profiles=(older,), initrd=None))
    for index, unknown in (
        (0, is_acpi),
        (1, lambda event: "image" in event.description),
        (2, lambda _: True),
    ):
        found = prediction.registers[index].events
        assert [event.type for event in found] == [kind for kind, _ in observed(log, index + 1)]
        for event, (_, digest) in zip(found, observed(log, index + 1), strict=True):
            assert unknown(event) or event.digest(SHA384).hex() == digest, event.description


@pytest.mark.parametrize("name", ["cos-113-intel-tdx", "cos-113-intel-tdx-dupe-separator"])
def test_a_log_of_compute_engine(name):
    """Its leading events of RTMR0, and the frame of RTMR1; what lies between is shim and GRUB."""
    log = eventlog.parse(samples.vector(f"tdx/{name}.ccel.xz"))
    found = predict_tdx(
        inputs(
            vmm=Vmm.GCE,
            firmware=tdx_samples.firmware(tdx_samples.GCE),
            memory_mib=16384,
            image=samples.UKI,
            boot=BootPath.DISK,
            disk=samples.disk(),
            initrd=None,
        )
    )
    assert found.registers[0].value is None and "Compute Engine" in found.registers[0].reason
    known, logged = found.registers[0].events, observed(log, 1)
    assert [event.type for event in known] == [kind for kind, _ in logged[:2]]
    assert known[0].digest(SHA384).hex() == logged[0][1]
    courses = {course.label: course.events for course in found.registers[1].courses}
    newer = name == "cos-113-intel-tdx"
    label = f"edk2{'-stable202411 and later' if newer else ' before stable202411'}, Secure Boot on, exit-boot-services"
    frame = observed(log, 2)
    mine = [(event.type, event.digest(SHA384).hex()) for event in courses[label]]
    before = 2 if newer else 1
    assert mine[:before] == frame[:before] and mine[-2:] == frame[-2:]
    assert [kind for kind, _ in mine[before : before + 2]] == [kind for kind, _ in frame[before : before + 2]]


@pytest.mark.parametrize(
    ("name", "registers"),
    [
        # go-eventlog's ccel/replay_test.go: the registers of the quotes that go with these logs.
        (
            "cos-113-intel-tdx",
            (
                "3fa2f61f395b7f5feefb4ec2df61297f109ad8abcd6410c1b7df60f21f37b19297fc35e544039c7e1edece752afd17f6",
                "f62dbc072bd5d3f3438b7b35c39a727f5aea2ffc2473f43723953f530daf62504f0a7944aa62c41a86e8a878c2b122c1",
                "4969684dc87381fc3b3134176c8d8806eaf0a901859f5f70cfae8d17714b46c10a8de219048c9fc09f11f381a6fbe7c1",
            ),
        ),
        (
            "cos-113-intel-tdx-dupe-separator",
            (
                "a4de2df23e9611299123ba4359c42a5e578b0f8488bf1bba8ef5606d9ea5d81c97c064b482a5eac537d166bd0f0f752d",
                "0ee9366c928a77092f55e9e114c7394181fd264699155f0df77d23577618d5f650568a17d379355a07bd846e552f4e20",
                "4969684dc87381fc3b3134176c8d8806eaf0a901859f5f70cfae8d17714b46c10a8de219048c9fc09f11f381a6fbe7c1",
            ),
        ),
    ],
)
def test_logs_fold_into_quoted_registers(name, registers):
    log = eventlog.parse(samples.vector(f"tdx/{name}.ccel.xz"))
    folded = replay(log)
    assert log.kind is eventlog.LogKind.CCEL and not folded.findings
    assert tuple(folded.registers[SHA384][index].hex() for index in (1, 2, 3)) == registers


def test_another_programs_registers_of_a_direct_boot():
    # aleph-im/aleph-vm's tdx_measurement.py (revision 2496873), which knows edk2 >= 202508 alone.
    prediction = predict_tdx(inputs(firmware=ovmf_inteltdx()))
    assert prediction.registers[1].value.hex() == (
        "1a7def8c9ada4278d79244268ad4f4130c6cf58d37a45f1e72b4013f9d22320458b0c12087ca466b070cd1b4a58fbfcf"
    )
    assert prediction.registers[2].value.hex() == (
        "74ebf33865fe4e36d9fd369e7c5aa76c328dfc12829914519f608286558f2fa21789659104d9329ae820246ad5a4664a"
    )


def test_rtmr0_of_a_build_without_pei():
    """The events of dstack's edk2-stable202505 trust domains (dstack-mr, OvmfVariant::Stable202505), in order."""
    found = register(
        0, firmware=ovmf_inteltdx(), smbios=samples.vector("launches/disk.etc-smbios-smbios-tables.xz")
    )
    names = [event.description for event in found.events]
    assert names[:4] == [
        "TD HOB", "variables of the firmware (CFV)", "QEMU FW CFG: BootMenu", "QEMU FW CFG: bootorder",
    ]  # fmt: skip
    assert names[4:10] == [
        *(f"variable {name}" for name in ("SecureBoot", "PK", "KEK", "db", "dbx")),
        "separator before the boot attempt",
    ]
    assert [is_acpi(event) for event in found.events[10:13]] == [True] * 3
    # This build offers no "EFI Firmware Setup"; its options are in the next test.
    assert names[13:] == ["SMBIOS table", "BootOrder", "Boot0000 BootManagerMenuApp"]
    assert found.events[3].digest(SHA384).hex() == (
        "53d3dbc00691328371e74c1b1c77bdf1bf4ff79dd1b55222b694fe8341cd8b0adb3a9ab9286552c681272883b9b0fc1d"
    )
    # Its variables hold Microsoft's keys, and nobody signed the sample.
    assert found.value is None and "Secure Boot would refuse the image" in found.reason


@pytest.mark.parametrize(
    ("boot", "variables"),
    [
        (BootPath.DIRECT, {"BootOrder": "0000"}),
        (
            BootPath.DISK,
            {
                "BootOrder": "00000100",
                "Boot0001": "01000000160055004500460049002000"
                "4d0069007300630020004400650076006900630065000000"
                "02010c00d041030a00000000010106000001"
                "7fff04004eac0881119f594d850ee21a522c59b2",
            },
        ),
    ],
)
def test_boot_options_of_debians_tdx_build(boot, variables):
    """Read in the memory of QEMU 10.0.13 machines that booted it without TDX (``-bios``, variables blank)."""
    first = (
        "090100002c0042006f006f0074004d0061006e0061006700650072004d0065006e0075004100700070000000"
        "04071400c9bdb87cebf8344faaea3ee4af6516a1"
        "04061400dc5bc2eef267954db1d5f81b2039d11d7fff0400"
    )
    found = register(
        0,
        # Its code with the blank variables of another build: a profile is about the code.
        firmware=ovmf("2025.02")[:0x84000] + ovmf_inteltdx()[0x84000:],
        smbios=samples.vector("launches/disk.etc-smbios-smbios-tables.xz"),
        image=samples.UKI,
        initrd=None,
        boot=boot,
        disk=samples.disk(),
        boot_devices=(VirtioBlk(slot=1),),
    )
    digests = {
        event.description.split()[0]: event.digest(SHA384).hex()
        for event in found.events
        if event.type is EventType.EFI_VARIABLE_BOOT
    }
    assert found.value is not None
    # SecureBoot is 00, as Intel's log has it.
    log = eventlog.parse(samples.vector("tdx/qemu-direct.ccel.xz"))
    assert found.events[4].digest(SHA384).hex() == observed(log, 1)[2][1]
    expected = {"Boot0000": first} | variables
    assert digests == {
        name: hashlib.sha384(bytes.fromhex(data)).hexdigest() for name, data in expected.items()
    }


def test_a_uki_measures_its_sections_where_its_stub_can():
    # systemd-stub 257 holds the GUID of EFI_CC_MEASUREMENT_PROTOCOL, 252 to 255 do not (Debian's and Ubuntu's files).
    new = register(2, image=samples.uki(stub=257), initrd=None, command_line="")
    old = register(2, image=samples.uki(stub=255), initrd=None, command_line="")
    assert [event.type for event in old.events] == [EventType.EVENT_TAG] * 2
    assert new.events[0].description == "name of section .linux"
    assert {event.type for event in new.events[:-2]} == {EventType.IPL}
    assert [event.type for event in new.events[-2:]] == [EventType.EVENT_TAG] * 2


def test_a_uki_on_a_disk():
    found = register(
        1,
        firmware=ovmf("2025.02"),
        image=samples.UKI,
        boot=BootPath.DISK,
        disk=samples.disk(),
        initrd=None,
        boot_devices=(VirtioBlk(slot=1),),
    )
    names = [event.description for event in found.events]
    assert names == [
        "Calling EFI Application from Boot Option",
        "separator before the boot attempt",
        "GUID partition table",
        "image at the removable path",
        "kernel inside the UKI",
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Success",
    ]
    assert [course.label for course in found.courses] == ["exit-boot-services", "exit-boot-services-retried"]


def test_what_each_input_moves():
    """A changed input moves the registers that depend on it, and no other."""
    firmware = ovmf("2025.02")
    usual = predict_tdx(inputs(firmware=firmware))
    other_code = bytearray(firmware)
    other_code[-0x1000] ^= 1  # code that no profile knows
    cases = {
        "command line": ({"command_line": "other"}, {2}),
        "initrd": ({"initrd": b"other"}, {2}),
        "memory": ({"memory_mib": 4096}, {0}),
        "acpi": ({"acpi": replace(inputs().acpi, rsdp=b"other")}, {0}),
        "kernel": ({"image": samples.kernel(version=b"6.13.0")}, {1}),
        "code": ({"firmware": bytes(other_code)}, {0}),
    }
    for name, (change, moved) in cases.items():
        found = predict_tdx(inputs(**{"firmware": firmware} | change))
        for index in range(3):
            moves = found.registers[index].value != usual.registers[index].value
            assert moves is (index in moved), (name, index)
        assert (found.mrtd != usual.mrtd) is (name == "code")


def test_values_that_depend_on_qemus_kernel_patch():
    """Firmware that reads the legacy blob sees a patched header before QEMU 10.2."""
    firmware = tdx_samples.firmware(tdx_samples.OVMF)
    kernel = bytearray(samples.pe_image([(".text", b"\xeb\xfe")]))
    kernel[0x202:0x208] = b"HdrS\x0c\x02"
    kernel[0x211] = 1
    arguments = {"firmware": firmware, "image": bytes(kernel), "initrd": None}
    new = register(1, qemu=(10, 2), **arguments)
    unknown = register(1, qemu=None, **arguments)
    old = register(1, qemu=(8, 2), **arguments)
    # The release of this firmware is not known either.
    assert len(new.courses) == 4 and len(old.courses) == 4 and len(unknown.courses) == 8
    values = {course.value(SHA384) for course in (*new.courses, *old.courses)}
    assert values == {course.value(SHA384) for course in unknown.courses}
    assert {course.label.split(",")[0] for course in unknown.courses} == {
        "kernel as in the file", "kernel with QEMU's setup header",
    }  # fmt: skip


def test_unreadable_variables_take_rtmr0_alone():
    firmware = tdx_samples.firmware(tdx_samples.OVMF)
    profile = replace(find_profile(ovmf("2025.02")[0x84000:]), sha384=hashlib.sha384(firmware).hexdigest())
    found = predict_tdx(inputs(firmware=firmware, profiles=(profile,), image=samples.UKI, initrd=None))
    assert "variables cannot be read" in found.registers[0].reason
    # Whether the firmware or the stub loads the inner kernel is up to Secure Boot.
    assert {course.label.split(",")[0] for course in found.registers[1].courses} == {
        "Secure Boot off", "Secure Boot on",
    }  # fmt: skip
