"""Endorsement keys and AMD's certificates for them.

Implements AMD 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", 3.1 and 3.2:
names, extensions and the chain ARK, ASK (ASVK for VLEKs), VCEK (VLEK).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning

from measurements.attestation_key import check_chain
from measurements.errors import FormatError, LimitError, SignatureError
from measurements.formats.reader import Reader
from measurements.snp.report import Signer
from measurements.snp.tcb import Product, TcbVersion

MAX_CERTIFICATES: Final = 16
MAX_SIZE: Final = 256 * 1024

_OID = "1.3.6.1.4.1.3704.1."
_PRODUCT_NAME = _OID + "2"
_SPL = _OID + "3."
_HARDWARE_ID = _OID + "4"
_CSP_ID = _OID + "5"
#: Part of the TCB -> last number of its extension.
_TCB_PARTS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8}
_FMC_PART = 9

_CHIP_ID_SIZE = 64
_TURIN_CHIP_ID_SIZE = 8
_INTEGER, _OCTETS, _IA5, _UTF8 = 0x02, 0x04, 0x16, 0x0C

#: AMD 56421, GHCB specification 2.03, 4.1.8.1, table 9: entries of the table beside an extended report.
_TABLE_ENTRY_SIZE = 24
_COMMON_NAMES = {Signer.VCEK: "SEV-VCEK", Signer.VLEK: "SEV-VLEK"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsement:
    """What a VCEK or VLEK certificate says.

    Attributes:
        signer: VCEK or VLEK.
        product: the processor's generation.
        tcb: the TCB version that the key belongs to.
        chip_id: 64 bytes as a report has them; ``None`` in a VLEK's.
        csp_id: the cloud provider that a VLEK was given to; ``None`` in a VCEK's.
        key: verifies reports.
        certificate: itself.
    """

    signer: Signer
    product: Product
    tcb: TcbVersion
    chip_id: bytes | None
    csp_id: str | None
    key: ec.EllipticCurvePublicKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)


@cache
def roots(product: Product) -> tuple[x509.Certificate, ...]:
    """Return ARK, ASK and ASVK of a generation, as they are in this package."""
    name = f"{product.value.lower()}.pem"
    return load(resources.files(__package__).joinpath("amd", name).read_bytes())


def load(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read certificates: PEM, one in DER, or the table that Linux gives beside an extended report.

    Raises:
        FormatError: none of these, or a certificate is malformed.
        LimitError: more than 256 KiB, or more than 16 certificates.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"certificates have {len(data)} bytes; the limit is {MAX_SIZE}")
    if b"-----BEGIN" in data:
        parts = data.split(b"-----END CERTIFICATE-----")[:-1]
        found = [(part + b"-----END CERTIFICATE-----\n", True) for part in parts]
    elif data[:1] == b"\x30":
        found = [(data, False)]
    else:
        found = [(entry, False) for entry in _table(data)]
    if not found:
        raise FormatError("no certificate found; expected PEM, DER or a certificate table")
    if len(found) > MAX_CERTIFICATES:
        raise LimitError(f"{len(found)} certificates; the limit is {MAX_CERTIFICATES}")
    return tuple(_certificate(part, pem=pem) for part, pem in found)


def is_endorsement(certificate: x509.Certificate) -> bool:
    """Whether a certificate names itself a VCEK's or VLEK's."""
    return _common_name(certificate) in _COMMON_NAMES.values()


def endorsement(certificate: x509.Certificate) -> Endorsement:
    """Read a VCEK or VLEK certificate; its signature is not looked at.

    Raises:
        FormatError: an extension, a name or the key is not as AMD 57230 says.
    """
    names = {name: signer for signer, name in _COMMON_NAMES.items()}
    signer = names.get(_common_name(certificate))
    if signer is None:
        raise FormatError(f"certificate of {_common_name(certificate)!r}; expected SEV-VCEK or SEV-VLEK")
    try:
        key = certificate.public_key()
        values = {item.oid.dotted_string: item.value for item in certificate.extensions}
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise FormatError(f"{signer.name} certificate: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FormatError(f"{signer.name} certificate: the key is not on P-384")
    raw = {oid: value.value for oid, value in values.items() if isinstance(value, x509.UnrecognizedExtension)}
    product = _product(raw, signer)
    return Endorsement(
        signer=signer,
        product=product,
        tcb=_tcb(raw, product, signer),
        chip_id=_chip_id(raw, product) if signer is Signer.VCEK else None,
        csp_id=_text(raw, _CSP_ID, signer) if signer is Signer.VLEK else None,
        key=key,
        certificate=certificate,
    )


def verify(
    endorsed: Endorsement,
    others: Iterable[x509.Certificate],
    now: datetime,
    trusted: Sequence[x509.Certificate] | None = None,
) -> None:
    """Verify that AMD issued an endorsement key's certificate.

    Args:
        endorsed: the certificate.
        others: certificates that may lie between; those of this package are used beside them.
        now: the moment, with a time zone, at which every certificate must be valid.
        trusted: roots to trust instead of the generation's ARK in this package.

    Raises:
        SignatureError: the chain does not hold; the message says where.
    """
    known = roots(endorsed.product)
    anchors = known[:1] if trusted is None else trusted
    wanted = endorsed.product.value if endorsed.signer is Signer.VCEK else f"VLEK-{endorsed.product}"
    candidates = [item for item in (*others, *known[1:]) if _common_name(item) == f"SEV-{wanted}"]
    failure: SignatureError | None = None
    for candidate in candidates:
        try:
            root = check_chain(endorsed.key, (endorsed.certificate, candidate), anchors, now)
        except SignatureError as error:
            failure = failure or error
            continue
        if _common_name(root) != f"ARK-{endorsed.product}":
            raise SignatureError(
                f"certificate chain: the root is {_common_name(root)!r}, expected 'ARK-{endorsed.product}'"
            )
        return
    assert failure is not None  # this package has a candidate for every generation
    raise failure


def _certificate(data: bytes, *, pem: bool) -> x509.Certificate:
    loader = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
    with warnings.catch_warnings():
        # AMD gives every VCEK the serial number 0, which RFC 5280 does not allow.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            return loader(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(f"a certificate is malformed: {error}") from None


def _table(data: bytes) -> Iterator[bytes]:
    reader = Reader(data, "certificate table")
    for _ in range(MAX_CERTIFICATES + 1):
        if reader.remaining < _TABLE_ENTRY_SIZE:
            raise FormatError("certificates: neither PEM, DER nor a certificate table with an end")
        guid, offset, size = reader.take(16, "GUID"), reader.u32("offset"), reader.u32("length")
        if not any(guid) and not offset and not size:
            return
        if offset + size > len(data) or not size:
            raise FormatError(
                f"certificate table: {UUID(bytes=guid)} lies at {offset} with {size} bytes, outside of the table's "
                f"{len(data)}"
            )
        yield data[offset : offset + size]


def _product(raw: dict[str, bytes], signer: Signer) -> Product:
    # "Milan-B0" in a VCEK's, "Milan" in a VLEK's.
    name = _text(raw, _PRODUCT_NAME, signer)
    try:
        return Product(name.partition("-")[0])
    except ValueError:
        raise FormatError(f"{signer.name} certificate: product {name!r} is not known") from None


def _tcb(raw: dict[str, bytes], product: Product, signer: Signer) -> TcbVersion:
    parts = dict(_TCB_PARTS)
    if product is Product.TURIN:
        parts["fmc"] = _FMC_PART
    return TcbVersion(**{name: _number(raw, f"{_SPL}{last}", signer) for name, last in parts.items()})


def _chip_id(raw: dict[str, bytes], product: Product) -> bytes:
    # The key distribution service writes the bytes without a DER tag.
    value = raw.get(_HARDWARE_ID, b"")
    size = _TURIN_CHIP_ID_SIZE if product is Product.TURIN else _CHIP_ID_SIZE
    if len(value) == size + 2 and value[:2] == bytes((_OCTETS, size)):
        value = value[2:]
    if len(value) != size:
        raise FormatError(f"VCEK certificate: chip id of {len(value)} bytes; expected {size}")
    return value.ljust(_CHIP_ID_SIZE, b"\0")


def _number(raw: dict[str, bytes], oid: str, signer: Signer) -> int:
    value = raw.get(oid, b"")
    # DER of an INTEGER from 0 to 255: two bytes where the highest bit is set.
    if value[:1] != bytes((_INTEGER,)) or len(value) not in (3, 4) or value[1] != len(value) - 2:
        raise FormatError(f"{signer.name} certificate: extension {oid} is no number from 0 to 255")
    number = int.from_bytes(value[2:], "big")
    if number > 0xFF:
        raise FormatError(f"{signer.name} certificate: extension {oid} is {number}; expected 0 to 255")
    return number


def _text(raw: dict[str, bytes], oid: str, signer: Signer) -> str:
    value = raw.get(oid, b"")
    if len(value) < 2 or value[0] not in (_IA5, _UTF8) or value[1] != len(value) - 2:
        raise FormatError(f"{signer.name} certificate: extension {oid} is no text")
    try:
        return value[2:].decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"{signer.name} certificate: extension {oid} is not ASCII") from None


def _common_name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if len(names) == 1 else ""
