"""The attestation report of a GPU: SPDM GET_MEASUREMENTS and MEASUREMENTS (DMTF DSP0274 1.1.0, 10.11).

The request stands before the response, because the signature covers both (10.11.1, L1). NVIDIA's opaque data
behind the measurements says which driver and firmware were running.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from measurements.errors import FormatError, LimitError
from measurements.formats.reader import Reader

#: Bytes of a report as the driver gives it; a Hopper report has 4,117.
MAX_REPORT_BYTES: Final = 1 << 16
NONCE_SIZE: Final = 32
#: SHA-384 measurements, and signatures of ECDSA on P-384 as r ‖ s.
MEASUREMENT_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96
MAX_OPAQUE_FIELDS: Final = 256

_VERSION_1_1 = 0x11
_GET_MEASUREMENTS, _MEASUREMENTS = 0xE0, 0x60
_SIGNATURE_REQUESTED = 0x01
_DMTF_SPECIFICATION = 0x01
_RAW = 0x80  # DMTFSpecMeasurementValueType, bit 7: the value is no digest
_HEX = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_MOST_TEXT = 64
_ENABLED, _DISABLED = 0xAA, 0x55


class OpaqueField(IntEnum):
    """Types of NVIDIA's opaque fields that are read here; the others are kept by number."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    CHIP_INFO = 35


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report whose signature nobody has verified yet.

    Attributes:
        nonce: what the GPU was asked with, 32 bytes; from the request, which the signature covers.
        measurements: by index from 0, as RIMs count: 48 bytes each. SPDM counts from 1.
        opaque: NVIDIA's fields by type.
        signed: what the signature covers: the request and the response without its signature.
        signature: ECDSA on P-384, r ‖ s.
    """

    nonce: bytes
    measurements: Mapping[int, bytes] = field(repr=False)
    opaque: Mapping[int, bytes] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def driver_version(self) -> str:
        """Version of the driver, such as "550.90.07".

        Raises:
            FormatError: the field is absent or no text.
        """
        return self._text(OpaqueField.DRIVER_VERSION)

    @property
    def vbios_version(self) -> str:
        """Version of the GPU's firmware in the form of NVIDIA's tools, such as "96.00.9F.00.01".

        Raises:
            FormatError: the field is absent or has another size than 8 bytes.
        """
        raw = self._bytes(OpaqueField.VBIOS_VERSION, 8)
        # A little-endian 32-bit version, and the OEM's byte behind it.
        return ".".join(f"{byte:02X}" for byte in (*reversed(raw[:4]), raw[4]))

    @property
    def firmware_id(self) -> bytes | None:
        """Digest of the firmware that holds the attestation key, 48 bytes; older reports have none.

        Raises:
            FormatError: the field has another size.
        """
        if OpaqueField.FWID not in self.opaque:
            return None
        return self._bytes(OpaqueField.FWID, MEASUREMENT_SIZE)

    @property
    def nvdec0_disabled(self) -> bool:
        """Whether the video decoder is off, whose firmware then is not measured.

        Raises:
            FormatError: the field is there and says neither on nor off.
        """
        if OpaqueField.NVDEC0_STATUS not in self.opaque:
            return False
        status = self._bytes(OpaqueField.NVDEC0_STATUS, 1)[0]
        if status not in (_ENABLED, _DISABLED):
            raise FormatError(
                f"GPU report: NVDEC0 status 0x{status:02x}; expected 0x{_ENABLED:02x} or 0x{_DISABLED:02x}"
            )
        return status == _DISABLED

    @property
    def chip(self) -> str | None:
        """Name of the chip, such as "GB100", where the report has one; Hopper's has none."""
        return self._text(OpaqueField.CHIP_INFO) if OpaqueField.CHIP_INFO in self.opaque else None

    @property
    def vbios_rim_id(self) -> str:
        """Name under which NVIDIA publishes the reference values of the firmware.

        Raises:
            FormatError: a field is absent or no text.
        """
        parts = (
            self._text(kind).strip().upper()
            for kind in (OpaqueField.PROJECT, OpaqueField.PROJECT_SKU, OpaqueField.CHIP_SKU)
        )
        return "_".join(["NV_GPU_VBIOS", *parts, self.vbios_version.replace(".", "")])

    def _text(self, kind: OpaqueField) -> str:
        raw = self._bytes(kind).split(b"\0", 1)[0]
        if not raw or len(raw) > _MOST_TEXT or not raw.isascii() or not raw.decode("ascii").isprintable():
            raise FormatError(f"GPU report: {kind.name} is no text of 1 to {_MOST_TEXT} characters")
        return raw.decode("ascii")

    def _bytes(self, kind: OpaqueField, size: int | None = None) -> bytes:
        raw = self.opaque.get(kind)
        if raw is None:
            raise FormatError(f"GPU report: the opaque data has no {kind.name} (type {kind.value})")
        if size is not None and len(raw) != size:
            raise FormatError(f"GPU report: {kind.name} has {len(raw)} bytes; expected {size}")
        return raw


def parse_report(data: bytes) -> Report:
    """Parse a report: binary, or as hexadecimal text with white space around it.

    Raises:
        FormatError: it does not follow the specification, or bytes are left over.
        LimitError: it is larger than `MAX_REPORT_BYTES`, or has too many opaque fields.
    """
    data = _binary(data)
    reader = Reader(data, "GPU report")
    nonce = _request(reader)
    _expect(reader, "version of the response", reader.u8(), _VERSION_1_1)
    _expect(reader, "code of the response", reader.u8(), _MEASUREMENTS)
    reader.skip(2, "parameters of the response")  # Param1 is reserved, Param2 the slot: both are signed
    count = reader.u8("number of blocks")
    record = reader.part(
        int.from_bytes(reader.take(3, "length of the record"), "little"), "measurement record"
    )
    measurements = _measurements(record, count)
    reader.skip(NONCE_SIZE, "nonce of the response")  # the GPU's own
    opaque = _opaque(reader.part(reader.u16("length of opaque data"), "opaque data"))
    signed = data[: reader.offset]
    signature = reader.take(SIGNATURE_SIZE, "signature")
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes behind the signature")
    return Report(
        nonce=nonce,
        measurements=MappingProxyType(measurements),
        opaque=MappingProxyType(opaque),
        signed=signed,
        signature=signature,
    )


def _binary(data: bytes) -> bytes:
    if len(data) > 2 * MAX_REPORT_BYTES + 1024:
        raise LimitError(f"GPU report of {len(data)} bytes; the limit is {MAX_REPORT_BYTES}")
    if data[:1] != bytes((_VERSION_1_1,)):  # a control character, with which no text starts
        text = _HEX.fullmatch(data.strip())
        if text is None:
            raise FormatError("GPU report: neither SPDM 1.1 messages nor hexadecimal text")
        data = bytes.fromhex(text[1].decode("ascii"))
    if len(data) > MAX_REPORT_BYTES:
        raise LimitError(f"GPU report of {len(data)} bytes; the limit is {MAX_REPORT_BYTES}")
    return data


def _request(reader: Reader) -> bytes:
    """Return the nonce of GET_MEASUREMENTS (table 38)."""
    _expect(reader, "version of the request", reader.u8(), _VERSION_1_1)
    _expect(reader, "code of the request", reader.u8(), _GET_MEASUREMENTS)
    attributes = reader.u8("Param1")
    if not attributes & _SIGNATURE_REQUESTED:
        raise reader.error("no signature was asked for (Param1)")
    reader.skip(1, "Param2")
    nonce = reader.take(NONCE_SIZE, "nonce")
    reader.skip(1, "SlotIDParam")
    return nonce


def _measurements(record: Reader, count: int) -> dict[int, bytes]:
    """Return digests by index from 0 (DSP0274 1.1.0, tables 40, 42 and 43)."""
    found: dict[int, bytes] = {}
    for _ in range(count):
        number = record.u8("index")
        _expect(record, "measurement specification", record.u8(), _DMTF_SPECIFICATION)
        block = record.part(record.u16("size"), "measurement")
        kind = block.u8("type")
        size = block.u16("value size")
        if kind & _RAW or size != MEASUREMENT_SIZE or block.remaining != size:
            raise block.error(
                f"measurement {number} has type 0x{kind:02x} and {size} bytes in {block.remaining}; "
                f"expected a digest of {MEASUREMENT_SIZE}"
            )
        if number == 0 or number - 1 in found:
            raise block.error(f"measurement index {number} is zero or stands there twice")
        found[number - 1] = block.rest()
    if not found or record.remaining:
        raise record.error(f"{count} measurements, and {record.remaining} bytes behind them")
    return found


def _opaque(reader: Reader) -> dict[int, bytes]:
    """Return NVIDIA's fields: type, size and value, little-endian, one behind the other."""
    found: dict[int, bytes] = {}
    while reader.remaining:
        kind = reader.u16("type")
        value = reader.take(reader.u16("size"), "value")
        if kind in found:
            raise reader.error(f"field {kind} stands there twice")
        if len(found) == MAX_OPAQUE_FIELDS:
            raise LimitError(f"GPU report: more than {MAX_OPAQUE_FIELDS} opaque fields")
        found[kind] = value
    return found


def _expect(reader: Reader, what: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise reader.error(f"{what} is 0x{got:02x}; expected 0x{wanted:02x}")
