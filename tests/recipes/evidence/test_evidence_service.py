"""The guest's evidence service, against a recorded TPM conversation and hostile peers."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.boot.tpm import ATTESTATION_KEY_TEMPLATE
from measurements.evidence import parse_quote, parse_signature
from measurements.evidence.document import parse as parse_evidence
from measurements.evidence.tpm import verify_signature
from measurements.gpu.evidence import gpu_nonce, qualifying_data
from measurements.gpu.evidence import parse as parse_gpu_evidence

REPOSITORY = Path(__file__).parents[3]
SERVICE = REPOSITORY / "recipes/common/evidence"
sys.path.insert(0, str(SERVICE))

import evidence  # noqa: E402
import keys  # noqa: E402
import tpm as tpm2  # noqa: E402

RECORDED = json.loads((REPOSITORY / "tests/vectors/evidence/swtpm-0.7.1.json").read_text())
NONCE = bytes.fromhex(RECORDED["nonce"])


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
def logs(tmp_path):
    descriptors = {}
    for name in ("eventlog", "userspacelog"):
        (tmp_path / name).write_bytes(name.encode() * 100)
        descriptors[name] = os.open(tmp_path / name, os.O_RDONLY)
    yield descriptors
    for descriptor in descriptors.values():
        os.close(descriptor)


@pytest.fixture
def scripted(logs):
    tpm = ScriptedTpm(RECORDED["exchanges"])
    return tpm, {"tpm": tpm.descriptor, **logs}


def ask(monkeypatch, descriptors, request):
    """Run one request the way systemd would and return the answer's bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(request)
        ours.shutdown(socket.SHUT_WR)
        monkeypatch.setattr(
            evidence,
            "passed_descriptors",
            lambda _environment: {"connection": theirs.fileno(), **descriptors},
        )
        received = bytearray()
        reader = threading.Thread(
            target=lambda: received.extend(b"".join(iter(lambda: ours.recv(65536), b"")))
        )
        reader.start()
        evidence.main(wait=False)
        theirs.shutdown(socket.SHUT_RDWR)
        reader.join()
    return bytes(received)


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


class GpuService:
    """What answers on the socket that the manager connected: one answer to one request, and the end."""

    def __init__(self, answer, *, closes=True):
        self.ours, self._theirs = socket.socketpair()
        self.asked = b""
        self._thread = threading.Thread(target=self._serve, args=(answer, closes), daemon=True)
        self._thread.start()

    def _serve(self, answer, closes):
        while not self.asked.endswith(b"\n") and (chunk := self._theirs.recv(100)):
            self.asked += chunk
        with contextlib.suppress(OSError):
            self._theirs.sendall(answer)
        if closes:
            self._theirs.close()

    @property
    def descriptor(self):
        return self.ours.fileno()


class QuotingTpm:
    """A TPM that keeps what it was asked to quote."""

    def __init__(self, _descriptor):
        QuotingTpm.qualifying = []

    def active_banks(self):
        return [tpm2.SHA256]

    def read_pcrs(self, bank, count):
        return [bytes(32)] * count

    def quote(self, handle, qualifying, bank, count):
        QuotingTpm.qualifying.append(qualifying)
        return b"attest", b"signature"


@pytest.fixture
def quoting(monkeypatch, logs):
    monkeypatch.setattr(tpm2, "Tpm", QuotingTpm)
    monkeypatch.setattr(keys, "attestation_key", lambda _tpm: (0x81000000, b"", []))
    monkeypatch.setattr(keys, "public_key", lambda _public: b"key")
    return {"tpm": 0, **logs}


GPU_ANSWER = b'{"format":"goldsmith-gpu-evidence/1"}\n'


def gpu_document(descriptors, nonce=NONCE):
    return json.loads(evidence.document(nonce, descriptors, with_gpu=True))


def test_gpu_evidence_is_passed_on_and_bound_into_the_quotes(quoting):
    """docs/evidence-service.md: SHA-256 of the nonce and of the SHA-256 of the member's bytes."""
    service = GpuService(GPU_ANSWER)
    found = gpu_document({**quoting, "gpu": service.descriptor})
    assert base64.b64decode(found["gpu"]) == GPU_ANSWER
    assert service.asked == hashlib.sha256(NONCE).hexdigest().encode() + b"\n"
    expected = hashlib.sha256(NONCE + hashlib.sha256(GPU_ANSWER).digest()).digest()
    assert QuotingTpm.qualifying == [expected] == [qualifying_data(NONCE, GPU_ANSWER)]
    assert gpu_nonce(NONCE).hex().encode() == service.asked.strip()


def test_without_the_gate_nothing_changes(quoting):
    """Neither the document nor the quotes, even where a descriptor of that name were there."""
    service = GpuService(GPU_ANSWER)
    found = json.loads(evidence.document(NONCE, {**quoting, "gpu": service.descriptor}))
    assert "gpu" not in found and QuotingTpm.qualifying == [NONCE]
    assert list(found) == ["format", "nonce", "attestation_key", "quotes", "event_log", "userspace_log"]


def test_the_gate_is_asked_where_the_image_has_one(monkeypatch, quoting):
    service = GpuService(GPU_ANSWER)
    monkeypatch.setenv(evidence.GPU, "yes")
    request = b'{"nonce": "' + NONCE.hex().encode() + b'"}\n'
    answer = json.loads(ask(monkeypatch, {**quoting, "gpu": service.descriptor}, request))
    assert base64.b64decode(answer["gpu"]) == GPU_ANSWER


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "the GPU evidence service cannot be reached"),
        (b"", "the GPU evidence service ended before its answer did"),
        (GPU_ANSWER[:-3], "the GPU evidence service ended before its answer did"),
        (b"x" * (evidence.MAX_GPU_EVIDENCE + 1), "answered with more than 1048576 bytes"),
    ],
)
def test_a_gpu_service_that_fails_stops_no_evidence(quoting, answer, reason):
    """The quotes are as good as ever, and the member says what is wrong, in the format of GPU evidence."""
    service = None if answer is None else GpuService(answer)
    descriptors = quoting if service is None else {**quoting, "gpu": service.descriptor}
    raw = base64.b64decode(gpu_document(descriptors)["gpu"])
    found = parse_gpu_evidence(raw)
    assert reason in found.error and found.error == found.gate.reason and not found.gate.ready
    assert found.nonce == gpu_nonce(NONCE) and found.gpus == () and found.ready is None
    assert QuotingTpm.qualifying == [qualifying_data(NONCE, raw)]


def test_a_gpu_service_that_is_gone_stops_no_evidence(quoting):
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        found = parse_gpu_evidence(base64.b64decode(gpu_document({**quoting, "gpu": ours.fileno()})["gpu"]))
    assert found.error and not found.gate.ready


@pytest.mark.parametrize("start", [b"", GPU_ANSWER[:10]])
def test_a_gpu_service_that_hangs_stops_no_evidence(monkeypatch, quoting, start):
    monkeypatch.setattr(evidence, "GPU_SECONDS", 0.05)
    service = GpuService(start, closes=False)
    found = parse_gpu_evidence(base64.b64decode(gpu_document({**quoting, "gpu": service.descriptor})["gpu"]))
    assert "took more than 0.05 s" in found.error


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_whatever_a_gpu_service_answers_the_document_is_json(answer):
    service = GpuService(answer)
    found = evidence.gpu_evidence(service.descriptor, NONCE)
    assert found == answer or parse_gpu_evidence(found).error
    service.ours.close()
