"""EFI variables as they are measured, and signature lists.

UEFI_VARIABLE_DATA: TCG PC Client Platform Firmware Profile 1.06, 10.2.5. EFI_SIGNATURE_LIST: UEFI 2.10,
32.4.1. Boot options have their own module, ``bootoption``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError
from measurements.formats.reader import GUID_SIZE, Reader

GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SHIM_LOCK: Final = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")

CERT_X509: Final = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256: Final = UUID("c1c41626-504c-4092-aca9-41f936934328")

#: Characters of a variable's name.
MAX_NAME_LENGTH: Final = 1024
#: Bytes of a variable's data.
MAX_DATA_SIZE: Final = 1 << 20
#: Lists of one variable, and signatures of one list.
MAX_SIGNATURES: Final = 1 << 14

_LIST_HEADER_SIZE = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """UEFI_VARIABLE_DATA: what is hashed for a variable.

    Attributes:
        guid: vendor GUID.
        name: name, without a terminator; lone surrogates are kept as they are.
        data: contents, up to ``MAX_DATA_SIZE`` bytes; empty for a variable that does not exist.
    """

    guid: UUID
    name: str
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return GUID ‖ u64 characters of the name ‖ u64 bytes of data ‖ name in UTF-16LE ‖ data."""
        name = self.name.encode("utf-16-le", "surrogatepass")
        return self.guid.bytes_le + struct.pack("<QQ", len(name) // 2, len(self.data)) + name + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """EFI_SIGNATURE_DATA: who added the entry, and the certificate (DER) or hash itself."""

    owner: UUID
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return owner ‖ data: what a Secure Boot authority event carries."""
        return self.owner.bytes_le + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureList:
    """EFI_SIGNATURE_LIST: entries of one type and one size.

    Attributes:
        type: ``CERT_X509``, ``CERT_SHA256`` or another type GUID.
        header: SignatureHeader, empty for every type that UEFI defines.
        signatures: all of the same size.
    """

    type: UUID
    header: bytes = b""
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if len({len(signature.data) for signature in self.signatures}) > 1:
            raise FormatError(
                "signatures of one EFI_SIGNATURE_LIST differ in size; put them in lists of their own"
            )

    def encode(self) -> bytes:
        """Return the list with its header; an empty list states the size of an owner alone."""
        entries = b"".join(signature.encode() for signature in self.signatures)
        entry_size = GUID_SIZE + (len(self.signatures[0].data) if self.signatures else 0)
        size = _LIST_HEADER_SIZE + len(self.header) + len(entries)
        return (
            self.type.bytes_le
            + struct.pack("<III", size, len(self.header), entry_size)
            + self.header
            + entries
        )


def parse_variable(data: bytes) -> Variable:
    """Parse UEFI_VARIABLE_DATA, which must end with its data.

    Raises:
        FormatError: cut, or followed by other bytes.
        LimitError: name or data exceed the limits of this module.
    """
    reader = Reader(data, "UEFI_VARIABLE_DATA")
    guid = reader.guid("vendor GUID")
    name_length, size = reader.u64("name length"), reader.u64("data length")
    if name_length > MAX_NAME_LENGTH or size > MAX_DATA_SIZE:
        raise LimitError(
            f"UEFI_VARIABLE_DATA claims a name of {name_length} characters and {size} bytes of data; "
            f"the limits are {MAX_NAME_LENGTH} and {MAX_DATA_SIZE}"
        )
    name = reader.take(2 * name_length, "name").decode("utf-16-le", "surrogatepass")
    value = reader.take(size, "data")
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes follow the data")
    return Variable(guid=guid, name=name, data=value)


def parse_signature_lists(data: bytes) -> tuple[SignatureList, ...]:
    """Parse the contents of PK, KEK, db or dbx: lists one after another, each with its own entry size.

    Raises:
        FormatError: a list that is cut, or whose entries do not fill it.
        LimitError: more than ``MAX_SIGNATURES`` lists or entries.
    """
    reader = Reader(data, "EFI_SIGNATURE_LIST")
    lists: list[SignatureList] = []
    count = 0
    while reader.remaining:
        found = _signature_list(reader)
        lists.append(found)
        count += 1 + len(found.signatures)
        if count > MAX_SIGNATURES:
            raise LimitError(f"more than {MAX_SIGNATURES} signatures and lists in one variable")
    return tuple(lists)


def encode_signature_lists(lists: Iterable[SignatureList]) -> bytes:
    """Return the contents of a signature database."""
    return b"".join(entry.encode() for entry in lists)


def _signature_list(reader: Reader) -> SignatureList:
    start = reader.offset
    signature_type = reader.guid("SignatureType")
    list_size, header_size, entry_size = (
        reader.u32("list size"),
        reader.u32("header size"),
        reader.u32("entry size"),
    )
    body_size = list_size - _LIST_HEADER_SIZE
    if body_size < header_size:
        raise reader.error(f"list size {list_size} is less than its headers", offset=start)
    body = reader.part(body_size, "EFI_SIGNATURE_LIST")
    header = body.take(header_size, "signature header")
    if entry_size < GUID_SIZE or body.remaining % entry_size:
        raise reader.error(
            f"{body.remaining} bytes of entries do not divide into entries of {entry_size} bytes",
            offset=start,
        )
    if body.remaining // entry_size > MAX_SIGNATURES:
        raise LimitError(f"EFI_SIGNATURE_LIST at offset {start} has more than {MAX_SIGNATURES} entries")
    signatures = []
    while body.remaining:
        signatures.append(
            Signature(owner=body.guid("owner"), data=body.take(entry_size - GUID_SIZE, "signature"))
        )
    return SignatureList(type=signature_type, header=header, signatures=tuple(signatures))
