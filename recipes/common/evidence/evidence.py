"""Answers one request with evidence: one JSON line in, one JSON line out, then the process ends.

systemd starts one process per connection and hands it everything as open file descriptors
(``LISTEN_FDNAMES``), so it opens no file or device of its own. Only modules that are built into the
interpreter, and ``struct``, are imported (and ``hashlib``, in images for GPUs alone): the image holds no compiled byte
code, and each further module would cost start-up time and room. The protocol is docs/evidence-service.md.
"""

import binascii
import os
import struct
import sys
import time

sys.path.append(__file__.rpartition("/")[0])  # -I leaves out the script's own folder
import keys
import tpm as tpm2

FORMAT = "goldsmith-evidence/1"
REGISTERS = 16  # PCR 0-15; 16 and 23 are for debugging and applications, 17-22 for dynamic launch
MAX_REQUEST = 512  # bytes of one line, with its end
MIN_NONCE, MAX_NONCE = 16, 64  # bytes; TPM2B_DATA holds a digest and its algorithm (Part 2, 10.4.3)
MAX_EVENT_LOG = 1 << 20
MAX_USERSPACE_LOG = 1 << 18
#: "yes" in images whose common/gpu-gate answers with GPU evidence: then there is always some, if only an error.
GPU = "GOLDSMITH_GPU"
MAX_GPU_EVIDENCE = 1 << 20
GPU_SECONDS = 40.0  # for all GPUs together; a connection has 60
ATTEMPTS = 5
_CHUNK = 1 << 16
_IDLE = 0.25  # seconds between looks at a virtio-serial port that no host has opened
_GPU_IDLE = 0.02  # seconds between looks at an answer that has not come
_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
_TRANSIENT = 0x80  # first byte of a transient object's handle (Part 2, 7.2)


class RequestError(Exception):
    """The request cannot be answered; the message goes to whoever asked."""


def main(wait: bool) -> None:
    """Serve one request on the descriptor named "connection"; with ``wait``, once a host opens the port."""
    environment = dict(os.environ)
    descriptors = passed_descriptors(environment)
    connection = descriptors["connection"]
    try:
        nonce = parse_request(read_line(connection, wait))
        answer = document(nonce, descriptors, with_gpu=environment.get(GPU) == "yes")
    except (RequestError, tpm2.TpmError, OSError, ValueError, struct.error) as error:
        answer = f'{{"error": {quoted(str(error))}}}\n'
    view = memoryview(answer.encode())
    while view:
        view = view[os.write(connection, view) :]


def passed_descriptors(environment: dict[str, str]) -> dict[str, int]:
    """Return name -> descriptor of what systemd passed."""
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return {name: _FIRST_DESCRIPTOR + index for index, name in enumerate(names)}


def read_line(descriptor: int, wait: bool = False) -> bytes:
    """Read up to the first newline, at most `MAX_REQUEST` bytes with it."""
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


def parse_request(line: bytes) -> bytes:
    """Return the nonce of ``{"nonce": "<hex>"}``: the only request there is, so it needs no JSON parser."""
    space = b" \t\r"
    name, colon, rest = line.strip(space).removeprefix(b"{").partition(b":")
    value = rest.removesuffix(b"}").strip(space)
    text = value[1:-1]
    well_formed = (
        line.strip(space) == b"{" + name + colon + rest
        and colon == b":"
        and rest.endswith(b"}")
        and name.strip(space) == b'"nonce"'
        and value == b'"' + text + b'"'
        and all(byte in b"0123456789abcdefABCDEF" for byte in text)
        and len(text) % 2 == 0
        and MIN_NONCE <= len(text) // 2 <= MAX_NONCE
    )
    if not well_formed:
        raise RequestError(f'expected {{"nonce": "<{MIN_NONCE} to {MAX_NONCE} bytes in hexadecimal>"}}')
    return binascii.unhexlify(text)


def document(nonce: bytes, descriptors: dict[str, int], *, with_gpu: bool = False) -> str:
    """Return the evidence document as one line of JSON."""
    if "tpm" not in descriptors:
        raise RequestError("this machine has no TPM 2.0")
    if "eventlog" not in descriptors:
        raise RequestError("this machine's firmware left no TPM event log")
    qualifying, gpu = nonce, ""
    if with_gpu:
        found = gpu_evidence(descriptors.get("gpu"), nonce)
        qualifying = sha256(nonce + sha256(found))
        gpu = f', "gpu": {encoded(found)}'
    tpm = tpm2.Tpm(descriptors["tpm"])
    handle, public, certificates = keys.attestation_key(tpm)
    try:
        quotes, event_log, userspace_log = consistent(tpm, handle, qualifying, descriptors)
    finally:
        if handle >> 24 == _TRANSIENT:
            tpm.flush(handle)
    certificate_list = ", ".join(quoted(keys.pem("CERTIFICATE", der)) for der in certificates)
    return (
        f'{{"format": "{FORMAT}", "nonce": "{nonce.hex()}", '
        f'"attestation_key": {{"public": {quoted(keys.pem("PUBLIC KEY", keys.public_key(public)))}, '
        f'"certificates": [{certificate_list}]}}, '
        f'"quotes": [{", ".join(quotes)}], '
        f'"event_log": {encoded(event_log)}, '
        f'"userspace_log": {encoded(userspace_log) if userspace_log is not None else "null"}{gpu}}}\n'
    )


def gpu_evidence(descriptor: int | None, nonce: bytes) -> bytes:
    """Return what the GPU evidence service answers; where it does not, a document of ours that says so.

    The answer is passed on as it came: whoever verifies reads it, and the quotes bind it to this machine.
    """
    digest = sha256(nonce)
    try:
        if descriptor is None:
            raise RequestError("the GPU evidence service cannot be reached")
        os.set_blocking(descriptor, False)
        os.write(descriptor, digest.hex().encode() + b"\n")
        return read_gpu_evidence(descriptor)
    except (RequestError, OSError) as error:
        reason = quoted(f"{error}"[:200])
        return (
            f'{{"format": "goldsmith-gpu-evidence/1", "nonce": "{digest.hex()}", '
            f'"gate": {{"ready": false, "reason": {reason}, "steps": []}}, "driver_version": null, '
            f'"confidential_mode": null, "developer_tools": null, "ready": null, "nvswitches": null, '
            f'"gpus": [], "error": {reason}}}\n'
        ).encode()


def read_gpu_evidence(descriptor: int) -> bytes:
    """Read one line up to the end of the stream, for as long and as much as the limits allow."""
    end = time.monotonic() + GPU_SECONDS
    data = b""
    while True:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            if time.monotonic() > end:
                raise RequestError(f"the GPU evidence service took more than {GPU_SECONDS:g} s") from None
            time.sleep(_GPU_IDLE)
            continue
        data += chunk
        if len(data) > MAX_GPU_EVIDENCE:
            raise RequestError(f"the GPU evidence service answered with more than {MAX_GPU_EVIDENCE} bytes")
        if not chunk:
            break
    if not data.endswith(b"}\n"):
        raise RequestError("the GPU evidence service ended before its answer did")
    return data


def sha256(data: bytes) -> bytes:
    """Return a digest."""
    import hashlib

    return hashlib.sha256(data).digest()


def consistent(
    tpm: tpm2.Tpm, handle: int, qualifying: bytes, descriptors: dict[str, int]
) -> tuple[list[str], bytes, bytes | None]:
    """Return the quotes and the logs of one moment: nothing was extended from the first read to the last."""
    banks = tpm.active_banks()
    for _ in range(ATTEMPTS):
        before = [tpm.read_pcrs(bank, REGISTERS) for bank in banks]
        quotes = [
            quote(tpm2.BANKS[bank], *tpm.quote(handle, qualifying, bank, REGISTERS), values)
            for bank, values in zip(banks, before, strict=True)
        ]
        event_log = read_whole(descriptors["eventlog"], MAX_EVENT_LOG)
        userspace = descriptors.get("userspacelog")
        userspace_log = read_whole(userspace, MAX_USERSPACE_LOG) if userspace is not None else None
        if before == [tpm.read_pcrs(bank, REGISTERS) for bank in banks]:
            return quotes, event_log, userspace_log
    raise RequestError("the registers kept changing while they were quoted: ask again")


def quote(bank: str, attest: bytes, signature: bytes, values: list[bytes]) -> str:
    """Return one quote as JSON."""
    proof = f'"attest": {encoded(attest)}, "signature": {encoded(signature)}'
    pcrs = ", ".join(f'"{index}": "{value.hex()}"' for index, value in enumerate(values))
    return f'{{"bank": "{bank}", {proof}, "pcrs": {{{pcrs}}}}}'


def read_whole(descriptor: int, limit: int) -> bytes:
    """Return a file's contents from its start, wherever its position stands."""
    data = b""
    while chunk := os.pread(descriptor, _CHUNK, len(data)):
        data += chunk
        if len(data) > limit:
            raise RequestError(f"a measurement log is larger than {limit} bytes")
    return data


def encoded(data: bytes) -> str:
    """Return bytes as a JSON string in base64."""
    return f'"{binascii.b2a_base64(data, newline=False).decode()}"'


def quoted(text: str) -> str:
    """Return text as a JSON string (RFC 8259, 7); whatever is not printable ASCII or a newline becomes ``?``."""
    plain = "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


if __name__ == "__main__":
    main(wait="--wait" in sys.argv[1:])
