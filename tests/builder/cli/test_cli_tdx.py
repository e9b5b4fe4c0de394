"""``goldsmith tdx``: quotes printed and verified; exit codes, and files that are something else."""

import json
import shutil
from pathlib import Path

import launch_samples
import pytest
import tdx_quotes as samples
from test_cli_verbs import run_as_verifier

from builder.cli import run

REAL = launch_samples.VECTORS / "tdx/spr-e4"
AT = ["--at", "2023-07-01T01:00:00Z"]
NOW = ["--at", "2026-11-22T00:00:00Z", "--root", "root.pem", "--collateral", "statements"]
DEMANDS = ["--report-data", samples.REPORT_DATA.hex(), "--attributes", "10000000", "--xfam", "600e7"]


@pytest.fixture(autouse=True)
def files():
    """A real quote, and one of an imaginary platform with everything that goes with it."""
    shutil.copyfile(REAL / "quote.bin", "real.bin")
    platform = samples.Platform()
    Path("quote.bin").write_bytes(samples.quote(platform, version=5, extended=True))
    Path("root.pem").write_bytes(samples.pem(platform.certificates()[0]))
    folder, given = Path("statements"), platform.collateral()
    folder.mkdir()
    for name, content in (
        ("tcb-info.json", given.tcb_info),
        ("qe-identity.json", given.qe_identity),
        ("signing-chain.pem", given.signing_chain),
        ("pck.crl", given.pck_crl),
        ("root.crl", given.root_crl),
    ):
        (folder / name).write_bytes(content)
    values = [None, *(value.hex() for value in samples.RTMRS[1:])]
    prediction = {
        "mrtd": {"one_pass": "11" * 48, "two_pass": samples.MRTD.hex()},
        **{f"rtmr{index}": value for index, value in enumerate(values)},
        "alternatives": {"rtmr1": [{"label": "x", "value": "22" * 48}, {"label": "y", "value": values[1]}]},
    }
    Path("prediction.json").write_text(json.dumps(prediction))


def verified(capfd, *arguments):
    code = run(["tdx", "verify", *arguments, "--json"])
    found = json.loads(capfd.readouterr().out)
    assert code == (0 if found["verdict"] == "pass" else 1)
    return found


def failed(found):
    return [check["name"] for check in found["checks"] if check["status"] == "failed"]


def test_a_quote_that_is_as_predicted(capfd):
    rtmr0 = ["--rtmr0", samples.RTMRS[0].hex()]
    found = verified(capfd, "quote.bin", *NOW, *DEMANDS, "--prediction", "prediction.json", *rtmr0)
    assert found == found | {"verdict": "pass", "warnings": []} and len(found["checks"]) == 13
    other = verified(
        capfd, "quote.bin", *NOW, *DEMANDS, "--prediction", "prediction.json", "--rtmr0", "00" * 48
    )
    assert failed(other) == ["registers"]


def test_what_is_not_said_is_a_warning(capfd):
    found = verified(capfd, "quote.bin", *NOW[:4], "--without-collateral")
    assert found["verdict"] == "pass" and len(found["warnings"]) == 8
    assert run(["tdx", "verify", "quote.bin", *NOW[:4], "--without-collateral"]) == 0
    told = capfd.readouterr()
    assert "verdict: pass" in told.out and "freshness is not proven" in told.err


def test_a_real_quote_is_too_old_for_its_collateral(capfd):
    found = verified(capfd, "real.bin", *AT, "--collateral", str(REAL))
    assert failed(found) == ["TCB status"]
    assert (
        verified(capfd, "real.bin", *AT, "--without-collateral", "--attributes", "40000000")["verdict"]
        == "pass"
    )


def test_doing_without_collateral_is_said(capfd):
    assert run(["tdx", "verify", "real.bin"]) == 2
    assert run(["tdx", "verify", "quote.bin", *NOW, "--without-collateral"]) == 2
    assert "--without-collateral" in capfd.readouterr().err


def test_a_nonce_is_the_report_data(capfd):
    Path("quote.bin").write_bytes(samples.quote(report=samples.td_report(report_data=b"n" * 16 + bytes(48))))
    assert verified(capfd, "quote.bin", *NOW, "--nonce", b"n".hex() * 16)["verdict"] == "pass"
    assert failed(verified(capfd, "quote.bin", *NOW, "--nonce", b"m".hex() * 16)) == ["report data"]


def test_a_printed_quote(capfd):
    assert run(["tdx", "quote", "real.bin", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["version"], found["td_attributes"], found["qe"]["isvsvn"]) == (4, "0x0000000040000000", 4)
    assert found["mrservicetd"] is None and found["mrtd"].startswith("6363b8043668a3ad")
    assert run(["tdx", "quote", "quote.bin"]) == 0
    told = capfd.readouterr()
    assert samples.MRTD.hex() in told.out and "nothing of this is verified" in told.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "a sub-verb is missing"),
        (["report"], 2, "no 'report'; known are quote, verify"),
        (["verify"], 2, "QUOTE"),
        (["verify", "absent"], 2, "cannot read absent"),
        (["verify", "quote.bin", "--collateral", "absent"], 2, "cannot read absent/tcb-info.json"),
        (["verify", "quote.bin", "--root", "quote.bin"], 3, "quote.bin: "),
        (["verify", "quote.bin", "--mrtd", "00"], 2, "1 bytes; expected 48"),
        (["verify", "quote.bin", "--nonce", "00"], 2, "1 bytes; expected 16 to 64"),
        (["verify", "quote.bin", "--xfam", "x"], 2, "not hexadecimal"),
        (["verify", "quote.bin", "--nonce", "00" * 16, "--report-data", "00" * 64], 2, "exclude each other"),
        (["verify", "quote.bin", "--prediction", "quote.bin"], 3, "quote.bin: prediction"),
        (["quote", "root.pem"], 3, "root.pem: TDX quote"),
    ],
)
def test_bad_inputs_say_which_and_why(capfd, arguments, code, words):
    assert run(["tdx", *arguments]) == code
    assert words in capfd.readouterr().err


def test_a_file_that_is_no_quote_fails(capfd):
    found = verified(capfd, "root.pem", "--without-collateral")
    assert failed(found) == ["structure"] and found["verdict"] == "fail"


def test_it_runs_on_the_base_dependencies():
    done = run_as_verifier("tdx", "verify", "real.bin", *AT, "--collateral", str(REAL))
    assert done.returncode == 1 and "verdict: " in done.stdout and "Traceback" not in done.stderr
    assert run_as_verifier("tdx", "quote", "real.bin").returncode == 0
