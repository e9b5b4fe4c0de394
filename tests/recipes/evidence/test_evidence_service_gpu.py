"""What the evidence service passes on of the GPUs: bound into the quotes, and never in the way of them."""

import base64
import contextlib
import hashlib
import json
import socket
import threading

import evidence
import keys
import pytest
import tpm as tpm2
from asking import NONCE, ask
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.gpu.evidence import gpu_nonce, qualifying_data
from measurements.gpu.evidence import parse as parse_gpu_evidence


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
