"""The host's side of the TPM: the key that the evidence service will sign with, before the guest runs.

A primary key follows from the hierarchy's seed and the template alone (TCG TPM 2.0 Library 1.59, Part 1,
27.6.3), so whoever owns the TPM's state can make the same key and pin its public half: that is the verifier's
trust in a software TPM. The template is that of recipes/common/evidence/tpm.py (docs/evidence-service.md).
"""

from __future__ import annotations

import socket
import struct

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from builder.errors import BootError

#: TPMT_PUBLIC: a restricted ECDSA P-256 signing key (Part 2, 12.2.4).
ATTESTATION_KEY_TEMPLATE = bytes.fromhex("0023000b0005007200000010" + "0018000b0003001000000000")

_CREATE_PRIMARY = 0x131  # Part 3, 24.1
_SHUTDOWN = 0x145  # Part 3, 9.4
_RH_ENDORSEMENT = 0x4000000B
_MAX_RESPONSE = 4096
_ASK_AGAIN = (0x908, 0x90A, 0x922)  # TPM_RC_YIELDED, TESTING, RETRY (Part 2, 6.6.3): self-tests still run
_ATTEMPTS = 20
_HEADER = struct.Struct(">HII")


def attestation_key_pem(connection: socket.socket) -> str:
    """Make the attestation key in the TPM behind ``connection`` and return its SubjectPublicKeyInfo as PEM.

    Raises:
        BootError: the TPM refuses, or answers something else.
    """
    password = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
    sensitive = struct.pack(">HHH", 4, 0, 0)
    public = struct.pack(">H", len(ATTESTATION_KEY_TEMPLATE)) + ATTESTATION_KEY_TEMPLATE
    body = struct.pack(">I", _RH_ENDORSEMENT) + password + sensitive + public + struct.pack(">HI", 0, 0)
    response = _command(connection, 0x8002, _CREATE_PRIMARY, body)
    # handle, parameterSize, TPM2B_PUBLIC: the template, then TPMS_ECC_POINT in place of the empty one.
    point = 4 + 4 + 2 + len(ATTESTATION_KEY_TEMPLATE) - 4
    try:
        x, rest = _sized(response[point:])
        y, _ = _sized(rest)
        key = EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), SECP256R1()
        ).public_key()
    except (struct.error, ValueError) as error:
        raise BootError(f"the software TPM returned no P-256 key: {error}") from error
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def shut_down(connection: socket.socket) -> None:
    """Tell the TPM that power goes (TPM2_Shutdown, TPM_SU_CLEAR), so that the next start is orderly."""
    _command(connection, 0x8001, _SHUTDOWN, struct.pack(">H", 0))


def _command(connection: socket.socket, tag: int, code: int, body: bytes) -> bytes:
    result = 0
    for _ in range(_ATTEMPTS):
        response = _exchange(connection, _HEADER.pack(tag, _HEADER.size + len(body), code) + body)
        result = _HEADER.unpack_from(response)[2]
        if result == 0:
            return response[_HEADER.size :]
        if result not in _ASK_AGAIN:
            break
    raise BootError(f"the software TPM refused command 0x{code:03x} with response code 0x{result:03x}")


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    response = b""
    while len(response) < _HEADER.size or len(response) < _HEADER.unpack_from(response)[1]:
        chunk = connection.recv(_MAX_RESPONSE)
        if not chunk or len(response) > _MAX_RESPONSE:
            raise BootError("the software TPM broke off in the middle of an answer")
        response += chunk
    return response


def _sized(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">H", data)
    if len(data) < 2 + size:
        raise ValueError("truncated")
    return data[2 : 2 + size], data[2 + size :]
