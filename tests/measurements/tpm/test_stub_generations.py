"""Every generation of systemd-stub against boots of Debian's and Ubuntu's stubs (tests/vectors/stubs)."""

import json
import struct
from uuid import UUID

import launch_samples as samples
import pytest
from firmware_files import ovmf_code

from measurements.events import ALL_BANKS, Digest, EventType, Stability
from measurements.formats import eventlog, uki
from measurements.platforms import stubs
from measurements.platforms.qemu import AcpiBlobs
from measurements.predict import predict_tpm
from measurements.prediction import BootPath
from measurements.tpm import stub

UKIS = json.loads((samples.VECTORS / "stubs/ukis.json").read_text())
#: Boots whose initrd and command line the UKI alone decides.
BY_UKI_ALONE = [name for name in UKIS if name not in ("262.1-disk-random", "262.1-no-console")]
INNER_KERNEL = {"252", "254", "255", "257"}


def release(name):
    return int(name.split(".")[0])


def observed(name, register):
    log = eventlog.parse(samples.vector(f"stubs/{name}.eventlog.xz"))
    return [record for record in log.records if record.register == register and record.extends]


def image(name):
    """Return the UKI that was booted, but with the sample kernel: its own is too large to keep."""
    kernel = samples.kernel(version=f"{UKIS[name]['kernel']}.0-test".encode())
    sections = [(each, bytes.fromhex(data)) for each, data in UKIS[name]["sections"].items()]
    return samples.uki([*sections, (".linux", kernel)], stub=release(name))


def predicted(name, register, **changes):
    values = {"image": image(name), "boot": BootPath(UKIS[name]["boot"]), "banks": ALL_BANKS} | changes
    return predict_tpm(samples.inputs(**values)).register(register)


def assert_equal(events, records):
    assert [event.type for event in events] == [record.type for record in records]
    for event, record in zip(events, records, strict=True):
        assert event.data in (None, record.data), event.description
        assert event.digests == {bank: record.digests[bank] for bank in ALL_BANKS}, event.description


@pytest.mark.parametrize("name", UKIS)
def test_sections(name):
    (course,) = predicted(name, 11).alternatives
    events = [event for event in course.events if event.type is not None]
    records = observed(name, 11)
    assert events[0].data == records[0].data == ".linux\0".encode("utf-16-le")
    # The kernel's own contents (event 1) are not at hand.
    assert_equal(events[:1] + events[2:], records[:1] + records[2:])


@pytest.mark.parametrize("name", BY_UKI_ALONE)
def test_command_line_and_initrd(name):
    (course,) = predicted(name, 9, random_numbers=False).alternatives
    assert_equal(course.events, observed(name, 9))


@pytest.mark.parametrize("name", UKIS)
def test_the_kernel_inside_is_measured_where_firmware_loads_it(name):
    (course,) = predicted(name, 4).alternatives
    assert [event.type for event in course.events] == [record.type for record in observed(name, 4)]
    inner = any(event.cause == "uki .linux" for event in course.events)
    assert inner is (str(release(name)) in INNER_KERNEL)


@pytest.mark.parametrize("name", UKIS)
@pytest.mark.parametrize("register", [8, 12, 13, 14])
def test_nothing_else_is_touched(name, register):
    assert observed(name, register) == []
    assert predicted(name, register).alternatives[0].events == ()


@pytest.mark.parametrize("name", ["257.13", "259.9", "261.3", "262.1"])
def test_machine_configuration(name):
    blobs = {each: samples.vector(f"stubs/machine.{each}.xz") for each in ("table-loader", "rsdp", "tables")}
    acpi = AcpiBlobs(
        table_loader=blobs["table-loader"], rsdp=blobs["rsdp"], tables=blobs["tables"], tpm_log=bytes(65536)
    )
    register = predicted(
        name,
        1,
        firmware=ovmf_code("2025.02"),
        profiles=(),
        acpi=acpi,
        smbios=samples.vector("stubs/machine.smbios-tables.xz"),
    )
    events = register.alternatives[0].events
    assert_equal(events, observed(name, 1))
    assert (events[-1].type is EventType.EVENT_TAG) is (release(name) >= 261)


def test_a_boot_secret_makes_the_initrd_the_machine_s_own():
    plain, secret = observed("262.1-disk", 9), observed("262.1-disk-random", 9)
    assert plain[0].digests == secret[0].digests
    assert plain[1].digests != secret[1].digests  # one had random numbers, the other had none
    for changes in (
        {"random_numbers": None},
        {"random_numbers": True},
        {"random_numbers": False, "variables": system_token()},
    ):
        register = predicted("262.1-disk", 9, **changes)
        assert register.stability is Stability.NOT_PINNED
        assert "secret of each single machine" in register.reason
    assert predicted("262.1-disk", 9, random_numbers=True, boot=BootPath.DIRECT).alternatives


def system_token():
    """Return a variable store in which the system token that bootctl makes is the only variable."""
    name = "LoaderSystemToken\0".encode("utf-16-le")
    vendor = UUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f").bytes_le
    header = struct.pack("<HBBIQ16sIII", 0x55AA, 0x3F, 0, 7, 0, bytes(16), 0, len(name), 32)
    body = header + vendor + name + bytes(32)
    size = 0x2000
    store = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le + struct.pack("<IBB6x", size, 0x5A, 0xFE)
    head = bytes(16) + UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
    head += struct.pack("<Q4sIHHHBB", 0x48 + size, b"_FVH", 0x4FEFF, 0x48, 0, 0, 0, 2)
    head += struct.pack("<IIII", 1, 0x48 + size, 0, 0)
    checksum = -sum(struct.unpack("<36H", head)) & 0xFFFF
    volume = head[:50] + struct.pack("<H", checksum) + head[52:]
    return volume + (store + body).ljust(size, b"\xff")


def test_consoles_of_the_machine_are_appended():
    register = predicted("262.1-no-console", 9)
    assert register.stability is Stability.NOT_PINNED
    assert "put console= into the command line" in register.reason
    given = "panic=-1 test=2\0".encode("utf-16-le")
    assert all(
        observed("262.1-no-console", 9)[0].digests[bank] != Digest.of(bank, given) for bank in ALL_BANKS
    )


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("console=ttyS0", True),
        ("quiet console=ttyS0", True),
        ("quiet", False),
        ("netconsole=1", False),
        ("quiet\tCONSOLE=a", False),
        ("", False),
    ],
)
def test_what_counts_as_a_console(line, known):
    # systemd 262, src/boot/console.c: "console=*" or "* console=*"
    image = samples.uki([(".linux", samples.KERNEL), (".cmdline", line.encode())], stub=262)
    register = predict_tpm(samples.inputs(image=image, boot=BootPath.DIRECT)).register(9)
    assert bool(register.alternatives) is known


@pytest.mark.parametrize("number", [None, 251, 253, 256, 263, 9999])
def test_a_stub_that_the_table_does_not_know_is_not_guessed_at(number):
    prediction = predict_tpm(samples.inputs(image=samples.uki(stub=number)))
    for register in (1, 4, 9, 11):
        assert prediction.register(register).stability is Stability.NOT_PINNED
        assert "252, 254-255, 257-262" in prediction.register(register).reason
    for register in (0, 2, 3, 5, 6, 7, 8, 12, 13, 14):
        assert prediction.register(register).alternatives


def test_the_table_has_no_overlaps_and_says_what_was_booted():
    releases = [each for g in stubs.GENERATIONS for each in range(g.first, g.last + 1)]
    assert releases == sorted(set(releases))
    for generation in stubs.GENERATIONS:
        assert all(generation.first <= release(version) <= generation.last for version in generation.booted)
        assert generation.booted


@pytest.mark.parametrize(
    ("number", "section", "expected"),
    [
        (254, b"  a\tb\x7f \n", "  a b\x7f"),
        (254, b" \n", ""),
        (255, b"  a\tb\x7f \n", "a b"),
    ],
)
def test_blanks_of_old_command_lines(number, section, expected):
    # systemd 254.26 and 255.4, src/boot/efi/util.c mangle_stub_cmdline
    image = uki.parse(samples.uki([(".linux", b"k"), (".cmdline", section)], stub=number))
    assert stub.command_line(image) == (expected + "\0").encode("utf-16-le")


def test_a_blank_command_line_has_no_outcome_under_255():
    blank = samples.uki([(".linux", samples.KERNEL), (".cmdline", b" \n")], stub=255)
    assert "blank .cmdline" in predict_tpm(samples.inputs(image=blank)).register(9).reason


def test_old_stubs_take_the_last_section_whose_name_begins_alike():
    # systemd 254.26, src/boot/efi/pe.c locate_sections: memcmp over the length of the stub's own name
    parts = [
        (".linux", b"1"),
        (".osrel", b"a"),
        (".osrel", b"b"),
        (".dtbauto", b"d"),
        (".uname", b"u"),
        (".uname", b""),
    ]
    image = uki.parse(samples.uki(parts, stub=254))
    assert image.data(".osrel") == b"b"
    assert image.data(".dtb") == b"d"
    assert ".uname" not in image.sections
