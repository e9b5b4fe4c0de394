"""PKCS #11 URIs; the examples are those of RFC 7512, section 3, made to name private keys."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.tokens.uri import MAX_URI_LENGTH, TOKEN_ATTRIBUTES, TokenUri, parse


def test_a_software_token():
    uri = parse(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
        "object=my-certificate;type=private;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
    )
    assert dict(uri.token) == {
        "token": "The Software PKCS#11 Softtoken",
        "manufacturer": "Snake Oil, Inc.",
        "model": "1.0",
        "serial": "",
    }
    assert uri.label == "my-certificate" and uri.id == bytes.fromhex("69953e5cf4bdec91")
    assert uri.pin_source == "/etc/token_pin" and uri.pin is None and uri.module is None


def test_a_slot_and_a_module():
    uri = parse("pkcs11:slot-description=Sun%20Metaslot?module-path=/mnt/libmypkcs11.so.1")
    assert uri.token == (("slot-description", "Sun Metaslot"),) and not uri.names_a_key
    assert uri.module == "/mnt/libmypkcs11.so.1"


def test_characters_outside_ascii():
    assert parse("pkcs11:object=%e5%84%bf%e6%ad%8c").label == "儿歌"
    assert parse("pkcs11:").token == ()


def test_the_pin_is_never_written():
    uri = parse("pkcs11:token=T;object=a%3Bb?pin-value=12%2634&module-path=/a%26b.so")
    assert uri.pin == "12&34" and uri.module == "/a&b.so"
    assert "12" not in str(uri) and "12" not in repr(uri)
    assert str(uri) == "pkcs11:token=T;object=a%3Bb;type=private?module-path=/a%26b.so"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/etc/pin", "/etc/pin"),
        ("file:/etc/pin", "/etc/pin"),
        ("file:///etc/pin", "/etc/pin"),
        ("file://localhost/etc/pin", "/etc/pin"),
        ("file:///etc/my%20pin", "/etc/my pin"),
    ],
)
def test_where_the_pin_is(source, path):
    assert parse(f"pkcs11:?pin-source={source}").pin_source == path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a PKCS #11 URI"),
        ("PKCS11:token=T", "not a PKCS #11 URI"),
        ("token=T", "not a PKCS #11 URI"),
        ("pkcs11:token", "attribute 'token' is not known"),
        ("pkcs11:tokn=T", "attribute 'tokn' is not known"),
        ("pkcs11:x-vendor=T", "x-vendor"),
        ("pkcs11:token=T?module-name=softhsm", "module-name"),
        ("pkcs11:token=T;token=U", "twice"),
        ("pkcs11:token=T;;", "attribute ''"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:token=%0", "two hexadecimal digits"),
        ("pkcs11:token=a%00b", "NUL"),
        ("pkcs11:type=public", "type=private"),
        ("pkcs11:object=", "object is empty"),
        ("pkcs11:id=", "id is empty"),
        ("pkcs11:?pin-value=1234&pin-source=/etc/pin", "expected one of them"),
        ("pkcs11:?pin-source=|/usr/lib/pinomatic", "is a command"),
        ("pkcs11:?pin-source=file://elsewhere/pin", "'elsewhere'"),
        ("pkcs11:?pin-source=pin", "absolute"),
        ("pkcs11:" + "x" * MAX_URI_LENGTH, "the limit is"),
    ],
)
def test_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert said in str(caught.value) and "1234" not in str(caught.value)


@settings(max_examples=150)
@given(
    st.builds(
        TokenUri,
        token=st.dictionaries(
            st.sampled_from(TOKEN_ATTRIBUTES), st.text(st.characters(exclude_characters="\0", codec="utf-8"))
        ).map(lambda found: tuple(found.items())),
        label=st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
        id=st.none() | st.binary(min_size=1, max_size=20),
        module=st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
        pin_source=st.none()
        | st.text(st.characters(exclude_characters="\0", codec="utf-8")).map(lambda text: f"/{text}"),
        pin=st.none() | st.just("secret pin"),
    )
)
def test_what_is_written_is_read_again(uri):
    text = str(uri)
    assert text.isascii() and "secret" not in text
    assert parse(text) == dataclasses.replace(uri, pin=None)


@settings(max_examples=200)
@given(st.text(max_size=100) | st.from_regex(r"pkcs11:[a-z;=%0-9-]*\?[a-z&=%/:-]*", fullmatch=True))
def test_nothing_but_usage_errors(text):
    with contextlib.suppress(UsageError):
        parse(text)
