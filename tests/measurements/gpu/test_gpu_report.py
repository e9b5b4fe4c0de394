"""Attestation reports: that of a real H100, and malformed ones."""

from __future__ import annotations

import contextlib

import pytest
from gpu_evidence import NONCE, REPORT, VECTORS, Gpu
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.gpu.report import MAX_REPORT_BYTES, OpaqueField, parse_report

RECORD = 37 + 8  # behind the request and the response's header
BLOCK = 55


def test_a_report_of_an_h100():
    """Values that NVIDIA's verifier (nv-local-gpu-verifier 2.7.3) prints of it."""
    report = parse_report(REPORT)
    assert report.nonce == NONCE
    assert report.driver_version == "550.90.07"
    assert report.vbios_version == "96.00.9F.00.01"
    assert report.vbios_rim_id == "NV_GPU_VBIOS_1010_0200_882_96009F0001"
    assert report.firmware_id.hex().startswith("f5c384aebb579217a2c66b17ed0f28e6")
    assert report.nvdec0_disabled and report.chip is None
    assert sorted(report.measurements) == list(range(64))
    assert report.measurements[1].hex().startswith("8048dfd18fe229bf")
    assert report.signed + report.signature == REPORT and len(report.signature) == 96


def test_hexadecimal_text():
    text = (VECTORS / "h100.report.txt").read_bytes()
    for form in (text, text.upper(), b"\n 0x" + text.strip() + b"\r\n"):
        assert parse_report(form) == parse_report(REPORT)
    for form in (
        b"",
        b"\n",
        text[:-3],
        text.replace(b"1", b"x"),
        b"0x0x" + text,
        text[:50] + b"\n" + text[50:],
    ):
        with pytest.raises(FormatError):
            parse_report(form)


def changed(offset, new, size=None):
    return REPORT[:offset] + new + REPORT[offset + (len(new) if size is None else size) :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(1, b"\xe1"), "code of the request"),
        (changed(2, b"\x00"), "no signature was asked for"),
        (changed(37, b"\x12"), "version of the response"),
        (changed(38, b"\x7f"), "code of the response"),
        (changed(41, b"\x00"), "0 measurements"),
        (changed(41, b"\x3f"), "55 bytes behind"),
        (changed(41, b"\x41"), "needs"),
        (changed(42, b"\xff\xff\xff"), "needs"),
        (changed(RECORD, b"\x00"), "is zero"),
        (changed(RECORD, b"\x02"), "twice"),
        (changed(RECORD + 1, b"\x02"), "measurement specification"),
        (changed(RECORD + 2, b"\x34"), "expected a digest"),
        (changed(RECORD + 4, b"\x81"), "expected a digest"),
        (changed(RECORD + 5, b"\x20"), "expected a digest"),
        (changed(len(REPORT) - 96 - 422 - 2, b"\xa7"), "needs"),
        (REPORT + b"\0", "behind the signature"),
        (REPORT[:-1], "needs"),
        (REPORT[:30], "needs"),
        (b"\x11", "needs"),
    ],
)
def test_malformed(data, said):
    with pytest.raises(FormatError, match=said):
        parse_report(data)


def test_limits():
    with pytest.raises(LimitError):
        parse_report(b"\x11" + bytes(MAX_REPORT_BYTES))
    with pytest.raises(LimitError):
        parse_report(b"11" * (MAX_REPORT_BYTES + 1))
    with pytest.raises(LimitError):
        parse_report(bytes(4 * MAX_REPORT_BYTES))
    with pytest.raises(LimitError, match="opaque fields"):
        parse_report(Gpu(opaque=dict.fromkeys(range(100, 400), b"")).report())


@pytest.mark.parametrize(
    ("opaque", "read", "said"),
    [
        ({3: None}, "driver_version", "no DRIVER_VERSION"),
        ({3: b"\0"}, "driver_version", "no text"),
        ({3: b"550\n"}, "driver_version", "no text"),
        ({3: b"5" * 65}, "driver_version", "no text"),
        ({3: b"\xff"}, "driver_version", "no text"),
        ({6: None}, "vbios_version", "no VBIOS_VERSION"),
        ({6: bytes(4)}, "vbios_version", "4 bytes; expected 8"),
        ({20: bytes(32)}, "firmware_id", "32 bytes; expected 48"),
        ({11: b"\0"}, "nvdec0_disabled", "NVDEC0 status 0x00"),
        ({11: b"\x55\x55"}, "nvdec0_disabled", "2 bytes; expected 1"),
        ({17: None}, "vbios_rim_id", "no PROJECT"),
    ],
)
def test_fields_that_are_wrong(opaque, read, said):
    report = parse_report(Gpu(opaque=opaque).report())
    with pytest.raises(FormatError, match=said):
        getattr(report, read)


def test_fields_that_may_be_absent():
    report = parse_report(Gpu(opaque={11: None}).report())
    assert report.firmware_id is None and not report.nvdec0_disabled and report.chip is None
    assert parse_report(Gpu(opaque={35: b"GB100\0\0\0"}).report()).chip == "GB100"
    unknown = parse_report(Gpu(opaque={999: b"x"}).report())
    assert unknown.opaque[999] == b"x" and unknown.opaque[OpaqueField.NVDEC0_STATUS] == b"\xaa"


def test_opaque_fields_twice():
    data = Gpu(opaque={100: b"a", 101: b"b"}).report().replace(b"\x65\0\1\0b", b"\x64\0\1\0b")
    with pytest.raises(FormatError, match="field 100 stands there twice"):
        parse_report(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_format_errors(data):
    mutated = bytearray(REPORT)
    for _ in range(data.draw(st.integers(0, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    choices = [
        bytes(mutated),
        bytes(mutated[: data.draw(st.integers(0, len(mutated)))]),
        data.draw(st.binary()),
    ]
    with contextlib.suppress(FormatError):
        report = parse_report(data.draw(st.sampled_from(choices)))
        for name in (
            "driver_version",
            "vbios_version",
            "vbios_rim_id",
            "firmware_id",
            "nvdec0_disabled",
            "chip",
        ):
            with contextlib.suppress(FormatError):
                getattr(report, name)
