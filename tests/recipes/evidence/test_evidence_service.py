"""The guest's evidence service, against a recorded TPM conversation and hostile peers."""

import contextlib
import json
import os
import socket
import struct
import threading

import evidence
import keys
import pytest
import tpm as tpm2
from asking import NONCE, RECORDED, ask
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.boot.tpm import ATTESTATION_KEY_TEMPLATE
from measurements.evidence import parse_quote, parse_signature
from measurements.evidence.document import parse as parse_evidence
from measurements.evidence.tpm import verify_signature


class ScriptedTpm:
    """Answers the commands of a recording, in order, and nothing else."""

    def __init__(self, exchanges):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.unexpected = []
        self._thread = threading.Thread(target=self._serve, args=(theirs, list(exchanges)), daemon=True)
        self._thread.start()

    def _serve(self, connection, exchanges):
        while command := connection.recv(4096):
            expected, answer = exchanges.pop(0) if exchanges else ("", "80010000000a00000101")
            if command.hex() != expected:
                self.unexpected.append(command.hex())
                answer = "80010000000a00000101"  # TPM_RC_FAILURE
            connection.send(bytes.fromhex(answer))

    @property
    def descriptor(self):
        return self.ours.fileno()


@pytest.fixture
def scripted(logs):
    tpm = ScriptedTpm(RECORDED["exchanges"])
    return tpm, {"tpm": tpm.descriptor, **logs}


def test_a_nonce_is_answered_with_quotes_that_verify(monkeypatch, scripted):
    tpm, descriptors = scripted

    answer = ask(monkeypatch, descriptors, b'{"nonce": "' + NONCE.hex().encode() + b'"}\n')

    assert tpm.unexpected == []
    document = parse_evidence(answer)
    assert document.nonce == NONCE
    assert [quote.bank.value for quote in document.quotes] == ["sha1", "sha256", "sha384", "sha512"]
    key = load_pem_public_key(document.attestation_key.encode())
    for quote in document.quotes:
        verify_signature(key, parse_signature(quote.signature), quote.attest)
        attested = parse_quote(quote.attest)
        assert attested.extra_data == NONCE
        assert sorted(quote.registers) == list(range(16))
    assert document.event_log == b"eventlog" * 100
    assert document.userspace_log == b"userspacelog" * 100


def test_the_key_is_unloaded_after_the_answer(monkeypatch, scripted):
    tpm, descriptors = scripted
    ask(monkeypatch, descriptors, b'{"nonce": "' + NONCE.hex().encode() + b'"}\n')
    tpm.ours.send(b"end")  # one command beyond the recording: so FlushContext, its last one, was sent
    tpm.ours.recv(4096)
    assert tpm.unexpected == [b"end".hex()]


def test_without_a_userspace_log_the_field_is_null(monkeypatch, scripted):
    _, descriptors = scripted
    del descriptors["userspacelog"]
    answer = ask(monkeypatch, descriptors, b'{"nonce": "' + NONCE.hex().encode() + b'"}\n')
    assert parse_evidence(answer).userspace_log is None


def test_registers_that_move_while_they_are_quoted_are_read_again(logs):
    """The second reading differs from the first: another round follows, and its values are reported."""
    readings = iter([[b"old"], [b"new"], [b"new"], [b"new"]])

    class Moving:
        def active_banks(self):
            return [tpm2.SHA256]

        def read_pcrs(self, bank, count):
            return next(readings)

        def quote(self, handle, nonce, bank, count):
            return b"attest", b"signature"

    quotes, _, _ = evidence.consistent(Moving(), 0, NONCE, logs)
    assert json.loads(quotes[0])["pcrs"] == {"0": b"new".hex()}


def test_registers_that_never_rest_are_an_error(logs):
    class Restless:
        count = 0

        def active_banks(self):
            return [tpm2.SHA256]

        def read_pcrs(self, bank, count):
            self.count += 1
            return [str(self.count).encode()]

        def quote(self, handle, nonce, bank, count):
            return b"", b""

    with pytest.raises(evidence.RequestError, match="ask again"):
        evidence.consistent(Restless(), 0, NONCE, logs)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\n",
        b"{}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"nonce": "' + b"0" * 30 + b'"}\n',  # 15 bytes
        b'{"nonce": "' + b"0" * 130 + b'"}\n',  # 65 bytes
        b'{"nonce": "' + b"0" * 33 + b'"}\n',  # half a byte
        b'{"nonce": "' + b"g" * 32 + b'"}\n',
        b'{"nonce": "' + b"0" * 32 + b'", "more": 1}\n',
        b'{{"nonce": "' + b"0" * 32 + b'"}}\n',
        b'"nonce": "' + b"0" * 32 + b'"\n',
        b'{"nonce": "' + b"0" * 32 + b'"\n',
        b'{"nonce": ' + b"0" * 32 + b"}\n",
        b"x" * 512,
        b"x" * 100_000,
        b"\xff\xfe\x00\n",
        b'{"nonce": "' + b"0" * 32,  # the peer hangs up in the middle
    ],
    ids=range(17),
)
def test_a_malformed_request_is_refused_before_the_tpm_is_touched(monkeypatch, request_bytes):
    answer = ask(monkeypatch, {"tpm": -1, "eventlog": -1}, request_bytes)
    assert answer.endswith(b"\n")
    assert json.loads(answer)["error"].startswith("expected ")


@given(st.binary(max_size=600))
@settings(max_examples=150, deadline=None)
def test_no_request_raises_anything_but_a_refusal(line):
    try:
        nonce = evidence.parse_request(line)
    except evidence.RequestError:
        return
    assert json.loads(line)["nonce"].lower() == nonce.hex()


@given(
    st.sampled_from(["{", "}", '"', ":", " ", "nonce", "0" * 32, "ab" * 16, ",", "\t"]).flatmap(st.just),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_request_grammar_accepts_is_json(first, data):
    parts = [
        first,
        *data.draw(st.lists(st.sampled_from(["{", "}", '"', ":", " ", "nonce", "0" * 32]), max_size=9)),
    ]
    line = "".join(parts).encode()
    try:
        nonce = evidence.parse_request(line)
    except evidence.RequestError:
        return
    assert json.loads(line) == {"nonce": nonce.hex()}


def test_a_machine_without_tpm_says_so(monkeypatch, logs):
    answer = ask(monkeypatch, logs, b'{"nonce": "' + b"0" * 32 + b'"}\n')
    assert json.loads(answer) == {"error": "this machine has no TPM 2.0"}


def test_a_machine_without_event_log_says_so(monkeypatch):
    answer = ask(monkeypatch, {"tpm": -1}, b'{"nonce": "' + b"0" * 32 + b'"}\n')
    assert "no TPM event log" in json.loads(answer)["error"]


def test_a_tpm_that_fails_is_an_error_not_a_crash(monkeypatch, logs):
    tpm = ScriptedTpm([])
    answer = ask(monkeypatch, {"tpm": tpm.descriptor, **logs}, b'{"nonce": "' + b"0" * 32 + b'"}\n')
    assert json.loads(answer) == {"error": "TPM command 0x131 failed with 0x101"}


def test_an_oversized_log_is_an_error(tmp_path):
    (tmp_path / "log").write_bytes(bytes(1001))
    descriptor = os.open(tmp_path / "log", os.O_RDONLY)
    try:
        assert len(evidence.read_whole(descriptor, 1001)) == 1001
        assert len(evidence.read_whole(descriptor, 1001)) == 1001, "the position must not matter"
        with pytest.raises(evidence.RequestError, match="larger than 1000"):
            evidence.read_whole(descriptor, 1000)
    finally:
        os.close(descriptor)


@given(st.text(max_size=50))
def test_error_texts_are_json(text):
    assert isinstance(json.loads(evidence.quoted(text)), str)


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_nonsense_from_the_tpm_is_a_known_error(answer):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for _ in range(40):
            theirs.send(struct.pack(">HII", 0x8001, 10 + len(answer), 0) + answer)
        client = tpm2.Tpm(ours.fileno())
        for command in (client.active_banks, lambda: client.read_pcrs(tpm2.SHA256, 16)):
            with contextlib.suppress(tpm2.TpmError, struct.error):
                command()


def test_the_manager_names_descriptors_in_order():
    passed = evidence.passed_descriptors({"LISTEN_FDNAMES": "connection:tpm:eventlog"})
    assert passed == {"connection": 3, "tpm": 4, "eventlog": 5}


def test_host_and_guest_use_one_key_template():
    assert tpm2.ATTESTATION_KEY_TEMPLATE == ATTESTATION_KEY_TEMPLATE


class CloudTpm:
    """A TPM with the NV contents of a cloud, and nothing else."""

    def __init__(self, contents, public):
        self.contents = contents
        self.public = public
        self.templates = []

    def read_nv(self, index):
        if index not in self.contents:
            raise tpm2.TpmError(0x169, 0x18B)
        return self.contents[index]

    def create_primary(self, hierarchy, template):
        self.templates.append((hierarchy, template))
        return 0x80000000, self.public

    def read_public(self, handle):
        assert handle == 0x81000003
        return self.public


CERTIFICATE = b"\x30\x82\x01\x00" + bytes(256)


def test_on_google_the_certified_key_is_used():
    cloud = CloudTpm({0x01C10002: CERTIFICATE, 0x01C10003: b"template"}, b"public")
    assert keys.attestation_key(cloud) == (0x80000000, b"public", [CERTIFICATE])
    assert cloud.templates == [(0x4000000B, b"template")]


def test_on_azure_the_certificate_is_cut_out_of_its_larger_area():
    cloud = CloudTpm({0x01C101D0: CERTIFICATE + bytes(3000)}, b"public")
    assert keys.attestation_key(cloud) == (0x81000003, b"public", [CERTIFICATE])


def test_other_contents_in_the_clouds_places_are_not_a_certificate():
    cloud = CloudTpm({0x01C101D0: b"\xff" * 64}, b"public")
    assert keys.attestation_key(cloud) == (0x80000000, b"public", [])
    assert cloud.templates == [(0x4000000B, tpm2.ATTESTATION_KEY_TEMPLATE)]


def test_an_rsa_key_is_written_as_cryptography_writes_it():
    numbers = rsa.generate_private_key(65537, 2048).public_key()
    modulus = numbers.public_numbers().n.to_bytes(256, "big")
    # TPMT_PUBLIC: RSA, SHA-256, attributes, no policy, no symmetric, RSASSA with SHA-256, 2048 bits, default exponent.
    public = (
        struct.pack(">HHIHHHHHI", 1, 0xB, 0x50072, 0, 0x10, 0x14, 0xB, 2048, 0)
        + struct.pack(">H", 256)
        + modulus
    )
    expected = numbers.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert keys.pem("PUBLIC KEY", keys.public_key(public)) == expected


def test_a_key_of_another_kind_is_refused():
    keyed_hash = struct.pack(">HHIHHH", 8, 0xB, 0, 0, 0x10, 0x10)
    with pytest.raises(ValueError, match="neither"):
        keys.public_key(keyed_hash)
