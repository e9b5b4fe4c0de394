"""The attestation key: a cloud's own where the TPM holds a certificate for it, else one from our template."""

import binascii
import struct

import tpm as tpm2

#: Keys that a cloud certifies, by where their certificate stands in NV. Google: the key's template beside it
#: (google/go-tpm-tools, client/handles.go). Azure: a persistent key ("Guest attestation", vTPM AK).
_GOOGLE_CERTIFICATE, _GOOGLE_TEMPLATE = 0x01C10002, 0x01C10003
_AZURE_CERTIFICATE, _AZURE_KEY = 0x01C101D0, 0x81000003

# DER (X.690) of AlgorithmIdentifier: id-ecPublicKey with prime256v1 (RFC 5480, 2.1.1), and rsaEncryption
# (RFC 3279, 2.3.1).
_P256 = binascii.unhexlify("301306072a8648ce3d020106082a8648ce3d030107")
_RSA = binascii.unhexlify("300d06092a864886f70d0101010500")
_INTEGER, _BIT_STRING, _SEQUENCE = 0x02, 0x03, 0x30

Key = tuple[int, bytes, list[bytes]]


def attestation_key(tpm: tpm2.Tpm) -> Key:
    """Return handle, TPMT_PUBLIC and certificates (DER) of the key to quote with; the caller flushes it."""
    for find in (_google_key, _azure_key):
        try:
            return find(tpm)
        except (tpm2.TpmError, ValueError, struct.error):  # not that cloud: no such index, or other contents
            continue
    handle, public = tpm.create_primary(tpm2.RH_ENDORSEMENT, tpm2.ATTESTATION_KEY_TEMPLATE)
    return handle, public, []


def _google_key(tpm: tpm2.Tpm) -> Key:
    certificate = first_element(tpm.read_nv(_GOOGLE_CERTIFICATE))
    handle, public = tpm.create_primary(tpm2.RH_ENDORSEMENT, tpm.read_nv(_GOOGLE_TEMPLATE))
    return handle, public, [certificate]


def _azure_key(tpm: tpm2.Tpm) -> Key:
    certificate = first_element(tpm.read_nv(_AZURE_CERTIFICATE))
    return _AZURE_KEY, tpm.read_public(_AZURE_KEY), [certificate]


def public_key(public: bytes) -> bytes:
    """Return SubjectPublicKeyInfo (DER) of a TPMT_PUBLIC, ECC P-256 or RSA (Part 2, 12.2.4; RFC 5280, 4.1)."""
    reader = tpm2.Reader(public)
    kind, _name_algorithm, _attributes = reader.fields("HHI")
    reader.sized()  # policy
    _no_symmetric, scheme = reader.fields("HH")  # a restricted signing key has no symmetric algorithm
    if scheme != tpm2.ALG_NULL:
        reader.fields("H")
    if kind == tpm2.ALG_ECC and reader.fields("HH") == (tpm2.CURVE_P256, tpm2.ALG_NULL):
        x, y = reader.sized(), reader.sized()
        point = b"\x04" + x.rjust(32, b"\0") + y.rjust(32, b"\0")  # SEC 1, 2.3.3: uncompressed
        return _element(_SEQUENCE, _P256 + _element(_BIT_STRING, b"\0" + point))
    if kind == tpm2.ALG_RSA:
        _bits, exponent = reader.fields("HI")
        numbers = _integer(reader.sized()) + _integer((exponent or 65537).to_bytes(4, "big"))
        return _element(_SEQUENCE, _RSA + _element(_BIT_STRING, b"\0" + _element(_SEQUENCE, numbers)))
    raise ValueError("the attestation key is neither ECDSA P-256 nor RSA")


def first_element(data: bytes) -> bytes:
    """Return the DER element that ``data`` starts with: NV areas are larger than their certificate."""
    tag, form, size = struct.unpack_from(">BBH", data)
    if tag != _SEQUENCE or form != 0x82 or len(data) < 4 + size:
        raise ValueError("no certificate")
    return data[: 4 + size]


def pem(label: str, der: bytes) -> str:
    """Return the PEM text of DER bytes (RFC 7468)."""
    text = binascii.b2a_base64(der, newline=False).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return struct.pack(">BB", tag, size) + content
    if size < 0x100:
        return struct.pack(">BBB", tag, 0x81, size) + content
    return struct.pack(">BBH", tag, 0x82, size) + content


def _integer(number: bytes) -> bytes:
    number = number.lstrip(b"\0") or b"\0"
    return _element(_INTEGER, b"\0" + number if number[0] & 0x80 else number)
