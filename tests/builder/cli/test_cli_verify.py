"""``goldsmith verify`` as a script and as a person run it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from attester import AK, BANKS, NONCE, OTHER_AK, SIGNING_KEY, VECTORS, Machine, document, public_pem, signed

from builder.cli import run
from measurements import golden, keys

VALID = ["--at", "2026-11-22T13:00:00Z"]
GIVEN = ["--golden", "golden.dsse.json", "--key", "release.pub", "--evidence", "evidence.json"]


@pytest.fixture(autouse=True)
def files(tmp_path):
    """A signed document, its key, and honest evidence, in the current folder."""
    (tmp_path / "golden.dsse.json").write_bytes(signed())
    (tmp_path / "golden.json").write_bytes(golden.to_pretty(document()))
    (tmp_path / "release.pub").write_bytes(SIGNING_KEY.public().pem())
    (tmp_path / "evidence.json").write_text(json.dumps(Machine().evidence()))
    (tmp_path / "ak.pem").write_text(public_pem(AK))
    return tmp_path


def verdict(capfd):
    return json.loads(capfd.readouterr().out)


def failed(found):
    return {check["name"]: check["detail"] for check in found["checks"] if check["status"] == "failed"}


def test_the_contracts_minimal_call_passes_and_says_what_it_did_not_prove(capfd):
    assert run(["verify", *GIVEN, *VALID]) == 0
    told = capfd.readouterr()
    assert told.out.endswith("verdict: pass\n")
    assert "warning: UNPROVEN nonce: freshness is not proven" in told.err
    assert "warning: UNPROVEN attestation key: anyone may have made this quote" in told.err


def test_every_check_and_register_is_printed(capfd):
    run(["verify", *GIVEN, *VALID])
    lines = capfd.readouterr().out.splitlines()
    for number in range(1, 17):
        assert any(line.startswith(f"{number} ") for line in lines)
    start = next(at for at, line in enumerate(lines) if line.startswith("PCR "))
    registers = [line.split() for line in lines[start + 2 : start + 18]]
    assert [int(row[0]) for row in registers] == list(range(16))
    assert registers[4][1:] == ["equal"] * len(BANKS)
    assert "differs per instance" in " ".join(registers[15])


def test_json_holds_the_contract(capfd):
    assert run(["verify", *GIVEN, *VALID, "--nonce", NONCE.hex(), "--ak", "ak.pem", "--json"]) == 0
    told = capfd.readouterr()
    found = json.loads(told.out)
    assert (found["verdict"], found["warnings"], told.err) == ("pass", [], "")
    assert [check["number"] for check in found["checks"]] == list(range(1, 17))
    for bank in ("sha256", "sha384"):
        assert set(found["registers"][bank]) == {str(index) for index in range(16)}
        entry = found["registers"][bank]["4"]
        assert entry["equal"] is True and entry["predicted"] == entry["observed"] and entry["reason"] is None


@pytest.mark.parametrize("quotes", sorted((VECTORS / "quote").glob("*.json")), ids=lambda path: path.stem)
def test_quotes_that_a_tpm_made_pass(files, capfd, quotes):
    # swtpm, into which the events of the recorded boot were extended (tests/vectors/README.md, "quote").
    evidence = json.loads(quotes.read_text())
    (files / "tpm.pem").write_text(evidence["attestation_key"]["public"])
    given = [*GIVEN[:4], "--evidence", str(quotes), *VALID, "--nonce", NONCE.hex(), "--ak", "tpm.pem"]
    assert run(["verify", *given]) == 0
    assert capfd.readouterr().err == ""
    assert run(["verify", *given[:-1], "ak.pem", "--json"]) == 1
    assert list(failed(verdict(capfd))) == ["attestation key"]


def test_a_changed_machine_fails_and_the_register_says_why(files, capfd):
    machine = Machine()
    machine.change(_first(machine, 9), b"another initrd")
    (files / "evidence.json").write_text(json.dumps(machine.evidence()))
    assert run(["verify", *GIVEN, *VALID]) == 1
    told = capfd.readouterr().out
    assert "DIFFERS" in told and "PCR 9, sha256: observed" in told and "  expected " in told
    assert "verdict: FAIL (check " in told
    assert run(["verify", *GIVEN, *VALID, "--json"]) == 1
    found = verdict(capfd)
    assert found["verdict"] == "fail" and found["registers"]["sha256"]["9"]["reason"]


def _first(machine, register):
    return next(at for at, item in enumerate(machine.records) if item.register == register)


@pytest.mark.parametrize(
    ("options", "check", "words"),
    [
        (["--nonce", "ff" * 32], "nonce", "another or an old answer"),
        (["--ak", "other.pem"], "attestation key", "not the pinned"),
        (["--minimum-svn", "4"], "validity", "below the floor 4"),
        (["--image", "other"], "validity", "wants 'other'"),
        (["--shape", "qemu-vtpm/none"], "launch shape", "qemu-vtpm/none"),
        (["--at", "2030-01-01T00:00:00+02:00"], "validity", "not at 2030-01-01"),
    ],
)
def test_each_demand_is_held(files, capfd, options, check, words):
    (files / "other.pem").write_text(public_pem(OTHER_AK))
    assert run(["verify", *GIVEN, *VALID, *options, "--json"]) == 1
    assert words in failed(verdict(capfd))[check]


def test_without_a_time_the_clock_decides(files, capfd):
    old = replace(document(), validity=golden.Validity.since(0, days=365))
    (files / "golden.dsse.json").write_bytes(signed(old))
    assert run(["verify", *GIVEN, "--json"]) == 1
    assert "valid from 1970-01-01T00:00:00Z" in failed(verdict(capfd))["validity"]
    assert run(["verify", *GIVEN, "--at", "1970-06-01T00:00:00Z"]) == 0


def test_threshold_counts_distinct_keys(files, capfd):
    other = keys.generate(keys.KeyAlgorithm.ECDSA_P256).public()
    (files / "other.pub").write_bytes(other.pem())
    both = ["--key", "other.pub", "--threshold", "2"]
    assert run(["verify", *GIVEN, *VALID, *both, "--json"]) == 1
    assert "1 of 2 trusted keys signed" in failed(verdict(capfd))["document signatures"]
    assert run(["verify", *GIVEN, *VALID, "--key", "release.pub", "--threshold", "2"]) == 2
    assert "distinct keys" in capfd.readouterr().err


def test_unpin_leaves_out_a_kind_of_register(files, capfd):
    machine = Machine()
    machine.change(_first(machine, 1), b"other tables", b"other tables")
    (files / "evidence.json").write_text(json.dumps(machine.evidence()))
    assert run(["verify", *GIVEN, *VALID, "--json"]) == 1
    assert not verdict(capfd)["registers"]["sha256"]["1"]["equal"]
    assert run(["verify", *GIVEN, *VALID, "--unpin", "vm-shape", "--json"]) == 0
    assert "leaves out registers of kind vm-shape" in verdict(capfd)["registers"]["sha256"]["1"]["reason"]
    everything = [
        item for kind in ("image", "phase", "keys", "firmware", "vm-shape") for item in ("--unpin", kind)
    ]
    assert run(["verify", *GIVEN, *VALID, *everything]) == 2


def test_an_unsigned_document_is_called_so(capfd):
    arguments = ["--golden", "golden.json", "--key", "release.pub", "--evidence", "evidence.json"]
    assert run(["verify", *arguments, "--json"]) == 1
    assert "without any signature" in failed(verdict(capfd))["document signatures"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"payload": 1}', b"9" * 5000])
def test_malformed_inputs_fail_the_check_that_reads_them(files, capfd, content):
    (files / "junk").write_bytes(content)
    assert run(["verify", "--golden", "junk", *GIVEN[2:], *VALID, "--json"]) == 1
    assert list(failed(verdict(capfd))) == ["document signatures"]
    assert run(["verify", *GIVEN[:4], "--evidence", "junk", *VALID, "--json"]) == 1
    assert next(iter(failed(verdict(capfd)))) == "evidence"


def test_a_huge_file_is_refused_by_its_limit_and_not_read(files, capfd):
    with (files / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert run(["verify", *GIVEN[:4], "--evidence", "huge", *VALID, "--json"]) == 1
    assert "evidence" in failed(verdict(capfd))


def test_hostile_words_do_not_reach_the_terminal(files, capfd):
    evidence = Machine().evidence()
    evidence["quotes"][0]["bank"] = "\x1b]0;owned\x07"
    (files / "evidence.json").write_text(json.dumps(evidence))
    assert run(["verify", *GIVEN, *VALID]) == 1
    told = capfd.readouterr()
    assert "\x1b" not in told.out + told.err and "owned" in told.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "required: --golden, --key, --evidence"),
        ([*GIVEN, "--nonce", "xyz"], 2, "not hexadecimal"),
        ([*GIVEN, "--nonce", "00"], 2, "expected 16 to 64"),
        ([*GIVEN, "--at", "yesterday"], 2, "write 2026-12-31T23:59:59Z"),
        ([*GIVEN, "--at", "2026-11-22T13:00:00"], 2, "no time zone"),
        ([*GIVEN, "--threshold", "0"], 2, "no number from 1"),
        ([*GIVEN, "--ak", "ak.pem", "--ak-ca", "ak.pem"], 2, "not allowed with"),
        ([*GIVEN, "--unpin", "not-pinned"], 2, "not-pinned"),
        ([*GIVEN, "--what"], 2, "--what"),
        (["--golden", "absent", *GIVEN[2:]], 2, "cannot read absent"),
        ([*GIVEN[:2], "--key", "golden.json", *GIVEN[4:]], 3, "golden.json: "),
        ([*GIVEN, "--ak", "golden.dsse.json"], 3, "golden.dsse.json: "),
        ([*GIVEN, "--ak-ca", "ak.pem"], 3, "ak.pem: "),
    ],
)
def test_bad_command_lines_say_what_to_do(capfd, arguments, code, words):
    assert run(["verify", *arguments]) == code
    told = capfd.readouterr()
    assert words in told.err and told.out == ""
