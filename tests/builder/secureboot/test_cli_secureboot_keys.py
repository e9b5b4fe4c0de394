"""``goldsmith keys``."""

from __future__ import annotations

import json
import lzma
import re
import struct
from datetime import UTC, datetime
from pathlib import Path

import pe_images
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from builder.cli import run
from builder.image.secureboot.modules import check_module_signature, sign_module
from builder.image.secureboot.signer import load_signer
from builder.image.secureboot.variables import VENDORS, read_update
from measurements.errors import NotPredictableError
from measurements.events import HashAlgorithm
from measurements.formats import efivar, pe, varstore
from measurements.tpm.authority import authorise

VARS = Path(__file__).parents[2] / "vectors" / "secureboot" / "ovmf-2025.02-snakeoil.vars.fd.xz"
MAKE = ["keys", "make", "set", "--bits", "2048", "--valid-from", "2026-11-22"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("uki.efi").write_bytes(pe_images.image())
    enrolled = lzma.decompress(VARS.read_bytes())
    (size,) = struct.unpack_from("<I", enrolled, 72 + 16)
    Path("vars.fd").write_bytes(enrolled[:100] + b"\xff" * (size - 28) + enrolled[72 + size :])
    Path("used.fd").write_bytes(enrolled)


def test_from_keys_to_a_machine_that_starts_the_image(capfd):
    assert run([*MAKE, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["folder"] == "set" and sorted(told["certificates"]) == ["KEK", "PK", "db"]
    assert told["files"] == sorted(path.name for path in Path("set").iterdir())
    assert run(["keys", "enrol", "set", "vars.fd", "--out", "enrolled.fd"]) == 0
    assert run(["keys", "sign", "set", "uki.efi"]) == 0
    variables = varstore.parse(Path("enrolled.fd").read_bytes())
    assert {name for _, name in variables} == set(VENDORS)
    signed = Path("uki.signed.efi").read_bytes()
    database = efivar.IMAGE_SECURITY_DATABASE
    entry = authorise(pe.parse(signed), variables[database, "db"], variables[database, "dbx"])
    assert entry.data == Path("set/db.der").read_bytes()
    capfd.readouterr()
    assert run(["keys", "attach", "uki.efi", "uki.p7s", "--out", "again.efi", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"image": "again.efi"}
    assert Path("again.efi").read_bytes() == signed


def test_the_folder(capfd):
    assert run(MAKE) == 0
    printed = capfd.readouterr().out
    files = {path.name: path for path in Path("set").iterdir()}
    for name, path in files.items():
        assert name in printed
        assert path.stat().st_mode & 0o777 == (0o600 if name.endswith(".key") else 0o644)
    readme = files["README.txt"].read_text()
    assert all(name in readme for name in files if name != "README.txt")
    for role in ("PK", "KEK", "db"):
        certificate = x509.load_pem_x509_certificate(files[f"{role}.pem"].read_bytes())
        assert certificate == x509.load_der_x509_certificate(files[f"{role}.der"].read_bytes())
        assert f"{certificate.not_valid_before_utc:%Y-%m-%d}" == "2026-11-22"
        assert f"{certificate.not_valid_after_utc:%Y-%m-%d}" == "2036-11-22"
    for name in VENDORS:
        update = read_update(name, files[f"{name}.auth"].read_bytes())
        assert update.data == files[f"{name}.esl"].read_bytes()
        assert update.time.hex().startswith("ea070b16")


def test_today_is_the_default():
    before = datetime.now(UTC).date()
    assert run(["keys", "make", "set", "--bits", "2048"]) == 0
    certificate = x509.load_pem_x509_certificate(Path("set/PK.pem").read_bytes())
    assert before <= certificate.not_valid_before_utc.date() <= datetime.now(UTC).date()


def test_keys_are_never_overwritten(capfd):
    assert run(MAKE) == 0
    before = {path.name: path.read_bytes() for path in Path("set").iterdir()}
    assert run(MAKE) == 2
    assert "never overwritten" in capfd.readouterr().err
    assert before == {path.name: path.read_bytes() for path in Path("set").iterdir()}
    Path("other").mkdir()
    Path("other/azure.json").write_text("mine")
    assert run([*MAKE[:2], "other", *MAKE[3:]]) == 2
    assert [path.name for path in Path("other").iterdir()] == ["azure.json"]


def test_encrypted_keys_need_their_passphrase(monkeypatch, capfd):
    phrase = ["--passphrase-env", "PHRASE"]
    assert run([*MAKE, *phrase]) == 2
    assert "PHRASE is not set" in capfd.readouterr().err and not Path("set").exists()
    monkeypatch.setenv("PHRASE", "correct horse")
    assert run([*MAKE, *phrase]) == 0
    assert all(b"ENCRYPTED PRIVATE KEY" in path.read_bytes() for path in Path("set").glob("*.key"))
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert "--passphrase-env" in capfd.readouterr().err and not Path("uki.signed.efi").exists()
    assert run(["keys", "sign", "set", "uki.efi", *phrase]) == 0
    monkeypatch.setenv("PHRASE", "wrong")
    assert run(["keys", "sign", "set", "uki.efi", *phrase]) == 3


def test_images_are_forbidden_by_hash_or_file(capfd):
    digest = pe.parse(Path("uki.efi").read_bytes()).authenticode(HashAlgorithm.SHA256).value
    assert run([*MAKE, "--forbid", "uki.efi", "--forbid", "ab" * 32]) == 0
    (found,) = efivar.parse_signature_lists(Path("set/dbx.esl").read_bytes())
    assert [entry.data for entry in found.signatures] == [digest, b"\xab" * 32]
    for wrong, code in (("absent.efi", 2), ("vars.fd", 3)):
        assert run([*MAKE[:2], "other", *MAKE[3:], "--forbid", wrong]) == code
        assert wrong in capfd.readouterr().err and not Path("other").exists()


def test_db_holds_other_certificates_too(capfd):
    assert run([*MAKE[:2], "modules", *MAKE[3:], "--name", "Modules"]) == 0
    assert run([*MAKE, "--allow", "modules/db.pem"]) == 0
    lists = efivar.parse_signature_lists(Path("set/db.esl").read_bytes())
    assert [entry.data for each in lists for entry in each.signatures] == [
        Path("set/db.der").read_bytes(), Path("modules/db.der").read_bytes(),
    ]  # fmt: skip
    assert Path("set/db-2.pem").read_bytes() == Path("modules/db.pem").read_bytes()
    assert "db-2.der" in Path("set/README.txt").read_text()
    assert run(["keys", "enrol", "set", "vars.fd", "--out", "enrolled.fd"]) == 0
    capfd.readouterr()
    for arguments, code, said in (
        (["--allow", "absent.pem"], 2, "absent.pem"),
        (["--allow", "uki.efi"], 3, "uki.efi"),
        (["--allow", "modules/db.pem", "--allow", "modules/db.pem"], 2, "twice"),
    ):
        assert run([*MAKE[:2], "other", *MAKE[3:], *arguments]) == code
        assert said in capfd.readouterr().err and not Path("other").exists()
    Path("other").mkdir()
    Path("other/db-2.pem").write_text("mine")
    assert run([*MAKE[:2], "other", *MAKE[3:], "--allow", "modules/db.pem"]) == 2
    assert Path("other/db-2.pem").read_text() == "mine"


def test_modules_are_signed_apart(capfd):
    assert run(MAKE) == 0
    capfd.readouterr()
    for name in ("one", "two"):
        Path(f"{name}.ko").write_bytes(b"\x7fELF " + name.encode())
    assert run(["keys", "sign-modules", "set", "one.ko", "two.ko", "--out", "out", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["files"] == ["out/one.ko.p7s", "out/two.ko.p7s", "out/modules.pem"]
    certificate = x509.load_pem_x509_certificate(Path("out/modules.pem").read_bytes())
    assert Path("out/modules.pem").read_bytes() == Path("set/db.pem").read_bytes()
    for name in ("one", "two"):
        check_module_signature(
            Path(f"{name}.ko").read_bytes(), Path(f"out/{name}.ko.p7s").read_bytes(), certificate
        )
    Path("signed.ko").write_bytes(sign_module(b"x", load_set("set"))[0])
    for arguments, code, said in (
        (["uki.efi"], 2, "expected a kernel module"),
        (["absent.ko"], 2, "absent.ko"),
        (["signed.ko"], 3, "signed already"),
        (["one.ko", "./one.ko"], 2, "would be of two modules"),
    ):
        assert run(["keys", "sign-modules", "set", *arguments, "--out", "none"]) == code
        assert said in capfd.readouterr().err and not Path("none").exists()


def load_set(folder):
    key, certificate = (Path(folder, f"db.{suffix}").read_bytes() for suffix in ("key", "pem"))
    return load_signer(key, certificate)


def test_images_are_forbidden_later(capfd):
    assert run(MAKE) == 0
    digest = pe.parse(Path("uki.efi").read_bytes()).authenticode(HashAlgorithm.SHA256).value
    assert run(["keys", "sign", "set", "uki.efi"]) == 0
    capfd.readouterr()
    forbid = ["keys", "forbid", "set", "--out", "update.auth", "--date", "2027-01-31", "--json"]
    assert run([*forbid, "uki.signed.efi", "cd" * 32]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "update": "update.auth",
        "forbids": [digest.hex(), "cd" * 32],
    }
    update = Path("update.auth").read_bytes()
    variable = read_update("dbx", update)
    assert variable.time.hex().startswith("eb07011f")
    (found,) = efivar.parse_signature_lists(variable.data)
    (before,) = efivar.parse_signature_lists(Path("set/dbx.esl").read_bytes())
    assert {entry.owner for entry in found.signatures} == {entry.owner for entry in before.signatures}
    end = 16 + int.from_bytes(update[16:20], "little")
    content = "dbx".encode("utf-16-le") + variable.guid.bytes_le + bytes.fromhex("67000000")
    signer = x509.load_pem_x509_certificate(Path("set/KEK.pem").read_bytes())
    signer.public_key().verify(
        update[end - 256 : end], content + variable.time + variable.data, PKCS1v15(), SHA256()
    )
    database = Path("set/db.esl").read_bytes()
    with pytest.raises(NotPredictableError, match="forbids"):
        authorise(pe.parse(Path("uki.signed.efi").read_bytes()), database, variable.data)
    assert run([*forbid, "ab" * 32, "ab" * 32]) == 3
    assert "twice" in capfd.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--bits", "1024"],
        ["--years", "0"],
        ["--valid-from", "tomorrow"],
        ["--name", ""],
        ["--valid-from", "1-1-1"],
    ],
)
def test_wrong_arguments(wrong, capfd):
    assert run([*MAKE, *wrong]) == 2
    assert capfd.readouterr().err.startswith("goldsmith: ") and not Path("set").exists()


def test_inputs_are_never_overwritten(capfd):
    assert run(MAKE) == 0
    Path("link").symlink_to("uki.efi")
    before = {name: Path(name).read_bytes() for name in ("uki.efi", "vars.fd")}
    for arguments in (
        ["sign", "set", "uki.efi", "--out", "uki.efi"],
        ["sign", "set", "uki.efi", "--out", "set/../uki.efi"],
        ["sign", "set", "uki.efi", "--out", "link"],
        ["attach", "uki.efi", "uki.efi", "--out", "./uki.efi"],
        ["enrol", "set", "vars.fd", "--out", "vars.fd"],
    ):
        assert run(["keys", *arguments]) == 2, arguments
        assert "would be overwritten" in capfd.readouterr().err
    assert before == {name: Path(name).read_bytes() for name in before}


def test_refusals_name_the_file(capfd):
    assert run(MAKE) == 0
    Path("odd.efi").write_bytes(pe_images.image(trailing=b"odd"))
    Path("junk.p7s").write_bytes(b"junk")
    for arguments, code, said in (
        (["enrol", "set", "used.fd", "--out", "out"], 3, "used.fd: .*expected an empty one"),
        (["enrol", "set", "uki.efi", "--out", "out"], 3, "uki.efi: "),
        (["enrol", "absent", "vars.fd", "--out", "out"], 2, "absent/PK.auth"),
        (["sign", "set", "odd.efi", "--out", "out"], 3, "odd.efi: .*multiple of 8"),
        (["sign", "set", "vars.fd", "--out", "out"], 3, "vars.fd: "),
        (["sign", "absent", "uki.efi", "--out", "out"], 2, "absent/db.pem"),
        (["attach", "uki.efi", "junk.p7s", "--out", "out"], 3, "junk.p7s"),
        (["attach", "uki.efi", "absent.p7s", "--out", "out"], 2, "absent.p7s"),
    ):
        assert run(["keys", *arguments]) == code, arguments
        assert re.search(said, capfd.readouterr().err, re.DOTALL), arguments
        assert not Path("out").exists()
    Path("set/db.pem").write_bytes(Path("set/PK.pem").read_bytes())
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert "db.key: " in capfd.readouterr().err
