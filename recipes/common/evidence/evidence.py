"""Answers one request with evidence: one JSON line in, one JSON line out, then the process ends.

systemd starts one process per connection and hands it everything as open file descriptors (``LISTEN_FDNAMES``), so
it opens no file or device of its own. Only modules that are built into the interpreter, and ``struct``, are
imported: the image holds no compiled byte code, and each further module would cost start-up time and room.
The protocol is docs/evidence-service.md.
"""

import binascii
import os
import struct
import sys
import time

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # -I leaves out the script's own folder
import keys  # noqa: E402
import tpm as tpm2  # noqa: E402

FORMAT = "goldsmith-evidence/1"
REGISTERS = 16  # PCR 0-15; 16 and 23 are for debugging and applications, 17-22 for dynamic launch
MAX_REQUEST = 512  # bytes of one line, with its end
MIN_NONCE, MAX_NONCE = (
    16,
    64,
)  # bytes; a TPM2B_DATA takes at least 64 where the TPM has SHA-512 (Part 2, 10.4.3)
MAX_EVENT_LOG = 1 << 20
MAX_USERSPACE_LOG = 1 << 18
ATTEMPTS = 5
_IDLE = 0.25  # seconds between looks at a virtio-serial port that no host has opened
_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)


class RequestError(Exception):
    """The request cannot be answered; the message goes to whoever asked."""


def main(wait):
    """Serve one request on the descriptor named "connection"; ``wait`` keeps looking until a host opens the port."""
    descriptors = passed_descriptors(os.environ)
    connection = descriptors["connection"]
    try:
        nonce = parse_request(read_line(connection, wait))
        answer = document(nonce, descriptors)
    except (RequestError, tpm2.TpmError, OSError, ValueError, struct.error) as error:
        answer = f'{{"error": {quoted(str(error))}}}\n'
    view = memoryview(answer.encode())
    while view:
        view = view[os.write(connection, view) :]


def passed_descriptors(environment):
    """Return name -> descriptor of what systemd passed."""
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return {name: _FIRST_DESCRIPTOR + index for index, name in enumerate(names)}


def read_line(descriptor, wait=False):
    """Read up to the first newline. A peer that sends too much, or nothing, is told so."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(descriptor, MAX_REQUEST - len(data))
        if not chunk and wait and not data:
            time.sleep(_IDLE)  # read(2) of a port without a host returns at once
            continue
        data += chunk
        if not chunk or (len(data) >= MAX_REQUEST and b"\n" not in data):
            raise RequestError(f"expected one line of at most {MAX_REQUEST} bytes")
    return data.partition(b"\n")[0]


def parse_request(line):
    """Return the nonce of ``{"nonce": "<hex>"}``: the only request there is, so no JSON parser is needed."""
    start, middle, end = line.strip(b" \t\r").partition(b":")
    value = end.removesuffix(b"}").strip(b" \t")
    text = value[1:-1]
    well_formed = (
        start.startswith(b"{")
        and start[1:].strip(b" \t") == b'"nonce"'
        and middle
        and end.endswith(b"}")
        and len(value) >= 2
        and value.startswith(b'"')
        and value.endswith(b'"')
        and all(byte in b"0123456789abcdefABCDEF" for byte in text)
        and len(text) % 2 == 0
        and MIN_NONCE <= len(text) // 2 <= MAX_NONCE
    )
    if not well_formed:
        raise RequestError(f'expected {{"nonce": "<{MIN_NONCE} to {MAX_NONCE} bytes in hexadecimal>"}}')
    return binascii.unhexlify(text)


def document(nonce, descriptors):
    """Return the evidence document as one line of JSON."""
    if "tpm" not in descriptors:
        raise RequestError("this machine has no TPM 2.0")
    if "eventlog" not in descriptors:
        raise RequestError("this machine's firmware left no TPM event log")
    tpm = tpm2.Tpm(descriptors["tpm"])
    handle, public, certificates = keys.attestation_key(tpm)
    try:
        quotes, event_log, userspace_log = consistent(tpm, handle, nonce, descriptors)
    finally:
        if handle >> 24 == 0x80:  # transient (Part 2, 7.2)
            tpm.flush(handle)
    certificate_list = ", ".join(quoted(keys.pem("CERTIFICATE", der)) for der in certificates)
    return (
        f'{{"format": "{FORMAT}", "nonce": "{nonce.hex()}", '
        f'"attestation_key": {{"public": {quoted(keys.pem("PUBLIC KEY", keys.public_key(public)))}, '
        f'"certificates": [{certificate_list}]}}, '
        f'"quotes": [{", ".join(quotes)}], '
        f'"event_log": {encoded(event_log)}, '
        f'"userspace_log": {encoded(userspace_log) if userspace_log is not None else "null"}}}\n'
    )


def consistent(tpm, handle, nonce, descriptors):
    """Return the quotes and the logs of one moment: nothing was extended between the first read and the last."""
    banks = tpm.active_banks()
    for _ in range(ATTEMPTS):
        before = [tpm.read_pcrs(bank, REGISTERS) for bank in banks]
        quotes = [
            quote(tpm2.BANKS[bank], *tpm.quote(handle, nonce, bank, REGISTERS), values)
            for bank, values in zip(banks, before)
        ]
        event_log = read_whole(descriptors["eventlog"], MAX_EVENT_LOG)
        userspace = descriptors.get("userspacelog")
        userspace_log = read_whole(userspace, MAX_USERSPACE_LOG) if userspace is not None else None
        if before == [tpm.read_pcrs(bank, REGISTERS) for bank in banks]:
            return quotes, event_log, userspace_log
    raise RequestError("the registers kept changing while they were quoted: ask again")


def quote(bank, attest, signature, values):
    """Return one quote as JSON."""
    pcrs = ", ".join(f'"{index}": "{value.hex()}"' for index, value in enumerate(values))
    return f'{{"bank": "{bank}", "attest": {encoded(attest)}, "signature": {encoded(signature)}, "pcrs": {{{pcrs}}}}}'


def read_whole(descriptor, limit):
    """Return a file's contents from its start, wherever its position stands."""
    chunks = []
    size = 0
    while chunk := os.pread(descriptor, 1 << 16, size):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise RequestError(f"a measurement log is larger than {limit} bytes")
    return b"".join(chunks)


def encoded(data):
    """Return bytes as a JSON string in base64."""
    return f'"{binascii.b2a_base64(data, newline=False).decode()}"'


def quoted(text):
    """Return ASCII text as a JSON string (RFC 8259, 7)."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}
    return f'"{"".join(escapes.get(c, c) if " " <= c <= "~" or c == chr(10) else "?" for c in text)}"'


if __name__ == "__main__":
    main(wait="--wait" in sys.argv[1:])
