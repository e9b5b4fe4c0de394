import base64
import json
from dataclasses import replace

import pytest
from attester import (
    AK,
    BANKS,
    NONCE,
    OTHER_AK,
    PHASES,
    VECTORS,
    Machine,
    sign_attest,
    write_attest,
    write_userspace,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import evidence
from measurements.attestation_key import load_attestation_key
from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError
from measurements.events import Digest, HashAlgorithm
from measurements.evidence import document as limits
from measurements.evidence import parse_quote, parse_signature, parse_userspace_log
from measurements.evidence.tpm import MAX_ATTEST_BYTES, RSAPSS, RSASSA, digest_of_registers, verify_signature

VALUE = Machine().evidence()
SWTPM = sorted((VECTORS / "quote").glob("swtpm-*.json"))


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def test_there_are_vectors_of_every_scheme():
    assert [path.stem for path in SWTPM] == [
        "swtpm-ecdsa-p256-sha256",
        "swtpm-ecdsa-p384-sha384",
        "swtpm-rsapss-sha256",
        "swtpm-rsassa-sha256",
    ]


@pytest.mark.parametrize("path", SWTPM, ids=lambda path: path.stem)
def test_real_quotes_parse_and_verify(path):
    # made by swtpm 0.7.1 with restricted keys; tests/vectors/README.md
    found = evidence.parse(path.read_bytes())
    key = load_attestation_key(found.attestation_key)
    for item in found.quotes:
        quote, signature = parse_quote(item.attest), parse_signature(item.signature)
        verify_signature(key, signature, item.attest)
        assert quote.extra_data == found.nonce == NONCE
        assert [(part.bank, part.registers) for part in quote.selections] == [
            (item.bank, frozenset(range(16)))
        ]
        assert digest_of_registers(dict(item.registers), signature.hash) == quote.pcr_digest
        with pytest.raises(SignatureError):
            verify_signature(key, signature, item.attest[:-1] + b"\0")
    assert [record.text for record in parse_userspace_log(found.userspace_log)] == list(PHASES)


def test_a_quotes_fields_are_where_the_specification_puts_them():
    values = {index: Digest.of(HashAlgorithm.SHA256, bytes([index])) for index in (0, 7, 23)}
    quote = parse_quote(write_attest(HashAlgorithm.SHA256, values, nonce=b"n" * 20))
    assert quote.extra_data == b"n" * 20
    assert (quote.clock, quote.reset_count, quote.restart_count, quote.safe, quote.firmware_version) == (
        1000,
        1,
        0,
        True,
        1,
    )
    assert quote.selections[0].registers == {0, 7, 23}


def test_the_evidence_file_survives_the_round_trip():
    found = evidence.parse(text(VALUE))
    assert evidence.parse(evidence.serialize(found)) == found
    without = replace(found, userspace_log=None)
    assert evidence.parse(evidence.serialize(without)) == without
    assert [quote.bank for quote in found.quotes] == list(BANKS)


def test_unpadded_or_huge_parts_are_refused():
    big = base64.b64encode(bytes(limits.MAX_EVENT_LOG_BYTES + 1)).decode()
    with pytest.raises(LimitError):
        evidence.parse(text({**VALUE, "event_log": big}))
    with pytest.raises(LimitError):
        evidence.parse(b" " * (limits.MAX_EVIDENCE_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "goldsmith-evidence/2"},
        {"extra": 1},
        {"nonce": "00" * 15},
        {"nonce": "00" * 65},
        {"nonce": "AA" * 16},
        {"nonce": None},
        {"attestation_key": {"public": "x"}},
        {"attestation_key": {"public": "x", "certificates": [1]}},
        {"attestation_key": {"public": "x", "certificates": ["x"] * 9}},
        {"attestation_key": {"public": "x", "certificates": [], "private": "x"}},
        {"quotes": []},
        {"quotes": VALUE["quotes"] * 2},
        {"quotes": [{**VALUE["quotes"][0], "bank": "md5"}]},
        {"quotes": [{**VALUE["quotes"][0], "bank": "sha256"}]},  # values of another length
        {"quotes": [{**VALUE["quotes"][0], "pcrs": {"24": "00" * 20}}]},
        {"quotes": [{**VALUE["quotes"][0], "pcrs": {"01": "00" * 20}}]},
        {"quotes": [{**VALUE["quotes"][0], "pcrs": []}]},
        {"quotes": [{**VALUE["quotes"][0], "attest": "%%%%"}]},
        {"event_log": None},
        {"event_log": "AAAA\n"},
        {"userspace_log": 5},
    ],
    ids=lambda item: str(item)[:60],
)
def test_malformed_evidence_is_refused(change):
    with pytest.raises(FormatError):
        evidence.parse(text({**VALUE, **change}))


@pytest.mark.parametrize("name", list(VALUE))
def test_missing_names_are_refused(name):
    with pytest.raises(FormatError, match="missing"):
        evidence.parse(text({key: value for key, value in VALUE.items() if key != name}))


VALUES = Machine().values(HashAlgorithm.SHA256)
ATTEST = write_attest(HashAlgorithm.SHA256, VALUES)
SIGNATURE = sign_attest(ATTEST)


def test_foreign_magic_and_type_are_refused():
    # TPM_ST_ATTEST_CERTIFY 0x8017; a restricted key signs nothing that starts with TPM_GENERATED_VALUE itself
    with pytest.raises(FormatError, match="TPM_GENERATED_VALUE"):
        parse_quote(write_attest(HashAlgorithm.SHA256, VALUES, magic=0))
    with pytest.raises(FormatError, match="TPM_ST_ATTEST_QUOTE"):
        parse_quote(write_attest(HashAlgorithm.SHA256, VALUES, kind=0x8017))


def test_every_truncation_and_a_trailing_byte_are_refused():
    for data, parse in ((ATTEST, parse_quote), (SIGNATURE, parse_signature)):
        parse(data)
        for size in range(len(data)):
            with pytest.raises(FormatError):
                parse(data[:size])
        with pytest.raises(FormatError, match="follow its end"):
            parse(data + b"\0")
    with pytest.raises(LimitError):
        parse_quote(ATTEST + bytes(MAX_ATTEST_BYTES))


def test_weak_or_unknown_schemes_are_refused():
    with pytest.raises(FormatError, match="SHA-1"):
        parse_signature(bytes.fromhex("00180004") + SIGNATURE[4:])
    with pytest.raises(FormatError, match="scheme"):
        parse_signature(bytes.fromhex("0005000b") + SIGNATURE[4:])  # HMAC
    with pytest.raises(FormatError, match="unknown hash"):
        parse_signature(bytes.fromhex("00180012") + SIGNATURE[4:])  # SM3


def test_signature_of_another_key_or_kind_is_refused():
    with pytest.raises(SignatureError, match="does not hold"):
        verify_signature(AK.public_key(), parse_signature(sign_attest(ATTEST, OTHER_AK)), ATTEST)
    for scheme in (RSASSA, RSAPSS):
        with pytest.raises(SignatureError, match="another kind"):
            verify_signature(AK.public_key(), replace(parse_signature(SIGNATURE), scheme=scheme), ATTEST)


def test_userspace_log_of_systemd():
    # RFC 7464: 0x1e, JSON text, line feed; names as systemd 257 writes them, one of them unknown to us
    record = {
        "pcr": 15,
        "digests": [{"hashAlg": "sha256", "digest": "ab" * 32}, {"hashAlg": "sm3_256", "digest": "??"}],
        "content_type": "systemd",
        "content": {"eventType": "machine-id", "string": "machine-id:x", "new": [15, None]},
        "future": {"a": []},
    }
    (found,) = parse_userspace_log(b"\x1e" + text(record) + b"\n")
    assert (found.register, found.event_type, found.text) == (15, "machine-id", "machine-id:x")
    assert found.digests == {HashAlgorithm.SHA256: Digest(HashAlgorithm.SHA256, b"\xab" * 32)}
    assert parse_userspace_log(b"") == ()


@pytest.mark.parametrize(
    "data",
    [
        b"{}\n",
        b"\x1e{}\n",
        b"\x1e",
        b"\x1e\x1e",
        b"\x1enull\n",
        write_userspace([(11, "ready")])[:-1],
        write_userspace([(11, "ready")])[:-9],
        b'\x1e{"pcr":24,"digests":[{"hashAlg":"sha256","digest":"' + b"00" * 32 + b'"}]}\n',
        b'\x1e{"pcr":1,"digests":[]}\n',
        b'\x1e{"pcr":1,"digests":[{"hashAlg":"sha256","digest":"00"}]}\n',
        b'\x1e{"pcr":1,"pcr":2,"digests":[{"hashAlg":"sha256","digest":"' + b"00" * 32 + b'"}]}\n',
        b"\x1e" * 5000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_malformed_userspace_logs_are_refused(data):
    with pytest.raises(FormatError):
        parse_userspace_log(data)


SAMPLES = [
    (parse_quote, ATTEST),
    (parse_signature, SIGNATURE),
    (parse_userspace_log, write_userspace([(11, "ready")])),
    (evidence.parse, text(VALUE)),
]


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(SAMPLES))
def test_mutations_never_escape(data, case):
    parse, sample = case
    mutated = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    for candidate in (bytes(mutated), bytes(mutated[: data.draw(st.integers(0, len(mutated)))])):
        try:
            parse(candidate)
        except MeasurementError:
            continue


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_escape(data):
    for parse in (parse_quote, parse_signature, evidence.parse):
        with pytest.raises(MeasurementError):
            parse(data)
