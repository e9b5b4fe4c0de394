"""``goldsmith predict igvm`` and the sub-verbs of ``goldsmith snp``."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import igvm_samples
import pytest
import snp_reports
from attester import SIGNING_KEY, document, prediction, signed
from confidential_samples import snp

from builder.cli import run
from measurements import golden
from measurements.keys import KeyAlgorithm, generate
from measurements.prediction import BootPath
from measurements.snp import report
from measurements.snp.idblock import IdAuthentication, IdBlock
from measurements.snp.vmsa import Vmm

DIGEST = "ab" * 48


def told(capfd, *arguments, code=0):
    assert run([*arguments, "--json"]) == code
    return json.loads(capfd.readouterr().out)


@pytest.fixture
def igvm():
    Path("guest.igvm").write_bytes(igvm_samples.small().build())


def test_igvm(capfd, igvm):
    found = told(capfd, "predict", "igvm", "guest.igvm")
    assert len(found["launch_digest"]) == 96 and found["pages"] == 8
    assert (found["platforms"], found["version"], found["loader"]) == (["sev-snp"], 1, "specification")
    assert found["policy"]["smt_allowed"] and found["id_block"] is None
    assert found["directives"][2] == {
        "type": "page-data", "gpa": "0x1000", "pages": 2, "kind": "normal", "data": True, "unmeasured": False,
        "shared": False, "mask": 1,
    }  # fmt: skip
    other = told(capfd, "predict", "igvm", "guest.igvm", "--loader", "qemu", "--explain")
    assert other["launch_digest"] != found["launch_digest"]
    assert other["measured"][-1]["digest"] == other["launch_digest"] and len(other["measured"]) == 8


def test_igvm_for_people(capfd, igvm):
    assert run(["predict", "igvm", "guest.igvm", "--explain"]) == 0
    printed = capfd.readouterr().out
    digest = told(capfd, "predict", "igvm", "guest.igvm")["launch_digest"]
    assert printed.splitlines()[-1] == digest and "page-data" in printed and "parameter area 0" in printed


def test_id_block_of_an_igvm_file(capfd):
    plain = igvm_samples.small()
    Path("guest.igvm").write_bytes(plain.build())
    digest = told(capfd, "predict", "igvm", "guest.igvm")["launch_digest"]
    for claimed, matches in ((bytes.fromhex(digest), True), (bytes(48), False)):
        Path("guest.igvm").write_bytes(igvm_samples.small().id_block(claimed).build())
        found = told(capfd, "predict", "igvm", "guest.igvm")
        assert (found["launch_digest"], found["id_block"]["matches"]) == (digest, matches)
    assert run(["predict", "igvm", "guest.igvm"]) == 0
    assert "so the guest would not start" in capfd.readouterr().err


def test_igvm_for_another_platform(capfd):
    Path("td.igvm").write_bytes(igvm_samples.File().add(igvm_samples.platform(kind=3)).page(0x1000).build())
    assert run(["predict", "igvm", "td.igvm", "--json"]) == 3
    assert "td.igvm: the IGVM file names SEV-SNP 0 times" in capfd.readouterr().err
    found = told(capfd, "predict", "igvm", "td.igvm", "--list")
    assert found["platforms"] == ["tdx"] and len(found["directives"]) == 2 and "launch_digest" not in found
    assert run(["predict", "igvm", "td.igvm", "--list"]) == 0


@pytest.mark.parametrize(("content", "code"), [(None, 2), (b"", 3), (b"IGVM" + bytes(40), 3)])
def test_hostile_igvm_files(capfd, content, code):
    if content is not None:
        Path("bad.igvm").write_bytes(content)
    assert run(["predict", "igvm", "bad.igvm", "--json"]) == code
    printed = capfd.readouterr()
    assert printed.out == "" and "bad.igvm" in printed.err


@pytest.fixture
def keys():
    for name in ("id", "author"):
        Path(f"{name}.pem").write_bytes(generate(KeyAlgorithm.ECDSA_P384).pem())


def test_id_block(capfd, keys):
    found = told(
        capfd, "snp", "id-block", DIGEST, "--key", "id.pem", "--author-key", "author.pem", "--guest-svn", "7",
        "--policy", "smt-allowed,single_socket_required", "--abi", "1.55", "--image-id", "11" * 16,
    )  # fmt: skip
    block = IdBlock.parse(base64.b64decode(found["id_block"]))
    authentication = IdAuthentication.parse(base64.b64decode(found["id_auth"]))
    authentication.verify(block)
    assert (block.launch_digest.hex(), block.guest_svn, block.image_id) == (DIGEST, 7, b"\x11" * 16)
    assert block.policy.value == 0x130137 and found["policy"]["value"] == "0x130137"
    assert found["id_key_digest"] == authentication.id_key_digest.hex()
    assert found["qemu"] == (
        f"sev-snp-guest,policy=0x130137,id-block={found['id_block']},id-auth={found['id_auth']},author-key-enabled=on"
    )


RELEASE = replace(
    document(prediction()), sev_snp=(snp(), snp(vcpus=2), snp(cpu=None, vmm=Vmm.EC2), snp(uki=None, vcpus=1))
)


@pytest.fixture
def release(keys):
    Path("golden.dsse.json").write_bytes(signed(RELEASE))
    Path("golden.json").write_bytes(golden.to_pretty(RELEASE))
    Path("release.pub").write_bytes(SIGNING_KEY.public().pem())


def test_id_blocks_of_a_release(capfd, release):
    """One for each launch that QEMU starts; what the hardware then reports passes, and tells this release."""
    given = ["--golden", "golden.dsse.json", "--signer", "release.pub", "--key", "id.pem"]
    found = told(capfd, "snp", "id-block", *given)["launches"]
    assert [item["shape"] for item in found] == [
        item.name for item in RELEASE.sev_snp if item.vmm is Vmm.QEMU
    ]
    for item, launch in zip(found, (launch for launch in RELEASE.sev_snp if launch.cpu), strict=True):
        block = IdBlock.parse(base64.b64decode(item["id_block"]))
        IdAuthentication.parse(base64.b64decode(item["id_auth"])).verify(block)
        assert block.launch_digest == launch.launch_digest.value and block.guest_svn == RELEASE.image.svn
        assert (item["cpu"], item["vcpus"]) == (launch.cpu, launch.vcpus)
        assert item["qemu"].endswith(",kernel-hashes=on") is (launch.boot is BootPath.DIRECT)
    # SHA-256 of b"goldsmith family\0base" and b"goldsmith image\0base\x000.1.0" by sha256sum (coreutils).
    assert block.family_id.hex() == "719c3be6150727cc9335c0ad53ede7ad"
    assert block.image_id.hex() == "0172e080c6449526d2acb53d1b764a9c"


def test_id_block_of_one_launch_for_people(capfd, release):
    name = RELEASE.sev_snp[1].name
    assert run(["snp", "id-block", "--golden", ".", "--shape", name, "--key", "id.pem"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"# {name}" and len(lines) == 2
    assert lines[1].startswith("-cpu EPYC-Milan -smp 2 -object sev-snp-guest,policy=0x30000,id-block=")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a launch DIGEST or --golden FILE, and not both"),
        ([DIGEST, "--golden", "golden.json"], 2, "and not both"),
        ([DIGEST, "--shape", "x"], 2, "are about the document of --golden"),
        (["--golden", "golden.json", "--guest-svn", "1"], 2, "follow from the document"),
        (
            ["--golden", "golden.json", "--shape", "x"],
            2,
            "has no SEV-SNP launch 'x' under QEMU; it has qemu-snp",
        ),
        (["--golden", "golden.json", "--signer", "release.pub"], 2, "--signer asks for a signature"),
        (["--golden", "golden.dsse.json", "--signer", "other.pub"], 1, "--signer names who must have signed"),
        (["--golden", "none.json"], 2, "no SEV-SNP launch under QEMU"),
    ],
)
def test_usage_of_id_block_of_a_release(capfd, release, arguments, code, message):
    Path("other.pub").write_bytes(generate(KeyAlgorithm.ED25519).public().pem())
    Path("none.json").write_bytes(golden.to_pretty(replace(RELEASE, sev_snp=())))
    assert run(["snp", "id-block", *arguments, "--key", "id.pem"]) == code
    assert message in capfd.readouterr().err


def test_id_block_for_people(capfd, keys):
    assert run(["snp", "id-block", DIGEST, "--key", "id.pem"]) == 0
    assert capfd.readouterr().out.startswith("sev-snp-guest,policy=0x30000,id-block=")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zz", "--key", "id.pem"], "is not hexadecimal"),
        (["ab", "--key", "id.pem"], "DIGEST has 1 bytes; expected 48"),
        (
            [DIGEST, "--key", "id.pem", "--policy", "root_allowed"],
            "guest policy: root_allowed not known; known are smt_",
        ),
        ([DIGEST, "--key", "id.pem", "--abi", "1"], "expected MAJOR.MINOR"),
        ([DIGEST, "--key", "id.pem", "--abi", "1.300"], "ABI 1.300"),
        ([DIGEST], "--key"),
        ([DIGEST, "--key", "nowhere.pem"], "nowhere.pem"),
    ],
)
def test_usage_of_id_block(capfd, keys, arguments, message):
    assert run(["snp", "id-block", *arguments]) == 2
    assert message in capfd.readouterr().err


def files(name="genoa-v5"):
    Path("report.bin").write_bytes(snp_reports.report(name))
    Path("vcek.der").write_bytes(snp_reports.certificate(name))


AT = ["--at", "2026-11-22T00:00:00Z"]
VERIFY = ["snp", "verify", "report.bin", "--certificate", "vcek.der", *AT]


def test_report(capfd):
    files("milan-v2")
    found = told(capfd, "snp", "report", "report.bin", "--product", "Milan")
    assert found == report.to_json(report.parse(snp_reports.report("milan-v2")), report.Product.MILAN)
    assert run(["snp", "report", "report.bin"]) == 0
    printed = capfd.readouterr()
    assert "debug_allowed: True" in printed.out and "nothing of this is verified" in printed.err


def test_verify(capfd):
    files()
    parsed = report.parse(snp_reports.report("genoa-v5"))
    arguments = [
        *VERIFY, "--measurement", parsed.measurement.hex(), "--report-data", parsed.report_data.hex(),
        "--minimum-tcb", "bootloader=10,tee=0,snp=27,microcode=88", "--host-data", "00" * 32,
    ]  # fmt: skip
    found = told(capfd, *arguments)
    assert found["verdict"] == "pass" and found["warnings"] == []
    assert [check["number"] for check in found["checks"]] == list(range(1, 12))
    assert {check["status"] for check in found["checks"]} == {"ok"}
    assert run(arguments) == 0
    assert capfd.readouterr().out.endswith("verdict: pass\n")


def test_what_was_not_demanded_is_said(capfd):
    files()
    assert run(VERIFY) == 0
    told_on_error = capfd.readouterr().err
    assert told_on_error.count("warning: ") == 3 and "the report may be an old one" in told_on_error


@pytest.mark.parametrize(
    ("arguments", "check"),
    [
        (["--nonce", "00" * 32], "report data"),
        (["--measurement", "00" * 48], "measurement"),
        (["--accept", ""], "guest policy"),
        (["--accept", "smt_allowed,single_socket_required"], "guest policy"),
        (["--minimum-tcb", "bootloader=11,tee=0,snp=0,microcode=0"], "TCB"),
        (["--id-key-digest", "01" * 48], "identity"),
        (["--at", "2040-01-01T00:00:00Z"], "certificate chain"),
        (["--root", "root.pem"], "certificate chain"),
    ],
)
def test_a_report_that_is_not_as_demanded(capfd, arguments, check):
    files()
    root = snp_reports.Authority().root
    Path("root.pem").write_bytes(snp_reports.der(root))
    found = told(capfd, *VERIFY, *arguments, code=1)
    assert found["verdict"] == "fail"
    assert check in [item["name"] for item in found["checks"] if item["status"] == "failed"]
    assert run([*VERIFY, *arguments]) == 1
    assert "verdict: FAIL" in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", bytes(1184), b"x" * 5000])
def test_hostile_reports_fail(capfd, content):
    files()
    Path("report.bin").write_bytes(content)
    assert told(capfd, *VERIFY, code=1)["checks"][0]["status"] == "failed"
    assert run(["snp", "report", "report.bin"]) in (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonce", "00"], "nonce of 1 bytes; expected 16 to 64"),
        (["--nonce", "zz"], "is not hexadecimal"),
        (["--nonce", "00" * 32, "--report-data", "00" * 64], "exclude each other"),
        (["--measurement", "00"], "1 bytes; expected 48"),
        (["--minimum-tcb", "bootloader=1"], "microcode, snp, tee missing"),
        (["--minimum-tcb", "uefi=1"], "expected NAME=NUMBER"),
        (["--accept", "root_allowed"], "root_allowed not known; known are smt_allowed"),
        (["--at", "yesterday"], "is no time"),
        (["--at", "2026-01-01"], "has no time zone"),
    ],
)
def test_usage_of_verify(capfd, arguments, message):
    files()
    assert run(["snp", "verify", "report.bin", "--certificate", "vcek.der", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_sub_verbs(capfd):
    assert run(["snp", "--help"]) == 0
    assert "usage: goldsmith snp {id-block,report,verify}" in capfd.readouterr().out
    assert run(["snp"]) == 2
    assert run(["snp", "sign"]) == 2
    assert "there is no 'sign'; known are id-block, report, verify" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["snp", "report", "report.bin"], VERIFY])
def test_verifiers_need_nothing_of_the_builder(arguments):
    files()
    code = (
        f"import sys; from builder.cli import run; assert run({arguments}) == 0; "
        "sys.exit(any(name in sys.modules for name in ('typer', 'pydantic', 'yaml', 'rich')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
