"""``goldsmith keys`` with keys in a PKCS #11 token: the same bytes as with files, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pe_images
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from builder.cli import run
from builder.image.secureboot import keyset
from builder.tokens.ring import Tokens
from builder.tokens.uri import parse

ROLES = ("PK", "KEK", "db")
WHO = ["--bits", "2048", "--valid-from", "2026-11-22", "--name", "Acme"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("uki.efi").write_bytes(pe_images.image())
    Path("driver.ko").write_bytes(b"\x7fELF and the rest of a module")


def make(name, *arguments):
    return run(["keys", "make", name, *WHO, *arguments])


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def both(soft_token):
    """One key set in files, and the same keys in a token."""
    assert make("files") == 0
    for number, role in enumerate(ROLES):
        key = load_pem_private_key(Path(f"files/{role}.key").read_bytes(), None)
        soft_token.put(key, f"Acme Secure Boot {role}", f"a{number}")
    assert make("set", "--pkcs11", soft_token.uri()) == 0
    return soft_token


def test_the_same_bytes_as_a_file_with_the_same_key(both):
    files, tokens = contents("files"), contents("set")
    public = set(files) - {f"{role}.key" for role in ROLES} - {"README.txt"}
    assert {name: tokens[name] for name in public} == {name: files[name] for name in public}
    assert set(tokens) - set(files) == {f"{role}.pkcs11" for role in ROLES}
    assert set(tokens) == keyset.file_names(in_tokens=True)
    assert set(files) == keyset.file_names(in_tokens=False)
    for name in ("files", "set"):
        assert run(["keys", "sign", name, "uki.efi", "--out", f"{name}.efi"]) == 0
        assert run(["keys", "forbid", name, "ab" * 32, "--out", f"{name}.auth", "--date", "2027-01-31"]) == 0
        assert run(["keys", "sign-modules", name, "driver.ko", "--out", f"{name}.modules"]) == 0
    assert Path("set.efi").read_bytes() == Path("files.efi").read_bytes()
    assert contents("set.modules") == contents("files.modules")
    assert Path("set.auth").read_bytes() == Path("files.auth").read_bytes()


def test_the_references(both, capfd):
    for number, role in enumerate(ROLES):
        path = Path(f"set/{role}.pkcs11")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == (
            f"pkcs11:token=goldsmith;id=%a{number};object=Acme%20Secure%20Boot%20{role};type=private"
            f"?module-path={both.module}&pin-source={both.folder}/pin\n"
        )
    readme = Path("set/README.txt").read_text()
    assert "The private keys are in tokens" in readme and "db.pkcs11" in readme and ".key" not in readme


def test_made_once_and_found_again(soft_token, capfd):
    assert make("first", "--pkcs11", soft_token.uri(), "--json") == 0
    first = json.loads(capfd.readouterr().out)
    assert first["made"] == ["PK", "KEK", "db"]
    assert make("second", "--pkcs11", soft_token.uri(), "--json") == 0
    second = json.loads(capfd.readouterr().out)
    assert second["made"] == [] and second["certificates"] == first["certificates"]
    assert contents("second") == contents("first")
    assert make("third", "--pkcs11", soft_token.uri()) == 0
    assert "db: the key was there already" in capfd.readouterr().out
    assert make("first", "--pkcs11", soft_token.uri()) == 2
    assert "never overwritten" in capfd.readouterr().err


def test_each_key_where_it_is_kept(soft_token, capfd):
    """The platform key in a token of its own, named by its id; the others by label."""
    soft_token.init("vault")
    key = rsa.generate_private_key(65537, 3072)
    soft_token.put(key, "owner", "0b", token="vault")
    places = [soft_token.uri(), f"PK={soft_token.uri('id=%0b', token='vault')}"]
    places += [f"db={soft_token.uri('object=releases', 'id=%10')}"]
    assert make("set", *(part for place in places for part in ("--pkcs11", place)), "--json") == 0
    assert json.loads(capfd.readouterr().out)["made"] == ["KEK", "db"]
    assert x509.load_pem_x509_certificate(Path("set/PK.pem").read_bytes()).public_key() == key.public_key()
    assert "id=%10;object=releases;" in Path("set/db.pkcs11").read_text()
    assert run(["keys", "sign", "set", "uki.efi"]) == 0


def test_the_pin_is_nowhere(soft_token, monkeypatch, capfd):
    pin = "314%20%26%2015;92%25"
    assert make("set", "--pkcs11", soft_token.uri(pin=False) + f"&pin-value={pin}") == 0
    told = capfd.readouterr()
    assert "can be read by everybody" in told.err
    for secret in (soft_token.pin, pin):
        assert secret not in told.out + told.err
        assert all(secret.encode() not in content for content in contents("set").values())
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert "wants a PIN" in capfd.readouterr().err
    monkeypatch.setenv("GOLDSMITH_PKCS11_PIN", soft_token.pin)
    assert run(["keys", "sign", "set", "uki.efi"]) == 0
    monkeypatch.setenv("GOLDSMITH_PKCS11_PIN", "wrong")
    monkeypatch.setenv("PIN", soft_token.pin)
    assert run(["keys", "sign", "set", "uki.efi", "--passphrase-env", "PIN"]) == 0


def test_wrong_pins_touch_nothing(soft_token, monkeypatch, capfd):
    monkeypatch.setenv("GOLDSMITH_PKCS11_PIN", "wrong")
    assert make("set", "--pkcs11", soft_token.uri(pin=False)) == 3
    assert "the PIN is wrong" in capfd.readouterr().err and not Path("set").exists()
    assert make("set", "--pkcs11", soft_token.uri()) == 0
    assert "already" not in capfd.readouterr().out  # nothing had been made


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--pkcs11", "{uri}", "--module", "/absent.so"], 3, "there is no such file"),
        (["--pkcs11", "{other}"], 3, "no such token; the module shows 'goldsmith'"),
        (["--pkcs11", "pkcs11:token=goldsmith"], 2, "no PKCS #11 module is named"),
        (["--pkcs11", "token=goldsmith"], 2, "expected one of PK, KEK, db"),
        (["--pkcs11", "goldsmith"], 2, "not a PKCS #11 URI"),
        (["--pkcs11", "{uri}", "--pkcs11", "{uri}"], 2, "given twice for all keys"),
        (["--pkcs11", "PK={uri}"], 2, "does not say where KEK, db is"),
        (["--pkcs11", "pkcs11:token=goldsmith;object=x"], 2, "one key for three roles"),
        (["--pkcs11", "{uri}", "--pkcs11", "db={curve}"], 3, "ECDSA key of 256 bits; expected RSA"),
        (["--pkcs11", "{uri}", "--pkcs11", "db={short}"], 3, "RSA key of 1024 bits; expected RSA of 2048"),
        (
            ["--pkcs11", "PK={one}", "--pkcs11", "KEK={one}", "--pkcs11", "{uri}"],
            2,
            "PK and KEK have one key",
        ),
        (["--pkcs11", "PK={new}", "--pkcs11", "db={new}", "--pkcs11", "{uri}"], 2, "PK and db have one key"),
        (["--pkcs11", "{uri}", "--name", ""], 2, "1 to 48 printable"),
        (["--pkcs11", "{uri}", "--years", "99"], 2, "expected 1 to 50 years"),
    ],
)
def test_refused(soft_token, arguments, code, said, capfd):
    soft_token.put(ec.generate_private_key(ec.SECP256R1()), "curve", "02")
    soft_token.put(rsa.generate_private_key(65537, 1024), "short", "03")
    soft_token.put(rsa.generate_private_key(65537, 2048), "one", "04")
    names = {name: soft_token.uri(f"object={name}") for name in ("curve", "short", "one", "new")}
    names |= {"uri": soft_token.uri(), "other": soft_token.uri(token="other")}
    assert make("set", *(argument.format(**names) for argument in arguments)) == code
    assert said in capfd.readouterr().err and not Path("set").exists()
    with Tokens() as tokens:  # and no key was made for nothing
        for label in ("new", *(f"Acme%20Secure%20Boot%20{role}" for role in ROLES)):
            assert tokens.find(parse(soft_token.uri(f"object={label}"))) is None


def test_another_key_under_the_same_name_is_noticed(both, capfd):
    both.util("--delete-token", "--token", "goldsmith")
    both.init("goldsmith")
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert re.search("set/db.pkcs11: .*holds no such private key", capfd.readouterr().err)
    both.put(rsa.generate_private_key(65537, 2048), "Acme Secure Boot db", "a2")
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert re.search("set/db.pkcs11: .*does not belong to the certificate", capfd.readouterr().err)
    assert not Path("uki.signed.efi").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"db.key\n", b"pkcs11:token\n", bytes(1 << 16)])
def test_broken_references(both, content, capfd):
    Path("set/db.pkcs11").write_bytes(content)
    assert run(["keys", "sign", "set", "uki.efi"]) in (2, 3)
    assert "set/db.pkcs11" in capfd.readouterr().err and not Path("uki.signed.efi").exists()


def test_the_module_may_be_elsewhere(both, capfd):
    path = Path("set/db.pkcs11")
    path.write_text(path.read_text().replace(str(both.module), "/elsewhere/module.so"))
    assert run(["keys", "sign", "set", "uki.efi"]) == 3
    assert "no such file" in capfd.readouterr().err
    assert run(["keys", "sign", "set", "uki.efi", "--module", str(both.module)]) == 0
