import hashlib
import json
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
import tcg_log as tcg
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.events import HashAlgorithm
from measurements.formats import eventlog
from measurements.formats.eventlog import LogKind
from measurements.replay import Severity, replay, to_json

EVENTLOG = Path(__file__).parents[1] / "vectors" / "eventlog"
LOGS = ("qemu-ovmf-2025.02", "qemu-ovmf-2026.08", "qemu-ovmf-2026.08-secure-boot")
BANKS = ("sha256", "sha384")

#: A PCR that holds one separator only (measured-boot facts, 1.6).
ONE_SEPARATOR = {
    "sha256": "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "sha384": "518923b0f955d08da077c96aaba522b9decede61c599cea6"
    "c41889cfbea4ae4d50529d96fe4d1afdafb65e7f95bf23c4",
}


def folded(bank, *data, start=None):
    """Fold hashes of ``data`` with hashlib alone."""
    value = start if start is not None else bytes(tcg.SIZES[bank])
    for item in data:
        value = hashlib.new(bank, value + hashlib.new(bank, item).digest()).digest()
    return value.hex()


def log_of(*records, banks=BANKS, kind=None):
    """Return the parsed log of (register, type, data[, payload]) tuples."""
    return eventlog.parse(
        tcg.header(*banks)
        + b"".join(tcg.record(*r[:3], banks, payload=r[3] if len(r) > 3 else None) for r in records),
        kind=kind,
    )


def messages(log, severity=None):
    return [f.message for f in replay(log).findings if severity is None or f.severity is severity]


def variable(name, data, guid="8be4df61-93ca-11d2-aa0d-00e098032b8c"):
    text = name.encode("utf-16-le")
    return UUID(guid).bytes_le + struct.pack("<QQ", len(name), len(data)) + text + data


@pytest.mark.parametrize("name", LOGS)
def test_registers_are_those_of_tpm2_eventlog(name):
    log = eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes())
    registers = to_json(replay(log), log)["registers"]
    expected = json.loads((EVENTLOG / f"{name}.json").read_text())
    assert set(registers) == set(expected)
    for bank, values in registers.items():
        assert {index: values[index] for index in expected[bank]} == expected[bank]
        untouched = set(values) - set(expected[bank])
        assert {values[index] for index in untouched} == {"00" * tcg.SIZES[bank]}
        assert list(values) == [str(index) for index in range(16)]


@pytest.mark.parametrize("name", LOGS)
def test_recorded_log_has_no_finding(name):
    assert replay(eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes())).findings == ()


@pytest.mark.parametrize("name", LOGS)
def test_sha1_format_folds_as_the_sha1_bank(name):
    agile = eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes())
    data = b"".join(
        tcg.sha1_record(r.register, r.type, r.data, digest=r.digests[HashAlgorithm.SHA1].value)
        for r in agile.records[1:]
    )
    log = eventlog.parse(data)
    assert log.kind is LogKind.SHA1
    result = to_json(replay(log), log)
    expected = json.loads((EVENTLOG / f"{name}.json").read_text())["sha1"]
    assert {index: result["registers"]["sha1"][index] for index in expected} == expected
    assert result["findings"] == []


def test_json_shape():
    log = log_of((7, tcg.SEPARATOR, bytes(4)), (23, tcg.ACTION, b"late"), (6, tcg.ACTION, b"x", b"y"))
    result = to_json(replay(log), log)
    assert set(result) == {"registers", "events", "findings"}
    assert result["events"] == 4
    assert result["registers"]["sha256"]["7"] == ONE_SEPARATOR["sha256"]
    assert result["registers"]["sha384"]["7"] == ONE_SEPARATOR["sha384"]
    assert result["registers"]["sha256"]["23"] == folded("sha256", b"late")
    assert result["findings"][0] == {
        "record": 3,
        "register": "6",
        "type": "EV_EFI_ACTION",
        "severity": "error",
        "message": result["findings"][0]["message"],
    }
    assert json.loads(json.dumps(result)) == result


def test_ccel_names_its_registers():
    log = log_of((1, tcg.SEPARATOR, bytes(4)), (2, tcg.ACTION, b"a"), (2, tcg.ACTION, b"b"), banks=["sha384"])
    assert log.kind is LogKind.CCEL
    result = to_json(replay(log), log)
    assert result["registers"] == {
        "sha384": {
            "mrtd": "00" * 48,
            "rtmr0": ONE_SEPARATOR["sha384"],
            "rtmr1": folded("sha384", b"a", b"b"),
            "rtmr2": "00" * 48,
        }
    }
    assert result["findings"] == []


def test_ccel_may_extend_rtmr3():
    log = log_of((4, tcg.ACTION, b"app"), banks=["sha384"], kind=LogKind.CCEL)
    assert to_json(replay(log), log)["registers"]["sha384"]["rtmr3"] == folded("sha384", b"app")


def test_informative_events_extend_nothing():
    log = log_of((0, tcg.NO_ACTION, b"words"), (0, tcg.SEPARATOR, bytes(4)))
    assert replay(log).registers[HashAlgorithm.SHA256][0].hex() == ONE_SEPARATOR["sha256"]


def test_startup_locality_starts_pcr_0():
    log = log_of((0, tcg.NO_ACTION, b"StartupLocality\0\3"), (0, tcg.SEPARATOR, bytes(4)))
    result = replay(log)
    start = bytes(31) + b"\3"
    assert result.registers[HashAlgorithm.SHA256][0].hex() == folded("sha256", bytes(4), start=start)
    assert result.findings == ()


def test_dynamic_registers_start_with_ones():
    log = log_of((17, tcg.ACTION, b"drtm"), (23, tcg.ACTION, b"app"))
    registers = replay(log).registers[HashAlgorithm.SHA256]
    assert registers[17].hex() == folded("sha256", b"drtm", start=b"\xff" * 32)
    assert registers[23].hex() == folded("sha256", b"app")


def test_record_without_a_banks_digest_leaves_no_value():
    data = (
        tcg.header(*BANKS)
        + tcg.record(5, tcg.ACTION, b"x", ["sha256"])
        + tcg.record(5, tcg.ACTION, b"y", BANKS)
    )
    result = replay(eventlog.parse(data))
    assert 5 in result.registers[HashAlgorithm.SHA256]
    assert 5 not in result.registers[HashAlgorithm.SHA384]
    assert [finding.message for finding in result.findings] == [
        "no sha384 digest, though the header declares that bank"
    ]


LINES = "console=ttyS0 quiet\0".encode("utf-16-le")
INITRD = ".initrd\0".encode("utf-16-le")
GPT_EVENT = b"EFI PART" + bytes(76) + struct.pack("<I", 128) + bytes(4) + struct.pack("<Q", 0)

#: Event -> what must have been hashed (TCG PFP 1.06, table 27; systemd-stub; GRUB).
PROVABLE = {
    "separator": ((2, 0x4, bytes(4)), bytes(4)),
    "action": ((4, 0x5, b"Booting"), b"Booting"),
    "crtm-version": ((0, 0x8, b"v\0\0\0"), b"v\0\0\0"),
    "nonhost-info": ((0, 0x11, b"GCE NonHostInfo\0"), b"GCE NonHostInfo\0"),
    "efi-action": ((5, 0x80000007, b"Exit Boot Services Invocation"), b"Exit Boot Services Invocation"),
    "variable": ((7, 0x80000001, variable("PK", b"")), variable("PK", b"")),
    "boot-variable-data": ((1, 0x80000002, variable("BootOrder", b"\0\0")), b"\0\0"),
    "boot-variable-whole": ((1, 0x80000002, variable("BootOrder", b"\0\0")), variable("BootOrder", b"\0\0")),
    "boot2": ((1, 0x8000000C, variable("BootOrder", b"\0\0")), variable("BootOrder", b"\0\0")),
    "authority": ((7, 0x800000E0, variable("db", b"cert")), variable("db", b"cert")),
    "gpt": ((5, 0x80000006, GPT_EVENT), GPT_EVENT),
    "stub-command-line": ((12, 0xD, LINES), LINES),
    "stub-section-name": ((11, 0xD, INITRD), b".initrd\0"),
    "grub-command": ((8, 0xD, b"grub_cmd: linux /vmlinuz\0"), b"linux /vmlinuz"),
    "grub-kernel": ((8, 0xD, b"kernel_cmdline: /vmlinuz quiet\0"), b"/vmlinuz quiet"),
    "grub-module": ((8, 0xD, b"module_cmdline: m\0"), b"m"),
}

#: Event -> any payload, since the event's data does not carry it.
UNPROVABLE = {
    "ipl": (9, 0xD, b"(hd0,gpt1)/vmlinuz\0"),
    "event-tag": (9, 0x6, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0"),
    "config": (1, 0xA, b"ACPI DATA"),
    "application": (4, 0x80000003, bytes(32)),
    "blob": (0, 0x80000008, bytes(16)),
    "tables": (1, 0x80000009, bytes(32)),
    "moklist": (14, 0xD, b"MokList\0"),
    "credentials": (12, 0xD, "Credentials initrd\0".encode("utf-16-le")),
    "grub-free-text": (8, 0xD, b"something else\0"),
}


@pytest.mark.parametrize("name", sorted(PROVABLE))
def test_digest_that_the_data_proves(name):
    event, payload = PROVABLE[name]
    assert messages(log_of((*event, payload)), Severity.ERROR) == []


@pytest.mark.parametrize("name", sorted(PROVABLE))
def test_forged_words_beside_a_digest(name):
    event, _ = PROVABLE[name]
    found = replay(log_of((*event, b"what was really measured"))).findings
    assert [(f.severity, f.record) for f in found] == [(Severity.ERROR, 1)] * len(BANKS)
    assert all("is not that of the event's data" in f.message for f in found)


def test_one_forged_bank_is_named():
    good, bad = tcg.hashed("sha256", b"x"), tcg.hashed("sha384", b"y")
    data = tcg.header(*BANKS) + tcg.record(
        5, tcg.ACTION, b"x", BANKS, digests=[("sha256", good), ("sha384", bad)]
    )
    (message,) = messages(eventlog.parse(data))
    assert message.startswith(f"sha384 digest {bad.hex()}")
    assert tcg.hashed("sha384", b"x").hex() in message


@pytest.mark.parametrize("name", sorted(UNPROVABLE))
def test_digest_that_the_data_cannot_prove(name):
    assert messages(log_of((*UNPROVABLE[name], b"payload"))) == []


def test_stub_measures_name_then_contents():
    name, contents = (11, tcg.IPL, INITRD, b".initrd\0"), (11, tcg.IPL, INITRD, b"cpio")
    assert messages(log_of(name, contents, name, contents)) == []
    assert len(messages(log_of(contents, name))) == len(BANKS)
    other = (11, tcg.IPL, ".osrel\0".encode("utf-16-le"), b".osrel\0")
    assert "section .initrd has a name event and no contents" in messages(log_of(name, other))


def test_stub_events_in_a_ccel():
    events = [(3, tcg.IPL, INITRD, b".initrd\0"), (3, tcg.IPL, INITRD, b"cpio"), (3, tcg.IPL, LINES)]
    assert messages(log_of(*events, banks=["sha384"])) == []
    assert len(messages(log_of((3, tcg.IPL, LINES, b"other"), banks=["sha384"]))) == 1


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\1\0\0\0"])
def test_error_separator(data):
    assert messages(log_of((3, tcg.SEPARATOR, data))) == ["error separator: firmware failed before it"]


def test_separator_with_other_words():
    assert messages(log_of((3, tcg.SEPARATOR, b"WBCL"))) == ["separator holds 5742434c, expected 00000000"]
    assert messages(log_of((12, tcg.SEPARATOR, b"WBCL"))) == []


def test_second_separator():
    log = log_of((3, tcg.SEPARATOR, bytes(4)), (3, tcg.SEPARATOR, bytes(4)))
    assert messages(log, Severity.WARNING) == ["second separator in PCR 3"]


@pytest.mark.parametrize(
    "path",
    sorted((EVENTLOG.parent / "stubs").glob("*.eventlog.xz")),
    ids=lambda path: path.name.split(".eventlog")[0],
)
def test_logs_of_every_stub_generation_are_sound(path):
    result = replay(eventlog.parse(lzma.decompress(path.read_bytes())))
    assert [finding.message for finding in result.findings] == []


@pytest.mark.parametrize("register", [0, 1, 2, 3, 6, 7])
def test_event_after_the_separator(register):
    log = log_of((register, tcg.SEPARATOR, bytes(4)), (register, tcg.ACTION, b"late"))
    assert messages(log, Severity.WARNING) == [f"EV_EFI_ACTION in PCR {register} after its separator"]


def test_what_belongs_after_the_separator():
    log = log_of(
        (7, tcg.SEPARATOR, bytes(4)),
        (7, 0x800000E0, variable("db", b"cert")),
        (4, tcg.SEPARATOR, bytes(4)),
        (4, 0x80000003, bytes(32), b"image"),
        (5, tcg.SEPARATOR, bytes(4)),
        (5, tcg.ACTION, b"Exit Boot Services Invocation"),
    )
    assert messages(log) == []


def test_second_header():
    log = log_of((0, tcg.NO_ACTION, tcg.spec_id("sha256")))
    assert messages(log) == ["second Spec ID header; only the first record may be one"]


def test_startup_locality_out_of_order():
    locality = (0, tcg.NO_ACTION, b"StartupLocality\0\3")
    assert "it must come first" in messages(log_of((0, tcg.SEPARATOR, bytes(4)), locality))[0]
    assert "second StartupLocality" in messages(log_of(locality, locality))[0]
    assert "expected 0, 3 or 4" in messages(log_of((0, tcg.NO_ACTION, b"StartupLocality\0\7")))[0]


def test_unknown_type_is_noted():
    log = log_of((5, 0x12345678, b"?", b"??"))
    assert messages(log, Severity.NOTE) == ["event type 0x12345678 is not known"]
    assert to_json(replay(log), log)["findings"][0]["type"] == "0x12345678"


def test_zero_digest():
    data = tcg.header("sha256") + tcg.record(9, tcg.IPL, b"x", [], digests=[("sha256", bytes(32))])
    assert messages(eventlog.parse(data)) == ["the sha256 digest is zero, which no data hashes to"]


def test_informative_event_with_a_digest():
    data = tcg.header("sha256") + tcg.record(0, tcg.NO_ACTION, b"x", [], digests=[("sha256", b"\1" * 32)])
    assert messages(eventlog.parse(data)) == ["EV_NO_ACTION with a digest that is not zero"]


@pytest.mark.parametrize("event", [(7, 0x80000001, b"short"), (5, 0x80000006, b"EFI PART")])
def test_malformed_structure(event):
    (message,) = messages(log_of(event))
    assert message.startswith("malformed event: ")


@settings(max_examples=100)
@given(
    st.sampled_from(LOGS),
    st.lists(st.tuples(st.integers(65, 9200), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_any_parsed_log_can_be_replayed(name, changes):
    data = bytearray((EVENTLOG / f"{name}.bin").read_bytes())
    for offset, value in changes:
        data[offset] = value
    try:
        log = eventlog.parse(bytes(data))
    except FormatError:
        return
    json.dumps(to_json(replay(log), log))
