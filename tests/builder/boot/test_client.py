"""The evidence client against guests that answer, are late, flood, or talk nonsense."""

import contextlib
import json
import socket
import threading
import time

import pytest

from builder.boot import client
from builder.boot.client import request_evidence
from builder.errors import BootError

NONCE = bytes(range(16))


@contextlib.contextmanager
def guest(family, address, serve):
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
        yield listener.getsockname()


def _accept(listener, serve):
    number = 0
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            number += 1
            threading.Thread(target=serve, args=(connection, number), daemon=True).start()


def answer(connection, _number):
    with connection:
        request = connection.makefile("rb").readline()
        connection.sendall(json.dumps({"echo": json.loads(request)["nonce"]}).encode() + b"\n")


def soon():
    return time.monotonic() + 10


def test_one_line_out_one_line_back():
    with guest(socket.AF_INET, ("127.0.0.1", 0), answer) as address:
        assert json.loads(request_evidence(address, NONCE, deadline=soon())) == {"echo": NONCE.hex()}


def test_a_forwarder_that_accepts_too_early_is_tried_again(monkeypatch):
    """QEMU's port forwarding accepts at once and closes when nobody listens in the guest."""
    monkeypatch.setattr(client, "_RETRY", 0.05)

    def late(connection, number):
        if number < 3:
            connection.close()
        else:
            answer(connection, number)

    with guest(socket.AF_INET, ("127.0.0.1", 0), late) as address:
        assert json.loads(request_evidence(address, NONCE, deadline=soon())) == {"echo": NONCE.hex()}


def test_a_connection_that_hangs_does_not_hold_up_the_next(monkeypatch):
    monkeypatch.setattr(client, "_RETRY", 0.05)

    def first_hangs(connection, number):
        if number > 1:
            answer(connection, number)

    with guest(socket.AF_INET, ("127.0.0.1", 0), first_hangs) as address:
        assert json.loads(request_evidence(address, NONCE, deadline=soon())) == {"echo": NONCE.hex()}


def test_a_request_that_firmware_swallowed_is_repeated_on_the_serial_port(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "_REPEAT", 0.05)

    def deaf_at_first(connection, _number):
        lines = connection.makefile("rb")
        lines.readline()
        answer(connection, 1)

    with guest(socket.AF_UNIX, str(tmp_path / "port"), deaf_at_first):
        got = request_evidence(tmp_path / "port", NONCE, deadline=soon())
    assert json.loads(got) == {"echo": NONCE.hex()}


def test_a_port_that_does_not_exist_yet_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "_RETRY", 0.05)
    with pytest.raises(BootError, match="in time"):
        request_evidence(tmp_path / "port", NONCE, deadline=time.monotonic() + 0.3)


def test_the_services_own_error_is_reported():
    def refuse(connection, _number):
        with connection:
            connection.sendall(b'{"error": "this machine has no TPM 2.0"}\n')

    with (
        guest(socket.AF_INET, ("127.0.0.1", 0), refuse) as address,
        pytest.raises(BootError, match=r"no TPM 2\.0"),
    ):
        request_evidence(address, NONCE, deadline=soon())


def test_an_endless_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(client, "MAX_EVIDENCE_BYTES", 1 << 20)

    def flood(connection, _number):
        with contextlib.suppress(OSError), connection:
            while True:
                connection.sendall(b"x" * 65536)

    with (
        guest(socket.AF_INET, ("127.0.0.1", 0), flood) as address,
        pytest.raises(BootError, match="larger than"),
    ):
        request_evidence(address, NONCE, deadline=soon())


def test_a_machine_that_died_ends_the_wait():
    def dead():
        raise BootError("the machine switched itself off")

    with pytest.raises(BootError, match="switched itself off"):
        request_evidence(("127.0.0.1", 1), NONCE, deadline=soon(), check=dead)
