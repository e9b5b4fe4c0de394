"""A TPM 2.0 client for the eight commands that evidence needs, over an open file descriptor.

Layouts: TCG TPM 2.0 Library specification 1.59, Part 2 (structures) and Part 3 (commands); the section is
named at each command. Everything is big endian. Sessions are password sessions with the empty password.
"""

import os
import struct

SHA1, SHA256, SHA384, SHA512 = 0x0004, 0x000B, 0x000C, 0x000D
ALG_RSA, ALG_NULL, ALG_ECDSA, ALG_ECC = 0x0001, 0x0010, 0x0018, 0x0023
CURVE_P256 = 0x0003
RH_OWNER, RH_ENDORSEMENT = 0x40000001, 0x4000000B

BANKS = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}

#: A restricted ECDSA P-256 signing key; two TPMs with one seed make the same key from it (Part 2, 12.2.4).
#: type ECC, nameAlg SHA-256, attributes fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign,
#: no policy; symmetric NULL, scheme ECDSA with SHA-256, curve P-256, kdf NULL, empty point.
ATTESTATION_KEY_TEMPLATE = struct.pack(
    ">HHIHHHHHHHH", ALG_ECC, SHA256, 0x00050072, 0, ALG_NULL, ALG_ECDSA, SHA256, CURVE_P256, ALG_NULL, 0, 0
)

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)  # authorization area: TPM_RS_PW, empty password
_PCR_READ_AT_ONCE = 8  # TPML_DIGEST holds eight (Part 2, 10.9.7)
_NV_CHUNK = 512  # every TPM's NV buffer takes this much
_MAX_NV = 8192
_MAX_RESPONSE = 4096
_ASK_AGAIN = (0x908, 0x90A, 0x922)  # TPM_RC_YIELDED, TESTING, RETRY (Part 2, 6.6.3)
_ATTEMPTS = 20


class TpmError(Exception):
    """The TPM refused a command (``code`` is its response code) or answered nonsense (``code`` is 0)."""

    def __init__(self, command: int, code: int) -> None:
        super().__init__(f"TPM command 0x{command:03x} failed with 0x{code:03x}")
        self.code = code


class Reader:
    """Takes a response apart; a short one raises `struct.error`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def fields(self, layout: str) -> tuple[int, ...]:
        """Return the integers of a struct layout."""
        values = struct.unpack_from(">" + layout, self.data, self.offset)
        self.offset += struct.calcsize(">" + layout)
        return values

    def raw(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        (data,) = struct.unpack_from(f"{size}s", self.data, self.offset)
        self.offset += size
        return bytes(data)

    def sized(self) -> bytes:
        """Return a TPM2B: u16 size and that many bytes."""
        return self.raw(*self.fields("H"))


class Tpm:
    """Commands over ``descriptor``, normally /dev/tpmrm0: its resource manager frees what a process leaves."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def command(
        self, code: int, handles: bytes = b"", parameters: bytes = b"", *, authorized: bool = False
    ) -> bytes:
        """Send one command and return what follows the response header (Part 1, 18)."""
        body = handles + (_PASSWORD if authorized else b"") + parameters
        tag = _SESSIONS if authorized else _NO_SESSIONS
        request = struct.pack(">HII", tag, 10 + len(body), code) + body
        result = 0
        for _ in range(_ATTEMPTS):
            os.write(self._descriptor, request)
            response = os.read(self._descriptor, _MAX_RESPONSE)
            if len(response) < 10:
                raise TpmError(code, 0)
            _, size, result = struct.unpack_from(">HII", response)
            if size != len(response):
                raise TpmError(code, 0)
            if result == 0:
                return response[10:]
            if result not in _ASK_AGAIN:
                break
        raise TpmError(code, result)

    def active_banks(self) -> list[int]:
        """Return the hashes whose banks hold PCRs (TPM2_GetCapability, Part 3, 30.2, TPM_CAP_PCRS)."""
        reader = Reader(self.command(0x17A, parameters=struct.pack(">III", 5, 0, 1)))
        _more, _capability, count = reader.fields("BII")
        banks = []
        for _ in range(count):
            algorithm, size = reader.fields("HB")
            if any(reader.raw(size)) and algorithm in BANKS:
                banks.append(algorithm)
        return sorted(banks)

    def read_pcrs(self, bank: int, count: int) -> list[bytes]:
        """Return PCR 0 to ``count`` - 1 of a bank (TPM2_PCR_Read, Part 3, 22.4)."""
        values: list[bytes] = []
        while len(values) < count:
            indexes = range(len(values), min(len(values) + _PCR_READ_AT_ONCE, count))
            reader = Reader(self.command(0x17E, parameters=_selection(bank, indexes)))
            _update_counter, selections = reader.fields("II")
            for _ in range(selections):
                _algorithm, size = reader.fields("HB")
                reader.raw(size)
            values += [reader.sized() for _ in range(*reader.fields("I"))]
            if len(values) != indexes.stop:
                raise TpmError(0x17E, 0)
        return values

    def create_primary(self, hierarchy: int, template: bytes) -> tuple[int, bytes]:
        """Create a template's primary key; return its handle and TPMT_PUBLIC (Part 3, 24.1)."""
        sensitive = struct.pack(">HHH", 4, 0, 0)
        parameters = sensitive + struct.pack(">H", len(template)) + template + struct.pack(">HI", 0, 0)
        reader = Reader(self.command(0x131, struct.pack(">I", hierarchy), parameters, authorized=True))
        handle, _parameters_size = reader.fields("II")
        return handle, reader.sized()

    def read_public(self, handle: int) -> bytes:
        """Return a loaded or persistent key's TPMT_PUBLIC (Part 3, 12.4)."""
        return Reader(self.command(0x173, struct.pack(">I", handle))).sized()

    def flush(self, handle: int) -> None:
        """Unload a transient object (Part 3, 28.4)."""
        self.command(0x165, parameters=struct.pack(">I", handle))

    def quote(self, handle: int, extra_data: bytes, bank: int, count: int) -> tuple[bytes, bytes]:
        """Sign PCR 0 to ``count`` - 1; return TPMS_ATTEST and TPMT_SIGNATURE unchanged (Part 3, 18.4)."""
        parameters = struct.pack(">H", len(extra_data)) + extra_data
        parameters += struct.pack(">H", ALG_NULL) + _selection(bank, range(count))
        reader = Reader(self.command(0x158, struct.pack(">I", handle), parameters, authorized=True))
        (parameters_size,) = reader.fields("I")
        end = reader.offset + parameters_size  # an authorization area follows
        attest = reader.sized()
        return attest, reader.data[reader.offset : end]

    def read_nv(self, index: int) -> bytes:
        """Return the contents of an NV index, with the owner's authorization (Part 3, 31.6 and 31.13)."""
        public = Reader(Reader(self.command(0x169, struct.pack(">I", index))).sized())
        public.fields("IHI")
        public.sized()
        (size,) = public.fields("H")
        if size > _MAX_NV:
            raise TpmError(0x169, 0)
        contents = b""
        while len(contents) < size:
            wanted = struct.pack(">HH", min(_NV_CHUNK, size - len(contents)), len(contents))
            reader = Reader(self.command(0x14E, struct.pack(">II", RH_OWNER, index), wanted, authorized=True))
            reader.fields("I")
            chunk = reader.sized()
            if not chunk:
                raise TpmError(0x14E, 0)
            contents += chunk
        return contents


def _selection(bank: int, indexes: range) -> bytes:
    """Return a TPML_PCR_SELECTION of one bank and 24 PCRs (Part 2, 10.9.8)."""
    bits = sum(1 << index for index in indexes)
    return struct.pack(">IHB", 1, bank, 3) + bits.to_bytes(3, "little")
