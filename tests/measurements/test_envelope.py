import base64
import json

import pytest
from attester import SIGNING_KEY, VECTORS, document, prediction, signed
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import envelope, golden, keys
from measurements.envelope import (
    VerifiedPayload,
    add_signatures,
    parse_statement,
    pre_authentication_encoding,
    sign_document,
    statement_of,
    unverified_document,
    verify_envelope,
)
from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError

PUBLIC = SIGNING_KEY.public()
OTHER = keys.generate(keys.KeyAlgorithm.ED25519)


def payload(statement: object) -> VerifiedPayload:
    import rfc8785

    return VerifiedPayload(payload=rfc8785.dumps(statement), key_ids=())


def test_pae_is_the_one_of_the_dsse_specification():
    # protocol.md of secure-systems-lab/dsse, "Test Vectors"
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256"])
def test_an_envelope_of_securesystemslib_verifies(kind):
    # securesystemslib 1.6.0, Envelope.sign; tests/vectors/README.md
    vector = json.loads((VECTORS / "dsse" / "securesystemslib-1.6.0.json").read_bytes())[kind]
    key = keys.load_public_key(vector["public"].encode())
    verified = verify_envelope(json.dumps(vector["envelope"]).encode(), [key])
    assert verified.payload == base64.b64decode(vector["envelope"]["payload"])
    assert parse_statement(verified).image.name == "base"


@pytest.mark.parametrize("algorithm", list(keys.KeyAlgorithm))
def test_every_algorithm_signs_the_same_bytes_twice_and_verifies(algorithm):
    key = keys.generate(algorithm)
    first = sign_document(document(), [key])
    assert first == sign_document(document(), [keys.load_private_key(key.pem())])
    verified = verify_envelope(first, [key.public()])
    assert verified.key_ids == (key.public().key_id,)
    assert parse_statement(verified) == document()


def test_key_id_is_the_sha256_of_the_public_key_info():
    # openssl pkey -pubout -outform DER | sha256sum, of RFC 8410's example key (10.1)
    pem = (
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        b"-----END PUBLIC KEY-----\n"
    )
    assert keys.load_public_key(pem).key_id == (
        "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f"
    )


def test_several_signatures_and_a_threshold():
    both = sign_document(document(), [SIGNING_KEY, OTHER])
    trusted = [PUBLIC, OTHER.public()]
    assert len(verify_envelope(both, trusted, threshold=2).key_ids) == 2
    with pytest.raises(SignatureError, match="1 of 2 trusted keys"):
        verify_envelope(signed(), trusted, threshold=2)


def test_one_key_signing_twice_counts_once():
    value = json.loads(signed())
    value["signatures"] = [{**value["signatures"][0], "keyid": str(number)} for number in range(3)]
    with pytest.raises(SignatureError, match="1 of 2 trusted keys"):
        verify_envelope(json.dumps(value).encode(), [PUBLIC, OTHER.public()], threshold=2)


def test_one_key_trusted_twice_counts_once():
    with pytest.raises(SignatureError, match="threshold 2 of 1 distinct"):
        verify_envelope(signed(), [PUBLIC, PUBLIC], threshold=2)


@pytest.mark.parametrize("threshold", [0, -1, 2])
def test_a_threshold_that_makes_no_sense_is_refused(threshold):
    with pytest.raises(SignatureError, match="threshold"):
        verify_envelope(signed(), [PUBLIC], threshold=threshold)


def test_no_trusted_key_is_refused():
    with pytest.raises(SignatureError):
        verify_envelope(signed(), [])


def test_the_key_id_decides_nothing():
    value = json.loads(signed())
    value["signatures"][0]["keyid"] = OTHER.public().key_id
    assert verify_envelope(json.dumps(value).encode(), [PUBLIC]).key_ids == (PUBLIC.key_id,)
    with pytest.raises(SignatureError):
        verify_envelope(json.dumps(value).encode(), [OTHER.public()])


def test_changed_payload_is_refused():
    value = json.loads(signed())
    body = base64.b64decode(value["payload"]).replace(b'"svn":3', b'"svn":9')
    value["payload"] = base64.b64encode(body).decode()
    with pytest.raises(SignatureError):
        verify_envelope(json.dumps(value).encode(), [PUBLIC])


def test_signature_for_another_payload_type_is_refused():
    # the type is under the signature: bytes signed as something else are no statement
    body = statement_of(document())
    signature = SIGNING_KEY.sign(pre_authentication_encoding("text/plain", body))
    value = {
        "payload": base64.b64encode(body).decode(),
        "payloadType": envelope.PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    with pytest.raises(SignatureError):
        verify_envelope(json.dumps(value).encode(), [PUBLIC])
    with pytest.raises(FormatError, match="payloadType"):
        verify_envelope(json.dumps({**value, "payloadType": "text/plain"}).encode(), [PUBLIC])


def test_url_safe_base64_and_unknown_names_are_accepted():
    # envelope.md: either alphabet; consumers must ignore unrecognized fields
    value = json.loads(signed())
    value["payload"] = value["payload"].replace("+", "-").replace("/", "_")
    value["comment"] = {"a": 1}
    value["signatures"][0]["extension"] = []
    assert verify_envelope(json.dumps(value).encode(), [PUBLIC]).payload == statement_of(document())


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "AB=="},  # bits behind the last byte
        {"payload": "AA"},
        {"payload": "AA==\n"},
        {"payload": "+_=="},
        {"payload": 7},
        {"signatures": []},
        {"signatures": {}},
        {"signatures": [{}]},
        {"signatures": [{"sig": "AA=="}] * 17},
        {"payloadType": None},
    ],
)
def test_malformed_envelopes_are_refused(change):
    with pytest.raises(FormatError):
        verify_envelope(json.dumps({**json.loads(signed()), **change}).encode(), [PUBLIC])


def test_an_oversized_envelope_is_refused():
    with pytest.raises(LimitError):
        verify_envelope(b" " * (envelope.MAX_ENVELOPE_BYTES + 1), [PUBLIC])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "_type"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "predicateType"),
        ({"extra": 1}, "unknown name"),
        ({"subject": [{"name": "disk.raw", "digest": {"sha256": "55" * 32}}]}, "subjects"),
        ({"predicate": {}}, "golden document"),
    ],
)
def test_statements_about_something_else_are_refused(change, message):
    statement = {**json.loads(statement_of(document())), **change}
    with pytest.raises(FormatError, match=message):
        parse_statement(payload(statement))


def test_a_statement_that_is_not_canonical_is_refused():
    body = json.dumps(json.loads(statement_of(document()))).encode()
    with pytest.raises(FormatError, match="canonical"):
        parse_statement(VerifiedPayload(payload=body, key_ids=()))


def test_signing_wants_distinct_keys():
    with pytest.raises(SignatureError, match="twice"):
        sign_document(document(), [SIGNING_KEY, SIGNING_KEY])
    with pytest.raises(SignatureError, match="0 keys"):
        sign_document(document(), [])


def test_private_keys_load_with_their_passphrase_only():
    key = keys.generate(keys.KeyAlgorithm.ECDSA_P384)
    pem = key.pem(b"secret")
    assert keys.load_private_key(pem, b"secret").public().key_id == key.public().key_id
    for passphrase in (None, b"wrong"):
        with pytest.raises(FormatError):
            keys.load_private_key(pem, passphrase)
    with pytest.raises(FormatError):
        keys.load_private_key(key.pem(), b"needless")


def test_a_key_shows_no_secret():
    assert repr(SIGNING_KEY) == f"PrivateKey({PUBLIC.key_id})"


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_junk_is_no_key(data):
    with pytest.raises(FormatError):
        keys.load_public_key(data)
    with pytest.raises(FormatError):
        keys.load_private_key(data)


def test_other_kinds_of_keys_are_refused():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP521R1())):
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with pytest.raises(SignatureError, match="expected"):
            keys.load_private_key(pem)
    with pytest.raises(LimitError):
        keys.load_public_key(b"x" * (keys.MAX_PEM_BYTES + 1))


SMALL = signed(document(prediction()))


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_envelopes_never_escape(data):
    mutated = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    for candidate in (bytes(mutated), bytes(mutated[:cut])):
        try:
            verified = verify_envelope(candidate, [PUBLIC])
        except MeasurementError:
            continue
        # only bytes outside payload and signature may have changed
        assert verified.payload == statement_of(document(prediction()))


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_envelope(data):
    with pytest.raises(MeasurementError):
        verify_envelope(data, [PUBLIC])


def test_signatures_are_added_one_by_one():
    second, third = (keys.generate(keys.KeyAlgorithm(name)) for name in ("ecdsa-p256", "ecdsa-p384"))
    thrice = add_signatures(add_signatures(sign_document(document(), [SIGNING_KEY]), [second]), [third])
    trusted = [key.public() for key in (SIGNING_KEY, second, third)]
    verified = verify_envelope(thrice, trusted, threshold=3)
    assert parse_statement(verified) == unverified_document(thrice) == document()
    assert json.loads(thrice)["payload"] == json.loads(sign_document(document(), [second]))["payload"]


def test_a_key_signs_an_envelope_once():
    value = json.loads(sign_document(document(), [SIGNING_KEY]))
    value["signatures"][0]["keyid"] = "somebody else"  # a hint, which hides nothing
    with pytest.raises(SignatureError, match="has signed this envelope already"):
        add_signatures(json.dumps(value).encode(), [SIGNING_KEY])


def test_an_envelope_holds_so_many_signatures():
    value = json.loads(sign_document(document(), [SIGNING_KEY]))
    value["signatures"] = [{"sig": "AAAA"}] * 16
    with pytest.raises(SignatureError, match="17 signatures"):
        add_signatures(json.dumps(value).encode(), [SIGNING_KEY])


def test_only_golden_documents_get_another_signature():
    value = json.loads(sign_document(document(), [SIGNING_KEY]))
    value["payload"] = base64.b64encode(b'{"a":1}').decode()
    with pytest.raises(FormatError, match="in-toto statement"):
        add_signatures(json.dumps(value).encode(), [SIGNING_KEY])


def test_a_document_without_an_envelope_is_called_so():
    with pytest.raises(FormatError, match="without any signature"):
        verify_envelope(golden.to_pretty(document()), [SIGNING_KEY.public()])
