"""The command line as a whole: verbs, exit codes, and what runs on a verifier's installation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
from attester import NONCE, SIGNING_KEY, Machine, signed

from builder.cli import VERBS, console, run
from builder.errors import UsageError

#: The distributions that the extra `build` brings, by the names that they are imported under.
BUILD_ONLY = ["typer", "click", "rich", "pydantic", "yaml", "jinja2", "lz4", "httpx", "zstandard", "pefile",
              "tpm2_pytss"]  # fmt: skip

RUN = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from builder.cli import run
code = run({arguments})
third = {{name.partition(".")[0] for name in sys.modules}} & set({absent})
assert not third, third
sys.exit(code)
"""


def run_as_verifier(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb where nothing of the extra `build` can be imported."""
    program = RUN.format(absent=BUILD_ONLY, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_the_absent_packages_are_all_that_the_extra_brings():
    extra = {
        re.match(r"[\w.-]+", item)[0] for item in metadata.requires("goldsmith") if 'extra == "build"' in item
    }
    names = {"pyyaml": "yaml", "tpm2-pytss": "tpm2_pytss"}
    assert {names.get(name.lower(), name.lower()) for name in extra} | {"click"} == set(BUILD_ONLY)


def test_verify_and_replay_run_on_the_base_dependencies():
    Path("golden.dsse.json").write_bytes(signed())
    Path("release.pub").write_bytes(SIGNING_KEY.public().pem())
    Path("evidence.json").write_text(json.dumps(Machine().evidence()))
    given = ["--golden", "golden.dsse.json", "--key", "release.pub", "--evidence", "evidence.json"]
    done = run_as_verifier("verify", *given, "--at", "2026-11-22T13:00:00Z", "--nonce", NONCE.hex())
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "verdict: pass")
    done = run_as_verifier("verify", *given, "--at", "2020-01-01T00:00:00Z", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["verdict"] == "fail"
    log = Path(__file__).parents[2] / "vectors/eventlog/qemu-ovmf-2025.02.bin"
    assert "events, 0 findings" in run_as_verifier("replay", str(log)).stdout
    assert run_as_verifier("--help").returncode == 0
    done = run_as_verifier("verify", "--golden", "x")
    assert done.returncode == 2 and "goldsmith verify --help" in done.stderr


@pytest.mark.parametrize("verb", ["build", "boot", "predict", "lock", "sign"])
def test_other_verbs_say_which_extra_they_need(verb):
    done = run_as_verifier(verb, "x")
    assert done.returncode == 3 and 'pip install "goldsmith[build]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_every_verb(capfd):
    assert run(["--help"]) == 0
    told = capfd.readouterr().out
    assert all(re.search(rf"^  {verb} +\S", told, re.MULTILINE) for verb in VERBS)
    assert run([]) == 2


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_exists_and_explains_itself(capfd, verb):
    import_module(f"builder.cli.{verb}")
    assert run([verb, "--help"]) == 0
    told = capfd.readouterr().out
    assert f"goldsmith {verb}" in told and "usage" in told.lower()


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_an_unknown_option_is_a_usage_error(capfd, verb):
    assert run([verb, "--no-such-option"]) == 2
    told = capfd.readouterr()
    assert "Traceback" not in told.err and f"goldsmith {verb}" in told.err and told.out == ""


def test_unknown_verbs_get_a_suggestion(capfd):
    assert run(["verfy"]) == 2
    assert "did you mean 'verify'?" in capfd.readouterr().err
    assert run(["qqqqqq"]) == 2
    assert "did you mean" not in capfd.readouterr().err


def test_version(capfd):
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"goldsmith {metadata.version('goldsmith')}\n"


def test_errors_carry_their_hint(capfd):
    assert run(["build", "no-such-recipe"]) == UsageError.exit_code == 2
    assert "\n  try: recipes here: " in capfd.readouterr().err


def test_tables_align_and_keep_every_line(capfd):
    console.table("title", ["a", "bb"], [["1", "x\ny"], ["222", "z"]])
    assert capfd.readouterr().out == "title\na    bb\n───  ──\n1    x\n     y\n222  z\n"


@pytest.mark.parametrize("text", ["\x1b[31m", "\r", "\x9b", "\x07", "\u202e"])
def test_control_characters_are_written_out(capfd, text):
    console.out(f"a{text}b")
    console.error(f"a{text}b", hint=text)
    told = capfd.readouterr()
    assert text not in told.out + told.err and "\\" in told.out


COMMAND = Path(sys.executable).with_name("goldsmith")


def test_a_terminal_without_unicode_is_no_reason_to_fail():
    log = Path(__file__).parents[2] / "vectors/eventlog/qemu-ovmf-2025.02.bin"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([COMMAND, "replay", log], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0 and done.stderr == b"" and b"0 findings" in done.stdout
    done = subprocess.run([COMMAND, "replay", b"\xff"], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 2 and b"cannot read \\udcff" in done.stderr


@pytest.mark.parametrize("verb", ["replay", "keygen"])
def test_a_reader_that_went_away_is_no_success(verb):
    log = Path(__file__).parents[2] / "vectors/eventlog/qemu-ovmf-2025.02.bin"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        argument = log if verb == "replay" else "key"
        done = subprocess.run([COMMAND, verb, argument], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (3, b"")
