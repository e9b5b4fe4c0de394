"""Asking the evidence service one question, the way systemd starts it for one connection."""

import json
import socket
import threading
from pathlib import Path

import evidence

RECORDED = json.loads((Path(__file__).parents[2] / "vectors/evidence/swtpm-0.7.1.json").read_text())
NONCE = bytes.fromhex(RECORDED["nonce"])


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
