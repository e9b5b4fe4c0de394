"""``goldsmith replay`` on the logs of real boots; what tpm2_eventlog folds them into is beside them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from attester import VECTORS
from tcg_log import SEPARATOR, header, record

from builder.cli import run

LOGS = [VECTORS / f"eventlog/qemu-ovmf-{name}.bin" for name in ("2025.02", "2026.08", "2026.08-secure-boot")]


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_registers_of_recorded_boots(capfd, log):
    assert run(["replay", str(log), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"registers", "events", "findings"} and found["events"] > 20
    expected = json.loads(log.with_suffix(".json").read_text())
    compared = 0
    for bank, registers in expected.items():
        for index, value in registers.items():
            assert found["registers"][bank][index] == value
            compared += 1
    assert compared > 20
    assert found["findings"] == []


def test_table_for_people(capfd):
    assert run(["replay", str(LOGS[-1])]) == 0
    told = capfd.readouterr().out
    assert "sha256\nregister  value\n" in told and told.endswith(" events, 0 findings\n")


def test_a_digest_that_is_not_that_of_its_data_is_a_finding_and_no_error(tmp_path, capfd):
    log = header("sha256") + record(0, SEPARATOR, bytes(4), ["sha256"], payload=b"something else")
    Path("log").write_bytes(log)
    assert run(["replay", "log", "--json"]) == 0
    (finding,) = json.loads(capfd.readouterr().out)["findings"]
    assert (finding["severity"], finding["register"], finding["type"]) == ("error", "0", "EV_SEPARATOR")
    assert run(["replay", "log"]) == 0
    assert "error: record 1, 0, EV_SEPARATOR: " in capfd.readouterr().out


def test_registers_of_a_ccel_have_their_own_names(capfd):
    # Register 1 of a CCEL is RTMR0 (Intel TDX Virtual Firmware Design Guide, 8.1; UEFI 2.10, 38.4.1).
    Path("ccel").write_bytes(header("sha384") + record(1, SEPARATOR, bytes(4), ["sha384"]))
    assert run(["replay", "ccel", "--kind", "ccel", "--json"]) == 0
    registers = json.loads(capfd.readouterr().out)["registers"]
    assert list(registers) == ["sha384"] and set(registers["sha384"]) == {"mrtd", "rtmr0", "rtmr1", "rtmr2"}
    assert int(registers["sha384"]["rtmr0"], 16) and not int(registers["sha384"]["rtmr1"], 16)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 2), (b"", 3), (b"\xff" * 100, 3), (header("sha256")[:40], 3), (struct.pack("<II", 0, 3) * 9, 3)],
)
def test_hostile_logs_are_clear_errors(capfd, content, code):
    if content is not None:
        Path("log").write_bytes(content)
    assert run(["replay", "log", "--json"]) == code
    told = capfd.readouterr()
    assert told.out == "" and told.err.startswith("goldsmith: ") and "log" in told.err


def test_usage(capfd):
    assert run(["replay"]) == 2
    assert "required: EVENTLOG" in capfd.readouterr().err
    assert run(["replay", "--help"]) == 0
    assert "usage: goldsmith replay" in capfd.readouterr().out
