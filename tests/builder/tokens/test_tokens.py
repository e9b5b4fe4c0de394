"""Tokens, against SoftHSM: what is found, what is refused, and who is asked for a PIN."""

from __future__ import annotations

import subprocess
import sys

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from builder.errors import BuilderError, TokenError, UsageError
from builder.image.secureboot.signer import DIGEST_INFO
from builder.tokens.ring import MAX_PIN_FILE, Tokens
from builder.tokens.uri import parse

KEY = rsa.generate_private_key(65537, 2048)
DIGEST = bytes(range(32))


@pytest.fixture
def token(soft_token):
    soft_token.put(KEY, "release key", "c0ffee")
    return soft_token


def find(uri, **options):
    with Tokens(**options) as tokens:
        return tokens.key(parse(uri))


def refusal(uri, **options):
    with pytest.raises(BuilderError) as caught:
        find(uri, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "attributes",
    [
        ["object=release%20key"],
        ["id=%c0%ff%ee"],
        ["object=release%20key", "id=%c0%ff%ee", "type=private"],
        [],
        ["model=SoftHSM%20v2", "manufacturer=SoftHSM%20project"],
        ["library-manufacturer=SoftHSM"],
    ],
)
def test_found_by_what_the_uri_says(token, attributes):
    key = find(token.uri(*attributes))
    assert key.public_key == KEY.public_key()
    assert key.uri.label == "release key" and key.uri.id == b"\xc0\xff\xee"
    assert find(str(key.uri)).public_key == KEY.public_key()
    assert token.pin not in repr(key) and token.pin not in str(key.uri)


def test_signs_as_the_same_key_in_a_file(token):
    with Tokens() as tokens:
        made = tokens.key(parse(token.uri("id=%c0%ff%ee"))).sign("RSA_PKCS", DIGEST_INFO + DIGEST)
    assert made == KEY.sign(DIGEST, padding.PKCS1v15(), Prehashed(SHA256()))


@pytest.mark.parametrize("attribute", ["object=other", "id=%01", "object=release%20key;id=%01"])
def test_keys_that_are_not_there(token, attribute):
    assert "no such private key" in refusal(token.uri(*attribute.split(";")))
    with Tokens() as tokens:
        assert tokens.find(parse(token.uri(*attribute.split(";")))) is None


@pytest.mark.parametrize(
    "attribute", ["serial=0", "model=HSM", "manufacturer=ACME", "slot-id=1", "library-version=9.9"]
)
def test_tokens_that_are_not_there(token, attribute):
    said = refusal(token.uri(attribute))
    assert "no such token; the module shows 'goldsmith' (serial " in said
    assert "no such token" in refusal(token.uri(token="other"))


def test_two_tokens_of_one_name(token):
    token.init("goldsmith")
    said = refusal(token.uri())
    assert "2 tokens fit" in said
    serial = said.split("(serial ")[1].split(")")[0]
    with Tokens() as tokens:
        tokens.find(parse(token.uri(f"serial={serial}")))


def test_two_keys_fit(token):
    token.put(rsa.generate_private_key(65537, 2048), "another key", "02")
    assert "2 private keys fit: 'another key', 'release key'" in refusal(token.uri())


def test_pins(token, tmp_path, monkeypatch):
    plain = token.uri(pin=False)
    assert "wants a PIN" in refusal(plain)
    assert find(plain, pin=token.pin)
    said = refusal(plain, pin="wrong PIN")
    assert said.endswith("logging in: the PIN is wrong") and "wrong PIN" not in said
    assert find(plain + "&pin-value=314%20%26%2015;92%25")
    assert "the PIN is wrong" in refusal(plain + "&pin-value=1111", pin=token.pin)
    for content in (b"", b"\n", b"\xff", b"a\0b", b"1" * (MAX_PIN_FILE + 1)):
        (tmp_path / "bad").write_bytes(content)
        assert "expected a PIN" in refusal(plain + f"&pin-source={tmp_path}/bad")
    assert "No such file" in refusal(plain + f"&pin-source={tmp_path}/absent")


def test_one_login_however_many_keys(token, monkeypatch):
    """A wrong PIN that is tried once for each key locks the token."""
    token.put(rsa.generate_private_key(65537, 2048), "another key", "02")
    from builder.tokens import token as layer

    logins = []
    login = layer.login
    monkeypatch.setattr(layer, "login", lambda *arguments: logins.append(1) or login(*arguments))
    with Tokens() as tokens:
        for label in ("release%20key", "another%20key", "release%20key"):
            tokens.key(parse(token.uri(f"object={label}")))
    assert len(logins) == 1


def test_modules(token, tmp_path):
    (tmp_path / "text.so").write_text("no module")
    assert "no PKCS #11 module is named" in refusal("pkcs11:token=goldsmith")
    assert "there is no such file" in refusal(f"pkcs11:?module-path={tmp_path}/absent.so")
    assert "there is no such file" in refusal("pkcs11:?module-path=libsofthsm2.so")
    assert "does not load" in refusal(f"pkcs11:?module-path={tmp_path}/text.so")
    extension = sys.modules["pkcs11._pkcs11"].__file__  # a library, and no module
    assert "does not load" in refusal(f"pkcs11:?module-path={extension}")
    assert find(token.uri(), module=str(token.module))
    assert "no such file" in refusal(token.uri(), module=str(tmp_path / "absent.so"))


def test_keys_are_made_to_stay(token):
    with Tokens() as tokens:
        key = tokens.generate_rsa(parse(token.uri("object=new")), 2048)
        assert key.public_key.key_size == 2048 and key.uri.label == "new"
        private = key._object
        for attribute, value in (
            ("TOKEN", True),
            ("PRIVATE", True),
            ("SENSITIVE", True),
            ("EXTRACTABLE", False),
            ("NEVER_EXTRACTABLE", True),
            ("ALWAYS_SENSITIVE", True),
            ("SIGN", True),
            ("DECRYPT", False),
            ("UNWRAP", False),
        ):
            assert private[pkcs11.Attribute[attribute]] is value, attribute
        with pytest.raises(pkcs11.AttributeSensitive):
            private[pkcs11.Attribute.PRIVATE_EXPONENT]
        signature = key.sign("RSA_PKCS", DIGEST_INFO + DIGEST)
        key.public_key.verify(signature, DIGEST, padding.PKCS1v15(), Prehashed(SHA256()))
    assert find(token.uri("object=new")).public_key == key.public_key
    with Tokens() as tokens:
        assert tokens.generate_rsa(parse(token.uri("object=n;id=%10%20")), 2048).uri.id == b"\x10\x20"
        with pytest.raises(UsageError, match="the label of the key to make"):
            tokens.generate_rsa(parse(token.uri("id=%10")), 2048)


def test_the_token_refuses(token):
    with Tokens() as tokens, pytest.raises(TokenError, match="making an RSA key of 64 bits: "):
        tokens.generate_rsa(parse(token.uri("object=tiny")), 64)
    with Tokens() as tokens, pytest.raises(TokenError, match="signing with CKM_ECDSA: "):
        tokens.key(parse(token.uri())).sign("ECDSA", DIGEST)
    with Tokens() as tokens, pytest.raises(TokenError, match="signing with CKM_RSA_PKCS: "):
        tokens.key(parse(token.uri())).sign("RSA_PKCS", bytes(1000))


def store(token, key, **attributes):
    """Store a private key alone, as tokens do that show little of it."""
    numbers = key.private_numbers()
    values = {
        "MODULUS": numbers.public_numbers.n,
        "PRIVATE_EXPONENT": numbers.d,
        "PRIME_1": numbers.p,
        "PRIME_2": numbers.q,
        "EXPONENT_1": numbers.dmp1,
        "EXPONENT_2": numbers.dmq1,
        "COEFFICIENT": numbers.iqmp,
    }
    template = {name: value.to_bytes((value.bit_length() + 7) // 8, "big") for name, value in values.items()}
    template |= {"CLASS": pkcs11.ObjectClass.PRIVATE_KEY, "KEY_TYPE": pkcs11.KeyType.RSA, "TOKEN": True}
    template |= {"LABEL": "stored", "SIGN": True, "SENSITIVE": True, **attributes}
    module = pkcs11.lib(str(token.module))
    try:
        with module.get_token(token_label="goldsmith").open(rw=True, user_pin=token.pin) as session:
            session.create_object({pkcs11.Attribute[name]: value for name, value in template.items()})
    finally:
        module.finalize()


def test_keys_that_want_the_pin_each_time(token):
    store(token, KEY, ALWAYS_AUTHENTICATE=True, PUBLIC_EXPONENT=b"\1\0\1")
    with Tokens() as tokens:
        key = tokens.key(parse(token.uri("object=stored")))
        for _ in range(2):
            signature = key.sign("RSA_PKCS", DIGEST_INFO + DIGEST)
            assert signature == KEY.sign(DIGEST, padding.PKCS1v15(), Prehashed(SHA256()))


def test_the_exponent_may_be_in_the_public_object_alone(token):
    store(token, KEY, ID=b"\x77")
    assert "0 public keys go with it" in refusal(token.uri("object=stored"))
    store(token, KEY, ID=b"\xc0\xff\xee", LABEL="beside")
    assert find(token.uri("object=beside")).public_key == KEY.public_key()


def test_keys_that_do_not_sign(token):
    store(token, KEY, SIGN=False, PUBLIC_EXPONENT=b"\1\0\1")
    assert "does not sign" in refusal(token.uri("object=stored"))


def test_keys_of_other_kinds(token):
    token.put(ec.generate_private_key(ec.SECP384R1()), "curve", "02")
    assert find(token.uri("object=curve")).public_key.curve.name == "secp384r1"
    token.put(ed25519.Ed25519PrivateKey.generate(), "edwards", "03")
    assert "EC_EDWARDS; expected RSA or ECDSA" in refusal(token.uri("object=edwards"))


def test_without_the_package():
    script = (
        "import sys; sys.modules['pkcs11'] = None\n"
        "from builder.tokens.ring import Tokens; from builder.tokens.uri import parse\n"
        "from builder.errors import TokenError\n"
        "try:\n    Tokens(module='/x').find(parse('pkcs11:'))\n"
        "except TokenError as error:\n    print(error, error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "python package pkcs11" in done.stdout.lower() and "goldsmith[pkcs11]" in done.stdout
