"""goldsmith-gpu-evidence@.service: answer one nonce with GPU evidence, then end.

The manager accepted the connection and passed it on; it was also the one who connected, for the evidence service. The
request is 64 hexadecimal digits and a newline.
"""

import binascii
import os
import signal
import sys

sys.path += [__file__.rpartition("/")[0], "/usr/lib/goldsmith/python", "/usr/lib/python3/dist-packages"]

NONCE_DIGITS = 64
SECONDS = 45  # for all GPUs together; the evidence service waits a little less
_CONNECTION = 3  # sd_listen_fds(3)


def request(descriptor: int) -> bytes | None:
    """Return the nonce; None where the peer went away or asks for something else."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= NONCE_DIGITS:
        chunk = os.read(descriptor, NONCE_DIGITS + 1 - len(line))
        if not chunk:
            return None
        line += chunk
    try:
        return (
            binascii.unhexlify(line[:-1]) if line.endswith(b"\n") and len(line) == NONCE_DIGITS + 1 else None
        )
    except binascii.Error:
        return None


def answer(nonce: bytes) -> bytes:
    """Return the evidence document."""
    # Only now: most of a process's time goes into these, and a peer that asks for nothing shall not cost it.
    from gpugate.collect import document
    from gpugate.machine import Machine
    from gpugate.record import gate_record

    return document(Machine(), nonce, gate_record())


def main() -> None:
    """Serve the one request."""
    nonce = request(_CONNECTION)
    if nonce is None:
        return
    # Not before: on a serial port the peer waits for its host as long as that pleases.
    signal.alarm(SECONDS)
    view = memoryview(answer(nonce))
    while view:
        view = view[os.write(_CONNECTION, view) :]


if __name__ == "__main__":
    main()
