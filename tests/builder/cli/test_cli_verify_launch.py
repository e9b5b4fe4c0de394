"""``goldsmith verify`` with an SEV-SNP report or a TDX quote, as a script and as a person run it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import snp_reports
import tdx_recorded
from attester import SIGNING_KEY, document, prediction, signed
from confidential_samples import snp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_evidence import EXPECTED

from builder.cli import run
from measurements import golden

NONCE = b"n" * 32
LAUNCHES = tuple(snp(vcpus=vcpus) for vcpus in (1, 2))
DOCUMENT = ["--golden", "golden.dsse.json", "--key", "release.pub"]
SNP = ["verify", *DOCUMENT, "--snp-report", "report.bin", "--certificate", "certs.pem", "--root", "ark.pem",
       "--at", "2026-11-22T13:00:00Z"]  # fmt: skip
TDX = ["verify", *DOCUMENT, "--tdx-quote", "quote.bin", "--collateral", str(tdx_recorded.FOLDER),
       "--at", "2025-08-25T00:00:00Z", "--rtmr3", tdx_recorded.RTMR3_VALUE.hex(),
       "--mrconfigid", tdx_recorded.MRCONFIGID.hex()]  # fmt: skip
FULL_TDX = [
    *TDX,
    "--report-data",
    tdx_recorded.REPORT_DATA.hex(),
    "--attributes",
    "10000000",
    "--xfam",
    "602e7",
]
FULL_SNP = [*SNP, "--nonce", NONCE.hex(), "--minimum-tcb", "bootloader=10,tee=0,snp=27,microcode=88"]


def pem(item):
    return item.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def authority():
    return snp_reports.Authority()


@pytest.fixture(autouse=True)
def files(tmp_path, authority):
    """A signed document with launches of both kinds, its key, a report and a quote, in the current folder."""
    key = ec.generate_private_key(ec.SECP384R1())
    whole = replace(
        document(prediction()),
        validity=golden.Validity.since(1_750_000_000, days=3650),
        sev_snp=LAUNCHES,
        tdx=(tdx_recorded.reference(),),
    )
    (tmp_path / "golden.dsse.json").write_bytes(signed(whole))
    (tmp_path / "release.pub").write_bytes(SIGNING_KEY.public().pem())
    fields = {0x08: (0x30000).to_bytes(8, "little"), 0x50: NONCE + bytes(32), 0xC0: bytes(32)}
    fields[0x90] = LAUNCHES[1].launch_digest.value
    (tmp_path / "report.bin").write_bytes(snp_reports.forged(key, at=fields))
    (tmp_path / "certs.pem").write_bytes(pem(authority.endorse(key.public_key())) + pem(authority.middle))
    (tmp_path / "ark.pem").write_bytes(pem(authority.root))
    (tmp_path / "quote.bin").write_bytes(tdx_recorded.QUOTE)
    (tmp_path / "ccel.bin").write_bytes(tdx_recorded.ccel())
    return tmp_path


def verdict(capfd):
    return json.loads(capfd.readouterr().out)


def failed(found):
    return {check["name"]: check["detail"] for check in found["checks"] if check["status"] == "failed"}


def test_report_passes_and_the_launch_is_named(capfd):
    assert run(FULL_SNP) == 0
    told = capfd.readouterr()
    assert told.err == "" and told.out.endswith("verdict: pass\n")
    assert LAUNCHES[1].name in told.out


def test_report_json_holds_the_contract(capfd):
    assert run([*SNP, "--json"]) == 0
    found = verdict(capfd)
    assert found["shape"] == LAUNCHES[1].name and found["registers"]["launch_digest"]["equal"] is True
    assert [warning.partition(":")[0] for warning in found["warnings"]] == ["report data", "TCB"]
    assert [check["number"] for check in found["checks"]] == [*range(1, 17)]


@pytest.mark.parametrize("log", [[], ["--event-log", "ccel.bin"]])
def test_quote_of_a_real_machine_passes(capfd, log):
    assert run([*FULL_TDX, *log]) == 0
    told = capfd.readouterr()
    assert told.err == "" and told.out.endswith("verdict: pass\n")
    assert run([*FULL_TDX, *log, "--json"]) == 0
    found = verdict(capfd)
    assert found["shape"] == "qemu-tdx/unpublished/direct/8-vcpus/65536-mib"
    assert set(found["registers"]) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}


@pytest.mark.parametrize(
    ("options", "check", "words"),
    [
        ([*FULL_SNP, "--nonce", "ff" * 32], "report data", "another request"),
        ([*FULL_SNP, "--minimum-svn", "4"], "validity", "below the floor 4"),
        ([*FULL_SNP, "--shape", LAUNCHES[0].name], "launch shape", "2 vCPUs in place of 1"),
        ([*FULL_SNP, "--host-data", "11" * 32], "host data", "expected 1111"),
        ([*FULL_SNP, "--id-key-digest", "11" * 48], "ID block", "another release"),
        ([*FULL_TDX, "--nonce", "ff" * 32], None, ""),
        ([*FULL_TDX, "--xfam", "7"], "attributes", "forbidden bits"),
        ([*FULL_TDX, "--rtmr3", "00" * 48], "registers", "RTMR3 is"),
        ([*FULL_TDX, "--mrowner", "11" * 48], "registers", "MROWNER is"),
        ([*FULL_TDX, "--event-log", "quote.bin"], "event log", ""),
    ],
)
def test_each_demand_is_held(capfd, options, check, words):
    code = run([*options, "--json"])
    if check is None:  # a nonce beside the report data of the same quote
        assert code == 2
        return
    assert code == 1
    assert words in failed(verdict(capfd))[check]


def test_a_changed_launch_fails_and_the_value_says_why(files, capfd):
    data = bytearray((files / "report.bin").read_bytes())
    data[0x90:0xC0] = snp(vcpus=8).launch_digest.value
    (files / "report.bin").write_bytes(data)
    assert run(FULL_SNP) == 1
    told = capfd.readouterr().out
    assert "DIFFERS" in told and "8 vCPUs in place of 2" in told
    assert (
        "launch_digest: observed" in told and "  expected " in told and "verdict: FAIL (check 7, 15)" in told
    )


def test_what_is_not_said_is_a_warning(capfd):
    assert run([*TDX, "--rtmr3", "any"]) == 0
    told = capfd.readouterr().err
    for words in ("report data: freshness is not proven", "TDATTRIBUTES", "--rtmr3 any"):
        assert words in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*SNP, "--tdx-quote", "quote.bin"], "--snp-report and --tdx-quote exclude each other"),
        ([*SNP, "--evidence", "e.json"], "--evidence and --snp-report exclude each other"),
        ([*SNP[:-2], "--author-key-digest", "11" * 48], "needs --id-key-digest"),
        (["verify", *DOCUMENT, "--snp-report", "report.bin"], "--certificate"),
        (["verify", *DOCUMENT, "--tdx-quote", "quote.bin"], "give --collateral DIR"),
        ([*TDX, "--unpin", "image"], "invalid choice"),
        ([*TDX, "--rtmr3", "some"], "is not hexadecimal"),
    ],
)
def test_command_lines_that_make_no_sense(capfd, options, words):
    assert run(options) == 2
    assert words in capfd.readouterr().err


def test_gpus_are_judged_elsewhere_and_only_on_purpose(files, capfd):
    whole = replace(
        document(prediction()),
        validity=golden.Validity.since(1_750_000_000, days=3650),
        sev_snp=LAUNCHES,
        gpu=EXPECTED,
    )
    (files / "golden.dsse.json").write_bytes(signed(whole))
    assert run([*FULL_SNP, "--json"]) == 1
    assert [*failed(verdict(capfd))] == ["GPUs"]
    assert run([*FULL_SNP, "--without-gpu"]) == 0
    assert "NO GPU IS JUDGED" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["--snp-report", "--tdx-quote"])
def test_help(capfd, kind):
    assert run(["verify", kind, "FILE", "--help"]) == 0
    assert "--golden FILE" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["golden.dsse.json", "report.bin", "certs.pem"])
def test_files_that_are_junk_fail_a_check(files, capfd, name):
    (files / name).write_bytes(hashlib.sha256(b"junk").digest() * 40)
    assert run([*FULL_SNP, "--json"]) == 1
    assert verdict(capfd)["verdict"] == "fail"
