import contextlib
import struct
from pathlib import Path

import pytest
import tcg_log as tcg
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import EventType, HashAlgorithm
from measurements.formats import eventlog
from measurements.formats.eventlog import LogKind

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"
BANKS = ("sha256", "sha384")
CCEL = tcg.header("sha384") + b"".join(
    tcg.record(register, tcg.SEPARATOR, bytes(4), ["sha384"]) for register in (1, 1, 2, 3)
)
AGILE = tcg.header(*BANKS) + tcg.record(0, tcg.SEPARATOR, bytes(4), BANKS)


# Counts by `tpm2_eventlog FILE | grep -c EventNum` (tpm2-tools 5.4).
@pytest.mark.parametrize(
    ("name", "events"),
    [("qemu-ovmf-2025.02", 41), ("qemu-ovmf-2026.08", 45), ("qemu-ovmf-2026.08-secure-boot", 44)],
)
@pytest.mark.parametrize("padding", [b"", bytes(1), bytes(5000), b"\xff" * 3, b"\xff" * 5000])
def test_recorded_log(name, events, padding):
    log = eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes() + padding)
    assert log.kind is LogKind.CRYPTO_AGILE
    assert log.algorithms == tuple(HashAlgorithm)
    assert log.unknown_algorithms == ()
    assert len(log.records) == events
    assert log.startup_locality is None
    assert log.records[1].type == EventType.S_CRTM_VERSION
    assert log.records[-1].data == b"Exit Boot Services Returned with Success"
    assert all(set(record.digests) == set(HashAlgorithm) for record in log.records[1:])


def test_offsets_name_the_record():
    data = (EVENTLOG / "qemu-ovmf-2025.02.bin").read_bytes()
    for record in eventlog.parse(data).records:
        assert struct.unpack_from("<II", data, record.offset) == (record.register, record.type)


def test_sha1_format():
    log = eventlog.parse(
        tcg.sha1_record(0, 8, b"v\0") + tcg.sha1_record(4, tcg.SEPARATOR, bytes(4)) + bytes(64)
    )
    assert log.kind is LogKind.SHA1
    assert log.algorithms == (HashAlgorithm.SHA1,)
    assert [(record.register, record.type, record.data) for record in log.records] == [
        (0, 8, b"v\0"),
        (4, tcg.SEPARATOR, bytes(4)),
    ]


def test_sha1_format_may_open_with_its_own_spec_id():
    first = tcg.sha1_record(0, tcg.NO_ACTION, b"Spec ID Event00\0" + bytes(9))
    assert eventlog.parse(first + tcg.sha1_record(0, 4, bytes(4))).kind is LogKind.SHA1


@pytest.mark.parametrize("padding", [b"", b"\xff" * 4096, bytes(4096)])
def test_ccel_is_told_by_its_registers(padding):
    log = eventlog.parse(CCEL + padding)
    assert log.kind is LogKind.CCEL
    assert [log.register_name(record.register) for record in log.records[1:]] == [
        "rtmr0", "rtmr0", "rtmr1", "rtmr2",
    ]  # fmt: skip


def test_tpm_log_with_one_bank_is_no_ccel():
    data = tcg.header("sha384") + b"".join(
        tcg.record(register, tcg.SEPARATOR, bytes(4), ["sha384"]) for register in range(4)
    )
    assert eventlog.parse(data).kind is LogKind.CRYPTO_AGILE
    assert eventlog.parse(data, kind=LogKind.CCEL).kind is LogKind.CCEL


def test_log_without_extends_is_no_ccel():
    assert eventlog.parse(tcg.header("sha384")).kind is LogKind.CRYPTO_AGILE


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (AGILE, LogKind.SHA1),
        (tcg.sha1_record(0, 4, bytes(4)), LogKind.CRYPTO_AGILE),
        (tcg.sha1_record(0, 4, bytes(4)), LogKind.CCEL),
        (tcg.header("sha384") + tcg.record(7, 4, bytes(4), ["sha384"]), LogKind.CCEL),
    ],
)
def test_log_of_another_kind_than_asked_for(data, kind):
    with pytest.raises(FormatError):
        eventlog.parse(data, kind=kind)


def test_unknown_algorithm_is_skipped_by_its_declared_size():
    banks = ("sha256", "sm3", "sha384")
    log = eventlog.parse(
        tcg.header(*banks) + tcg.record(5, tcg.ACTION, b"x", banks) + tcg.record(6, tcg.ACTION, b"y", banks)
    )
    assert log.algorithms == (HashAlgorithm.SHA256, HashAlgorithm.SHA384)
    assert log.unknown_algorithms == (0x12,)
    assert [record.data for record in log.records[1:]] == [b"x", b"y"]
    assert log.records[1].digests[HashAlgorithm.SHA384].value == tcg.hashed("sha384", b"x")


def test_startup_locality():
    event = tcg.record(0, tcg.NO_ACTION, b"StartupLocality\0\3", BANKS)
    assert eventlog.parse(tcg.header(*BANKS) + event).startup_locality == 3
    for wrong in (b"StartupLocality\0", b"StartupLocality\0\3\0"):
        with pytest.raises(FormatError, match="expected 17"):
            eventlog.parse(AGILE + event + tcg.record(0, tcg.NO_ACTION, wrong, BANKS))


def test_informative_event_may_name_no_register():
    data = AGILE + tcg.record(0xFFFFFFFF, tcg.NO_ACTION, b"SP800-155 Event3\0", BANKS)
    assert len(eventlog.parse(data).records) == 3


def test_vendor_information_is_passed_over():
    data = tcg.header("sha256", vendor=b"any bytes") + tcg.record(0, 4, bytes(4), ["sha256"])
    assert len(eventlog.parse(data).records) == 2


CORRUPT = {
    "empty": b"",
    "cut-in-header": AGILE[:40],
    "cut-in-record": AGILE[:-1],
    "no-digest": AGILE + struct.pack("<IIII", 5, 4, 0, 4) + bytes(4) + b"x",
    "undeclared-algorithm": AGILE + tcg.record(0, 4, bytes(4), ["sha256", "sha1"]),
    "one-algorithm-twice": AGILE + tcg.record(0, 4, bytes(4), ["sha256", "sha256"]),
    "no-algorithm-declared": tcg.header(),
    "algorithm-declared-twice": tcg.header("sha256", "sha256"),
    "wrong-size-declared": tcg.header("sha256", sizes={"sha256": 20}),
    "algorithms-cut": tcg.header("sha256", count=3),
    "register-24": AGILE + tcg.record(24, 4, bytes(4), BANKS),
    "register-24-sha1": tcg.sha1_record(24, 4, bytes(4)),
    "no-register-but-an-extend": AGILE + tcg.record(0xFFFFFFFF, 4, bytes(4), BANKS),
    "bytes-after-padding": AGILE + bytes(100) + b"\1",
    "bytes-after-ff": AGILE + b"\xff" * 100 + b"\1",
}


@pytest.mark.parametrize("name", sorted(CORRUPT))
def test_corrupt_log(name):
    with pytest.raises(FormatError):
        eventlog.parse(CORRUPT[name])


LIMITS = {
    "log-size": AGILE + bytes(eventlog.MAX_LOG_SIZE),
    "event-size": AGILE + struct.pack("<III", 0, 4, 1) + b"\x0b\0" + bytes(32) + struct.pack("<I", 1 << 30),
    "event-size-sha1": tcg.sha1_record(0, 4, bytes(4))
    + struct.pack("<II", 0, 4)
    + bytes(20)
    + b"\xff" * 4
    + b"x",
    "digest-count": AGILE + struct.pack("<III", 0, 4, 9) + bytes(1000) + b"x",
    "algorithm-count": tcg.header(count=9),
    "digest-size": tcg.header("sm3", sizes={"sm3": 129}),
    "digest-size-zero": tcg.header("sm3", sizes={"sm3": 0}),
    "records": tcg.sha1_record(0, 4, b"") * (eventlog.MAX_RECORDS + 1),
}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_limits(name):
    with pytest.raises(LimitError):
        eventlog.parse(LIMITS[name])


@given(st.binary(max_size=400))
def test_random_bytes_never_escape(data):
    for start in (b"", AGILE, CCEL):
        with contextlib.suppress(FormatError):
            eventlog.parse(start + data)


@settings(max_examples=200)
@given(
    st.sampled_from([AGILE, CCEL, (EVENTLOG / "qemu-ovmf-2025.02.bin").read_bytes()]),
    st.lists(st.tuples(st.integers(0, 9204), st.integers(0, 255)), max_size=5),
    st.integers(1, 9300),
)
def test_mutations_never_escape(data, changes, length):
    mutated = bytearray(data)
    for offset, value in changes:
        mutated[offset % len(data)] = value
    try:
        log = eventlog.parse(bytes(mutated[:length]))
        assert log.records
    except FormatError:
        pass
