"""PCK certificates: which platform a quote comes from, and with which security versions.

Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification" 1.5, 1.3.5: the SGX extension
1.2.840.113741.1.13.1 is a SEQUENCE of (OBJECT IDENTIFIER, value).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from measurements.errors import FormatError, LimitError

MAX_EXTENSION_SIZE: Final = 4096
MAX_ENTRIES: Final = 64
COMPONENTS: Final = 16

_SGX = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
#: Contents of the OBJECT IDENTIFIER 1.2.840.113741.1.13.1, which begins all others.
_PREFIX = bytes.fromhex("2a864886f84d010d01")
_PPID, _TCB, _PCEID, _FMSPC = 1, 2, 3, 4
_PCESVN = 17

_SEQUENCE, _INTEGER, _OCTETS, _IDENTIFIER = 0x30, 0x02, 0x04, 0x06


@dataclass(frozen=True, slots=True, kw_only=True)
class PckPlatform:
    """What the SGX extension says.

    Attributes:
        ppid: identity of the platform, 16 bytes.
        fmspc: family, model, stepping, platform and custom SKU, 6 bytes.
        pceid: identity of the provisioning certification enclave, 2 bytes.
        pcesvn: its security version.
        components: security versions of 16 components.
    """

    ppid: bytes
    fmspc: bytes
    pceid: bytes
    pcesvn: int
    components: tuple[int, ...]


def read(certificate: x509.Certificate) -> PckPlatform:
    """Read the SGX extension of a PCK certificate.

    Raises:
        FormatError: it has none, or it is malformed.
        LimitError: a limit of this module is exceeded.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(_SGX).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise FormatError("PCK certificate: no SGX extension (1.2.840.113741.1.13.1)") from None
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise FormatError("PCK certificate: the SGX extension is of another kind")
    return parse(extension.value)


def parse(data: bytes) -> PckPlatform:
    """Parse the extension's value; raises as ``read``."""
    if len(data) > MAX_EXTENSION_SIZE:
        raise LimitError(f"SGX extension: {len(data)} bytes; the limit is {MAX_EXTENSION_SIZE}")
    fields = _entries(_only(data, _SEQUENCE), 1)
    tcb = _entries(_only(_value(fields, _TCB, "TCB"), _SEQUENCE), 2)
    ppid = _octets(_value(fields, _PPID, "PPID"), 16, "PPID")
    return PckPlatform(
        ppid=ppid,
        fmspc=_octets(_value(fields, _FMSPC, "FMSPC"), 6, "FMSPC"),
        pceid=_octets(_value(fields, _PCEID, "PCEID"), 2, "PCEID"),
        pcesvn=_integer(_value(tcb, _PCESVN, "PCESVN"), 0xFFFF, "PCESVN"),
        components=tuple(
            _integer(_value(tcb, index, f"component {index}"), 0xFF, f"component {index}")
            for index in range(1, COMPONENTS + 1)
        ),
    )


def _entries(sequence: bytes, depth: int) -> dict[int, bytes]:
    """Return the encoded value of each entry by the last number of its identifier."""
    found: dict[int, bytes] = {}
    for kind, content, _ in _elements(sequence):
        if kind != _SEQUENCE:
            raise FormatError("SGX extension: an entry is no SEQUENCE")
        parts = list(_elements(content))
        if len(parts) != 2 or parts[0][0] != _IDENTIFIER:
            raise FormatError("SGX extension: an entry is not identifier and value")
        identifier = parts[0][1]
        if not identifier.startswith(_PREFIX) or len(identifier) != len(_PREFIX) + depth:
            raise FormatError("SGX extension: an identifier of another family")
        number = identifier[-1]
        if number in found:
            raise FormatError(f"SGX extension: entry {number} occurs twice")
        found[number] = parts[1][2]
    return found


def _elements(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, contents, whole encoding) of DER elements, one after another (X.690, 8.1, 10.1)."""
    at, count = 0, 0
    while at < len(data):
        count += 1
        if count > MAX_ENTRIES:
            raise LimitError(f"SGX extension: more than {MAX_ENTRIES} elements in a row")
        if at + 2 > len(data):
            raise FormatError("SGX extension: cut")
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 2 or start + size > len(data):
                raise FormatError("SGX extension: a length that is no definite form of at most 2 bytes")
            length, start = int.from_bytes(data[start : start + size], "big"), start + size
        if start + length > len(data):
            raise FormatError("SGX extension: an element leaves its container")
        yield tag, data[start : start + length], data[at : start + length]
        at = start + length


def _only(data: bytes, expected: int) -> bytes:
    elements = list(_elements(data))
    if len(elements) != 1 or elements[0][0] != expected:
        raise FormatError(f"SGX extension: expected one element of type 0x{expected:02x}")
    return elements[0][1]


def _value(fields: dict[int, bytes], number: int, name: str) -> bytes:
    try:
        return fields[number]
    except KeyError:
        raise FormatError(f"SGX extension: no {name}") from None


def _octets(data: bytes, size: int, name: str) -> bytes:
    content = _only(data, _OCTETS)
    if len(content) != size:
        raise FormatError(f"SGX extension: {name} has {len(content)} bytes; expected {size}")
    return content


def _integer(data: bytes, limit: int, name: str) -> int:
    content = _only(data, _INTEGER)
    value = int.from_bytes(content, "big", signed=True)
    if not content or not 0 <= value <= limit:
        raise FormatError(f"SGX extension: {name} is {value}; expected 0 to {limit}")
    return value
