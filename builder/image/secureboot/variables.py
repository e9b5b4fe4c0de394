"""The four variables of Secure Boot, and the signed updates that write them.

Contents: UEFI 2.10, 32.4.1 (EFI_SIGNATURE_LIST). Updates: 8.2.2 (EFI_VARIABLE_AUTHENTICATION_2), which firmware
accepts in setup mode from whoever brings a self-signed PK, and later only from the key above.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from builder.errors import ImageError
from builder.image.secureboot import signeddata
from builder.image.secureboot.signer import Signer
from measurements.errors import LimitError
from measurements.formats.efivar import (
    CERT_SHA256,
    CERT_X509,
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    Signature,
    SignatureList,
    encode_signature_lists,
    parse_signature_lists,
)
from measurements.formats.reader import Reader

#: UEFI 2.10, 8.2: non-volatile, boot services, run time, time-based authenticated writes.
ATTRIBUTES: Final = 0x27
_APPEND = 0x40

#: Vendor GUID of each variable, in the order in which they are enrolled.
VENDORS: Final = {
    "PK": GLOBAL_VARIABLE,
    "KEK": GLOBAL_VARIABLE,
    "db": IMAGE_SECURITY_DATABASE,
    "dbx": IMAGE_SECURITY_DATABASE,
}

#: SHA-256 of nothing: an entry that no image matches, so that dbx exists, as edk2's own enrolment does it
#: (OvmfPkg/EnrollDefaultKeys/AuthData.c, mSha256OfDevNull). An empty variable cannot be.
NOTHING: Final = hashlib.sha256().digest()

_CERTIFICATE_REVISION, _CERTIFICATE_GUID = 0x0200, 0x0EF1  # UEFI 2.10, 32.2.4
_PKCS7 = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")  # EFI_CERT_TYPE_PKCS7_GUID
_HEADER_SIZE = 24  # WIN_CERTIFICATE_UEFI_GUID without its data
#: Bytes of an ``.auth`` file: a thousand hashes and more.
MAX_UPDATE_SIZE: Final = 1 << 18
_OWNER_DOMAIN = b"goldsmith secure boot owner 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a machine is enrolled with.

    Attributes:
        owner: SignatureOwner of every entry; says who added it, and decides nothing.
        platform_key, key_exchange_key: who may change the key exchange keys, and who the databases.
        allowed: certificates in db.
        forbidden: SHA-256 Authenticode digests in dbx, 32 bytes each; never empty.
        day: date of the variables' time stamps, at midnight UTC; a later update must carry a later one.
    """

    owner: UUID
    platform_key: x509.Certificate
    key_exchange_key: x509.Certificate
    allowed: tuple[x509.Certificate, ...]
    forbidden: tuple[bytes, ...] = field(repr=False, default=(NOTHING,))
    day: date

    def __post_init__(self) -> None:
        if not self.allowed:
            raise ImageError("an enrolment without a certificate in db: nothing could start")
        forbidding(self.owner, self.forbidden, self.day)  # refuses what makes no dbx

    def variables(self) -> tuple[AuthenticatedVariable, ...]:
        """Return PK, KEK, db, dbx."""
        return (
            self._variable("PK", self._certificates((self.platform_key,))),
            self._variable("KEK", self._certificates((self.key_exchange_key,))),
            self._variable("db", self._certificates(self.allowed)),
            forbidding(self.owner, self.forbidden, self.day),
        )

    def updates(self, platform_key: Signer, key_exchange_key: Signer) -> dict[str, bytes]:
        """Return the signed update that writes each variable, by its name.

        Raises:
            ImageError: a signer is not the enrolled one, or its key does not fit its certificate.
        """
        for signer, certificate in (
            (platform_key, self.platform_key),
            (key_exchange_key, self.key_exchange_key),
        ):
            if signer.certificate != certificate:
                raise ImageError(
                    f"{signer.certificate.subject.rfc4514_string()} is to sign updates, and "
                    f"{certificate.subject.rfc4514_string()} is enrolled for that"
                )
        # UEFI 2.10, 8.2.2: PK and KEK are written by the platform key's owner, db and dbx by that of a KEK.
        return {
            variable.name: variable.update(
                platform_key if variable.guid == GLOBAL_VARIABLE else key_exchange_key
            )
            for variable in self.variables()
        }

    def _variable(self, name: str, lists: Sequence[SignatureList]) -> AuthenticatedVariable:
        return AuthenticatedVariable(
            name=name, guid=VENDORS[name], data=encode_signature_lists(lists), time=efi_time(self.day)
        )

    def _certificates(self, certificates: Sequence[x509.Certificate]) -> tuple[SignatureList, ...]:
        # Certificates differ in size, so each has a list of its own.
        return tuple(
            SignatureList(
                type=CERT_X509,
                signatures=(Signature(owner=self.owner, data=each.public_bytes(Encoding.DER)),),
            )
            for each in certificates
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticatedVariable:
    """A variable that only signed updates change.

    Attributes:
        name: "PK", "KEK", "db" or "dbx".
        guid: vendor GUID.
        data: signature lists.
        time: EFI_TIME of the last update, 16 bytes.
    """

    name: str
    guid: UUID
    data: bytes = field(repr=False)
    time: bytes

    def update(self, signer: Signer, *, append: bool = False) -> bytes:
        """Return the update that writes ``data`` (or, with ``append``, adds it): an ``.auth`` file.

        EFI_VARIABLE_AUTHENTICATION_2 (time ‖ WIN_CERTIFICATE_UEFI_GUID with PKCS #7 SignedData) ‖ data.

        Raises:
            ImageError: the signer's key is not fit, or is not that of its certificate.
        """
        attributes = ATTRIBUTES | (_APPEND if append else 0)
        # UEFI 2.10, 8.2.2, step 2 of the creation: name without its NUL ‖ GUID ‖ attributes ‖ time ‖ content.
        signed = self.name.encode("utf-16-le") + self.guid.bytes_le + struct.pack("<I", attributes)
        # Without ContentInfo around it, as the text there says and older edk2 insists.
        certificate = signeddata.detached(signed + self.time + self.data, signer)
        header = struct.pack(
            "<IHH", _HEADER_SIZE + len(certificate), _CERTIFICATE_REVISION, _CERTIFICATE_GUID
        )
        return self.time + header + _PKCS7.bytes_le + certificate + self.data


def forbidding(owner: UUID, digests: tuple[bytes, ...], day: date) -> AuthenticatedVariable:
    """Return a dbx of SHA-256 Authenticode digests; its ``update`` with ``append`` adds them to an enrolled one.

    Raises:
        ImageError: no digest, one twice, or one of another size than 32 bytes.
    """
    if not digests or any(len(digest) != len(NOTHING) for digest in digests):
        raise ImageError(f"dbx: expected at least one SHA-256 digest of {len(NOTHING)} bytes")
    if len(set(digests)) != len(digests):
        raise ImageError("dbx: a digest is given twice")
    entries = SignatureList(
        type=CERT_SHA256, signatures=tuple(Signature(owner=owner, data=digest) for digest in digests)
    )
    return AuthenticatedVariable(name="dbx", guid=VENDORS["dbx"], data=entries.encode(), time=efi_time(day))


def read_update(name: str, update: bytes) -> AuthenticatedVariable:
    """Return the variable that a signed update writes; the signature is not judged.

    Args:
        name: "PK", "KEK", "db" or "dbx".
        update: an ``.auth`` file of at most `MAX_UPDATE_SIZE` bytes.

    Raises:
        FormatError: it is no EFI_VARIABLE_AUTHENTICATION_2, or its content no signature lists.
        LimitError: it is too large.
    """
    if len(update) > MAX_UPDATE_SIZE:
        raise LimitError(f"update of {name} has {len(update)} bytes; the limit is {MAX_UPDATE_SIZE}")
    reader = Reader(update, "EFI_VARIABLE_AUTHENTICATION_2")
    time = reader.take(16, "time stamp")
    size, revision, kind = reader.u32("length"), reader.u16("revision"), reader.u16("certificate type")
    guid = reader.guid("certificate GUID")
    if (revision, kind, guid) != (_CERTIFICATE_REVISION, _CERTIFICATE_GUID, _PKCS7) or size < _HEADER_SIZE:
        raise reader.error(f"no PKCS #7 signature of a variable's update, but type {kind:04x} {guid}")
    reader.skip(size - _HEADER_SIZE, "signature")
    data = reader.rest()
    if not parse_signature_lists(data):
        raise reader.error(f"it would delete {name}: expected signature lists")
    return AuthenticatedVariable(name=name, guid=VENDORS[name], data=data, time=time)


def efi_time(day: date) -> bytes:
    """Return EFI_TIME (UEFI 2.10, 8.3) of a day's midnight, all fields zero that 8.2.2 wants so; 16 bytes."""
    return struct.pack("<HBBBBBxIhBx", day.year, day.month, day.day, 0, 0, 0, 0, 0, 0)


def owner_of(platform_key: x509.Certificate) -> UUID:
    """Return the owner GUID of a key set, which follows from its platform key (RFC 9562, 5.8)."""
    raw = bytearray(hashlib.sha256(_OWNER_DOMAIN + platform_key.public_bytes(Encoding.DER)).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))
