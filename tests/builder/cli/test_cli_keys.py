"""``goldsmith keygen`` and ``goldsmith sign``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from attester import document
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from builder.cli import run
from measurements import golden
from measurements.envelope import parse_statement, verify_envelope
from measurements.keys import load_private_key, load_public_key


@pytest.fixture(autouse=True)
def files():
    """A golden document in the form of a release folder."""
    Path("golden.json").write_bytes(golden.to_pretty(document()))


def signers(path, *names):
    """Return how many of the named keys signed the envelope, after its document was compared."""
    keys = [load_public_key(Path(name).read_bytes()) for name in names]
    verified = verify_envelope(Path(path).read_bytes(), keys)
    assert parse_statement(verified) == document()
    return len(verified.key_ids)


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256", "ecdsa-p384"])
def test_a_made_key_signs(capfd, algorithm):
    assert run(["keygen", "key", "--algorithm", algorithm, "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert Path("key").stat().st_mode & 0o777 == 0o600
    assert made["keyid"] == load_public_key(Path("key.pub").read_bytes()).key_id
    assert run(["sign", "golden.json", "--key", "key", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told == {
        "envelope": "golden.dsse.json",
        "image": {"name": "base", "version": "0.1.0", "svn": 3},
        "signed_by": [made["keyid"]],
    }
    assert signers("golden.dsse.json", "key.pub") == 1


def test_keys_are_never_overwritten(capfd):
    assert run(["keygen", "key"]) == 0
    before = Path("key").read_bytes()
    assert run(["keygen", "key"]) == 2
    assert "never overwritten" in capfd.readouterr().err and Path("key").read_bytes() == before
    Path("key").unlink()
    assert run(["keygen", "key"]) == 2  # key.pub is still there


def test_encrypted_keys_need_their_passphrase(monkeypatch, capfd):
    assert run(["keygen", "key", "--passphrase-env", "PHRASE"]) == 2
    assert "PHRASE is not set" in capfd.readouterr().err
    monkeypatch.setenv("PHRASE", "correct horse")
    assert run(["keygen", "key", "--passphrase-env", "PHRASE"]) == 0
    assert b"ENCRYPTED PRIVATE KEY" in Path("key").read_bytes()
    assert run(["sign", "golden.json", "--key", "key"]) == 3
    assert "GOLDSMITH_SIGNING_KEY_PASSPHRASE" in capfd.readouterr().err
    monkeypatch.setenv("GOLDSMITH_SIGNING_KEY_PASSPHRASE", "correct horse")
    assert run(["sign", "golden.json", "--key", "key"]) == 0
    load_private_key(Path("key").read_bytes(), b"correct horse")


def test_the_key_may_come_from_the_environment(monkeypatch, capfd):
    assert run(["sign", "golden.json"]) == 2
    assert "GOLDSMITH_SIGNING_KEY" in capfd.readouterr().err
    run(["keygen", "key"])
    monkeypatch.setenv("GOLDSMITH_SIGNING_KEY", Path("key").read_text())
    assert run(["sign", "golden.json", "--out", "signed"]) == 0
    assert signers("signed", "key.pub") == 1
    monkeypatch.setenv("GOLDSMITH_SIGNING_KEY", "not a key")
    assert run(["sign", "golden.json", "--out", "more"]) == 3
    assert "GOLDSMITH_SIGNING_KEY: " in capfd.readouterr().err and not Path("more").exists()


def test_several_signatures_at_once_and_one_by_one(capfd):
    for name, algorithm in (("a", "ed25519"), ("b", "ecdsa-p256"), ("c", "ecdsa-p384")):
        run(["keygen", name, "--algorithm", algorithm])
    assert run(["sign", "golden.json", "--key", "a", "--key", "b"]) == 0
    both = Path("golden.dsse.json").read_bytes()
    assert run(["sign", "golden.json", "--key", "c"]) == 2
    assert "--append" in capfd.readouterr().err and Path("golden.dsse.json").read_bytes() == both
    assert run(["sign", "golden.json", "--key", "c", "--append"]) == 0
    assert signers("golden.dsse.json", "a.pub", "b.pub", "c.pub") == 3
    assert run(["sign", "golden.json", "--key", "a", "--append"]) == 3
    assert "has signed this envelope already" in capfd.readouterr().err
    assert run(["sign", "golden.json", "--key", "a", "--key", "a", "--out", "twice"]) == 3
    assert "given twice" in capfd.readouterr().err and not Path("twice").exists()


def test_an_envelope_is_signed_once_more(capfd):
    for name in ("a", "b"):
        run(["keygen", name])
    run(["sign", "golden.json", "--key", "a"])
    assert run(["sign", "golden.dsse.json", "--key", "b", "--out", "both"]) == 0
    assert signers("both", "a.pub", "b.pub") == 2 and signers("golden.dsse.json", "a.pub", "b.pub") == 1
    assert run(["sign", "golden.dsse.json", "--key", "b", "--out", "both"]) == 2
    assert run(["sign", "golden.dsse.json", "--key", "b"]) == 0
    assert signers("golden.dsse.json", "a.pub", "b.pub") == 2


def test_signatures_of_unknown_writers_survive(capfd):
    for name in ("a", "b"):
        run(["keygen", name])
    run(["sign", "golden.json", "--key", "a"])
    envelope = json.loads(Path("golden.dsse.json").read_bytes())
    envelope["signatures"].append({"sig": "AAAA"})  # no keyid: it is optional (DSSE envelope.md)
    Path("golden.dsse.json").write_text(json.dumps(envelope))
    assert run(["sign", "golden.dsse.json", "--key", "b"]) == 0
    written = json.loads(Path("golden.dsse.json").read_bytes())["signatures"]
    assert written[:2] == envelope["signatures"] and len(written) == 3


def test_another_documents_envelope_is_not_appended_to(capfd):
    run(["keygen", "key"])
    run(["sign", "golden.json", "--key", "key"])
    Path("golden.json").write_bytes(golden.to_pretty(replace(document(), source_date_epoch=1)))
    assert run(["sign", "golden.json", "--key", "key", "--append"]) == 2
    assert "another document" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[]", b'{"payload": "x"}', b'{"format": "x"}', b"\xff"])
def test_only_golden_documents_are_signed(capfd, content):
    run(["keygen", "key"])
    Path("junk.json").write_bytes(content)
    assert run(["sign", "junk.json", "--key", "key"]) == 3
    assert "junk.json: " in capfd.readouterr().err and not Path("junk.dsse.json").exists()


def test_a_public_key_does_not_sign(capfd):
    run(["keygen", "key"])
    assert run(["sign", "golden.json", "--key", "key.pub"]) == 3
    assert "key.pub: private key" in capfd.readouterr().err


@pytest.mark.parametrize(("curve", "name"), [(ec.SECP256R1(), "ecdsa-p256"), (ec.SECP384R1(), "ecdsa-p384")])
def test_keys_in_tokens_sign(soft_token, curve, name, capfd):
    key = ec.generate_private_key(curve)
    soft_token.put(key, "document key")
    Path("token.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    run(["keygen", "file"])
    capfd.readouterr()
    signed = ["--key", "file", "--key", soft_token.uri("object=document%20key")]
    assert run(["sign", "golden.json", *signed, "--json"]) == 0
    ids = [load_public_key(Path(path).read_bytes()) for path in ("file.pub", "token.pub")]
    assert ids[1].algorithm == name
    told = json.loads(capfd.readouterr().out)
    assert told["signed_by"] == [each.key_id for each in ids]
    assert signers("golden.dsse.json", "token.pub") == 1
    assert signers("golden.dsse.json", "token.pub", "file.pub") == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RSA key of 2048 bits; expected ECDSA"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "curve secp521r1; expected P-256 or P-384"),
    ],
)
def test_keys_in_tokens_that_do_not_fit(soft_token, key, said, capfd):
    soft_token.put(key(), "key")
    assert run(["sign", "golden.json", "--key", soft_token.uri()]) == 3
    assert said in capfd.readouterr().err and not Path("golden.dsse.json").exists()
    assert run(["sign", "golden.json", "--key", soft_token.uri(token="other")]) == 3
    assert "no such token" in capfd.readouterr().err


def test_a_token_whose_halves_do_not_belong_together(soft_token, monkeypatch, capfd):
    from builder.tokens.token import TokenKey

    soft_token.put(ec.generate_private_key(ec.SECP256R1()), "key")
    sign = TokenKey.sign
    monkeypatch.setattr(TokenKey, "sign", lambda self, mechanism, data: sign(self, mechanism, data[::-1]))
    assert run(["sign", "golden.json", "--key", soft_token.uri()]) == 3
    assert "does not verify" in capfd.readouterr().err and not Path("golden.dsse.json").exists()
