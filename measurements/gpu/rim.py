"""NVIDIA's reference integrity manifests: SWID tags (ISO/IEC 19770-2:2015) with the extensions of the TCG's
"Reference Integrity Manifest (RIM) Information Model" 1.01, signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cryptography import x509

from measurements.errors import FormatError, LimitError
from measurements.gpu.certificates import path_of, verify_chain
from measurements.gpu.markup import MAX_DOCUMENT_BYTES, Element, parse
from measurements.gpu.report import MEASUREMENT_SIZE
from measurements.gpu.xmldsig import SignedDocument

MAX_RIM_BYTES: Final = MAX_DOCUMENT_BYTES
MAX_MEASUREMENTS: Final = 256
MAX_ALTERNATIVES: Final = 32

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_MOST_TEXT = 128
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_DIGEST = re.compile(rf"[0-9a-fA-F]{{{2 * MEASUREMENT_SIZE}}}", re.ASCII)
# Nothing else in a manifest says which of the two it is.
VBIOS_VERSION = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}", re.ASCII)
DRIVER_VERSION = re.compile(r"[0-9]{3,4}(\.[0-9]{1,4}){1,3}", re.ASCII)


class RimKind(StrEnum):
    """Whose reference values a manifest holds."""

    DRIVER = "driver"
    VBIOS = "vbios"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceMeasurement:
    """The acceptable values at one index.

    Attributes:
        name: of the measurement, for people.
        active: whether it is to be compared.
        values: 48 bytes each, any of which will do; all zeros where nothing is measured.
    """

    name: str
    active: bool
    values: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rim:
    """A manifest whose signature was verified.

    Attributes:
        kind: of the driver, or of the GPU's firmware.
        version: of these ("550.90.07", "96.00.9F.00.01"), in capitals.
        product: the chip ("GH100").
        tag_id: identifier of the manifest.
        measurements: by index from 0.
        path: certificates from the signer's to the root.
    """

    kind: RimKind
    version: str
    product: str
    tag_id: str
    measurements: Mapping[int, ReferenceMeasurement] = field(repr=False)
    path: tuple[x509.Certificate, ...] = field(repr=False)

    @property
    def active(self) -> dict[int, ReferenceMeasurement]:
        """What is to be compared, by index."""
        return {index: each for index, each in self.measurements.items() if each.active}


def open_rim(data: bytes, *, root: x509.Certificate, at: datetime) -> Rim:
    """Verify a manifest, then read it.

    Args:
        data: the file; at most `MAX_RIM_BYTES`.
        root: the certificate that its signer must lead to.
        at: moment, with a time zone, at which the certificates must be valid.

    Raises:
        FormatError: it is no such manifest; also one whose signature has another form.
        LimitError: a named limit is exceeded.
        SignatureError: signature or certificates do not hold.
    """
    element = parse(data)
    if element.name != (_SWID, "SoftwareIdentity"):
        raise FormatError(
            f"RIM: the root is {element.tag[:80]!r}; expected SoftwareIdentity of ISO/IEC 19770-2:2015"
        )
    document = SignedDocument(element)
    document.verify(verify_chain(document.certificates, root, at))
    return _read(element, document.content(), path_of(document.certificates, root))


def _read(root: Element, content: tuple[Element, ...], path: tuple[x509.Certificate, ...]) -> Rim:
    meta, payload = (_only(content, name) for name in ("Meta", "Payload"))
    version = _text(meta, "colloquialVersion").upper()
    if VBIOS_VERSION.fullmatch(version):
        kind = RimKind.VBIOS
    elif DRIVER_VERSION.fullmatch(version):
        kind = RimKind.DRIVER
    else:
        raise FormatError(f"RIM: version {version!r} is neither a driver's nor a VBIOS's")
    measurements: dict[int, ReferenceMeasurement] = {}
    for resource in payload.elements():
        if resource.name != (_SWID, "Resource") or resource.elements():
            raise FormatError(f"RIM: {resource.tag[:80]!r} in the payload; expected resources alone")
        index, measurement = _measurement(resource)
        if index in measurements:
            raise FormatError(f"RIM: measurement {index} stands there twice")
        if len(measurements) == MAX_MEASUREMENTS:
            raise LimitError(f"RIM: more than {MAX_MEASUREMENTS} measurements")
        measurements[index] = measurement
    if not any(each.active for each in measurements.values()):
        raise FormatError("RIM: no active measurement, so it would accept everything")
    return Rim(
        kind=kind,
        version=version,
        product=_text(meta, "product"),
        tag_id=_text(root, "tagId"),
        measurements=MappingProxyType(measurements),
        path=path,
    )


def _measurement(resource: Element) -> tuple[int, ReferenceMeasurement]:
    if _text(resource, "type") != "Measurement":
        raise FormatError("RIM: a resource is no measurement")
    index = _number(resource, "index", MAX_MEASUREMENTS - 1)
    active = _text(resource, "active")
    if active not in ("True", "False"):
        raise FormatError(f"RIM: measurement {index} is active={active!r}; expected True or False")
    count = _number(resource, "alternatives", MAX_ALTERNATIVES)
    if not count or _number(resource, "size", MAX_RIM_BYTES) != MEASUREMENT_SIZE:
        raise FormatError(f"RIM: measurement {index} has no value, or values of another size than SHA-384's")
    values = [resource.attributes.get((_SHA384, f"Hash{number}"), "") for number in range(count)]
    hashes = sum(uri == _SHA384 for uri, _ in resource.attributes)
    if hashes != count or not all(map(_DIGEST.fullmatch, values)):
        raise FormatError(f"RIM: measurement {index} has {hashes} hashes; expected {count} of SHA-384")
    return index, ReferenceMeasurement(
        name=_text(resource, "name"),
        active=active == "True",
        values=tuple(bytes.fromhex(value) for value in values),
    )


def _only(elements: tuple[Element, ...], name: str) -> Element:
    found = [each for each in elements if each.name == (_SWID, name)]
    if len(found) != 1:
        raise FormatError(f"RIM: {len(found)} elements {name}, expected one")
    return found[0]


def _text(element: Element, name: str) -> str:
    value = element.attributes.get(("", name), "")
    if not 0 < len(value) <= _MOST_TEXT or not value.isprintable():
        raise FormatError(
            f"RIM: {element.tag[:80]} has no {name}, or one that is no text of {_MOST_TEXT} characters"
        )
    return value


def _number(element: Element, name: str, most: int) -> int:
    value = _text(element, name)
    if not _NUMBER.fullmatch(value) or int(value) > most:
        raise FormatError(f"RIM: {name}={value!r}; expected a number up to {most}")
    return int(value)
