"""``goldsmith gpu verify``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpu_evidence import CHAIN, MANIFESTS, NONCE, REPORT, RIMS, SIGNER, crl, ocsp
from test_cli_verbs import run_as_verifier

from builder.cli import gpu, run

AT = ["--at", "2024-06-01T00:00:00Z"]


@pytest.fixture(autouse=True)
def files():
    Path("report").write_bytes(REPORT)
    Path("report.txt").write_text(f"{REPORT.hex()}\n")
    Path("chain.pem").write_bytes(CHAIN)
    for number, data in enumerate(RIMS.values()):
        Path(f"rim{number}").write_bytes(data)


@pytest.fixture
def reference(monkeypatch):
    """Reference values of that GPU, under the tests' root."""
    from gpu_evidence import DRIVER_RIM, VBIOS_RIM

    Path("rim0").write_bytes(DRIVER_RIM)
    Path("rim1").write_bytes(VBIOS_RIM)
    policy = gpu.Policy
    monkeypatch.setattr(gpu, "Policy", lambda **options: policy(rim_root=MANIFESTS.root, **options))


def command(*more, report="report"):
    return [
        "gpu",
        "verify",
        "--report",
        report,
        "--certs",
        "chain.pem",
        "--rim",
        "rim0",
        "--rim",
        "rim1",
        *more,
    ]


@pytest.mark.parametrize("report", ["report", "report.txt"])
def test_pass(report, reference, capfd):
    assert run(command("--nonce", NONCE.hex(), *AT, "--json", report=report)) == 0
    printed = capfd.readouterr()
    told = json.loads(printed.out)
    assert sorted(told) == ["checks", "driver_version", "measurements", "vbios_version", "verdict"]
    assert told["verdict"] == "pass" and told["driver_version"] == "550.90.07"
    assert told["measurements"] == {"matched": 32, "compared": 32, "mismatched": []}
    assert all(sorted(check) == ["detail", "name", "ok"] and check["ok"] for check in told["checks"])
    assert "nonce" not in printed.err
    assert "warning: revocation: UNPROVEN for GH100 A01 GSP BROM, " in printed.err


def test_without_a_nonce(reference, capfd):
    assert run(command(*AT)) == 0
    printed = capfd.readouterr()
    assert "nonce: UNPROVEN" in printed.err and "verdict: pass" in printed.out


def test_fail(reference, capfd):
    assert run(command("--nonce", "00" * 32, *AT, "--json")) == 1
    told = json.loads(capfd.readouterr().out)
    assert told["verdict"] == "fail"
    assert [check["name"] for check in told["checks"] if not check["ok"]] == ["nonce"]


def test_revoked(reference, capfd):
    revoked = crl(MANIFESTS.root, MANIFESTS.root_key, MANIFESTS.issuer)
    Path("list.crl").write_bytes(revoked)
    assert run(command("--nonce", NONCE.hex(), *AT, "--crl", "list.crl", "--json")) == 1
    told = json.loads(capfd.readouterr().out)
    (wrong,) = [check for check in told["checks"] if not check["ok"]]
    assert wrong["name"] == "revocation" and "Manifests authority" in wrong["detail"]
    Path("answer").write_bytes(ocsp(MANIFESTS.issuer, MANIFESTS.key, SIGNER))
    assert run(command("--nonce", NONCE.hex(), *AT, "--ocsp", "answer")) == 0
    assert "Signer" not in capfd.readouterr().err


def test_nvidias_roots_are_pinned(capfd):
    """Genuine manifests of other versions hold, and are not those of this GPU."""
    assert run(command("--rim", "rim2", *AT)) == 1
    printed = capfd.readouterr().out
    assert (
        "driver 545.00, vbios 96.00.5E.00.01, vbios 96.00.6D.00.29" in printed and "verdict: FAIL" in printed
    )


def test_now_is_the_default(reference, capfd):
    assert run(command("--json")) == 0


def test_malformed_files_fail(capfd):
    for name in ("report", "chain.pem", "rim0"):
        before = Path(name).read_bytes()
        Path(name).write_bytes(b"junk")
        assert run(command(*AT, "--json")) == 1
        assert json.loads(capfd.readouterr().out)["verdict"] == "fail"
        Path(name).write_bytes(before)


@pytest.mark.parametrize(
    "arguments",
    [
        ["gpu"],
        ["gpu", "check"],
        ["gpu", "verify"],
        ["gpu", "verify", "--report", "absent", "--certs", "chain.pem", "--rim", "rim0"],
        command("--nonce", "xyz"),
        command("--nonce", "00"),
        command("--at", "yesterday"),
        command("--at", "2024-06-01T00:00:00"),
        command(*["--rim", "rim0"] * 20),
        command(*["--crl", "rim0"] * 40),
        command("--crl", "absent"),
        command(*["--ocsp", "rim0"] * 40),
    ],
)
def test_usage(arguments, capfd):
    assert run(arguments) == 2
    assert capfd.readouterr().err.startswith("goldsmith: ")


def test_it_runs_on_the_base_dependencies():
    done = run_as_verifier(*command("--rim", "rim2", *AT))
    assert done.returncode == 1 and "verdict: FAIL" in done.stdout and "Traceback" not in done.stderr


def test_help(capfd):
    assert run(["gpu", "--help"]) == 0 and run(["gpu", "verify", "--help"]) == 0
    assert "--report" in capfd.readouterr().out
