"""TDX quotes of version 4 and 5, as far as their bytes go; ``measurements.tdx.verify`` judges them.

Intel "SGX Data Center Attestation Primitives: TDX quote generation library", appendix A (quote format); the reports
inside: TDX Module ABI specification (348551), TDREPORT_STRUCT and TDINFO_STRUCT, and Intel SDM volume 3D, REPORT.
Only ECDSA with P-256 is defined, and only quotes that carry their PCK certificate chain are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from measurements.errors import LimitError
from measurements.events import Digest, HashAlgorithm
from measurements.formats.reader import Reader

MAX_QUOTE_SIZE: Final = 64 << 10
MAX_CERTIFICATES_SIZE: Final = 32 << 10
MAX_AUTH_DATA: Final = 1024

TEE_TDX: Final = 0x81
#: Header field "QE Vendor ID" of Intel's quoting enclaves.
INTEL_QE_VENDOR: Final = UUID("939a7233-f79c-4ca9-940a-0db3957f0607")

_ECDSA_P256 = 2
_BODY_TD10, _BODY_TD15 = 2, 3
_BODY_SIZES = {_BODY_TD10: 584, _BODY_TD15: 648}
_QE_REPORT_DATA, _PCK_CHAIN = 6, 5
_REGISTER_SIZE, _ENCLAVE_REPORT_SIZE, _SIGNATURE_SIZE = 48, 384, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """What the TDX module says of a trust domain. Byte fields have the sizes that their comment tells.

    Attributes:
        tee_tcb_svn: security versions of the TDX module, 16 bytes.
        mrseam: measurement of the TDX module, 48 bytes.
        mrsignerseam: its signer, 48 bytes; zeros for Intel.
        seam_attributes: its attributes, 8 bytes.
        td_attributes: TD attributes, a bit field.
        xfam: extended features that the TD may use, a bit field.
        mrtd: build of the TD.
        mrconfigid: configuration that the VMM set, 48 bytes.
        mrowner: owner that the VMM set, 48 bytes.
        mrownerconfig: owner's configuration that the VMM set, 48 bytes.
        rtmrs: RTMR0 to RTMR3.
        report_data: what the TD asked to be quoted, 64 bytes.
        tee_tcb_svn_2: security versions of the module that runs now, 16 bytes; ``None`` in older reports.
        mrservicetd: measurement of bound service TDs, 48 bytes; ``None`` in older reports.
    """

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: Digest
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[Digest, Digest, Digest, Digest]
    report_data: bytes
    tee_tcb_svn_2: bytes | None = None
    mrservicetd: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """The quoting enclave's report.

    Attributes:
        raw: the 384 bytes that are signed.
        miscselect: MISCSELECT.
        attributes: 16 bytes.
        mrenclave: 32 bytes.
        mrsigner: 32 bytes.
        isvprodid: product id.
        isvsvn: security version.
        report_data: 64 bytes.
    """

    raw: bytes = field(repr=False)
    miscselect: int
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    isvprodid: int
    isvsvn: int
    report_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQuote:
    """A parsed quote.

    Attributes:
        version: 4 or 5.
        qe_vendor: whose quoting enclave made it.
        signed: the bytes under the quote's signature: header and body.
        report: the trust domain.
        signature: r ‖ s, 64 bytes, by the attestation key over ``signed``.
        attestation_key: x ‖ y on P-256, 64 bytes.
        qe_report: of the enclave that holds the attestation key.
        qe_signature: r ‖ s, 64 bytes, by the PCK over ``qe_report.raw``.
        qe_auth_data: what the enclave bound beside its key.
        certificates: PEM of the PCK certificate and its issuers.
    """

    version: int
    qe_vendor: UUID
    signed: bytes = field(repr=False)
    report: TdReport
    signature: bytes = field(repr=False)
    attestation_key: bytes = field(repr=False)
    qe_report: EnclaveReport
    qe_signature: bytes = field(repr=False)
    qe_auth_data: bytes = field(repr=False)
    certificates: bytes = field(repr=False)


def parse(data: bytes) -> TdxQuote:
    """Parse a quote; zeros behind it, up to the end of a fixed buffer, are passed over.

    Raises:
        FormatError: no quote of a trust domain, another version or algorithm, or malformed.
        LimitError: a limit of this module is exceeded.
    """
    if len(data) > MAX_QUOTE_SIZE:
        raise LimitError(f"TDX quote has {len(data)} bytes; the limit is {MAX_QUOTE_SIZE}")
    reader = Reader(data, "TDX quote")
    version, key_type, tee = reader.u16("version"), reader.u16("attestation key type"), reader.u32("TEE type")
    if version not in (4, 5):
        raise reader.error(f"version {version}; expected 4 or 5", offset=0)
    if key_type != _ECDSA_P256:
        raise reader.error(
            f"attestation key type {key_type}; expected {_ECDSA_P256} (ECDSA on P-256)", offset=2
        )
    if tee != TEE_TDX:
        raise reader.error(f"TEE type 0x{tee:x}; expected 0x{TEE_TDX:x}, a trust domain", offset=4)
    reader.skip(4, "reserved")
    vendor = UUID(bytes=reader.take(16, "QE vendor"))
    reader.skip(20, "user data")
    kind, size = _BODY_TD10, _BODY_SIZES[_BODY_TD10]
    if version == 5:
        kind, size = reader.u16("body type"), reader.u32("body size")
        if _BODY_SIZES.get(kind) != size:
            raise reader.error(f"body of type {kind} with {size} bytes; expected 2 with 584 or 3 with 648")
    report = _td_report(reader.part(size, "TD report"), extended=kind == _BODY_TD15)
    signed = data[: reader.offset]
    section = reader.part(reader.u32("length of the signature section"), "TDX quote signature")
    if any(reader.rest()):
        raise reader.error("bytes other than zeros behind the quote")
    return _signature_section(section, version, vendor, signed, report)


def _td_report(reader: Reader, *, extended: bool) -> TdReport:
    def register(name: str) -> bytes:
        return reader.take(_REGISTER_SIZE, name)

    def digest(name: str) -> Digest:
        return Digest(HashAlgorithm.SHA384, register(name))

    return TdReport(
        tee_tcb_svn=reader.take(16, "TEE_TCB_SVN"),
        mrseam=register("MRSEAM"),
        mrsignerseam=register("MRSIGNERSEAM"),
        seam_attributes=reader.take(8, "SEAMATTRIBUTES"),
        td_attributes=reader.u64("TDATTRIBUTES"),
        xfam=reader.u64("XFAM"),
        mrtd=digest("MRTD"),
        mrconfigid=register("MRCONFIGID"),
        mrowner=register("MROWNER"),
        mrownerconfig=register("MROWNERCONFIG"),
        rtmrs=(digest("RTMR0"), digest("RTMR1"), digest("RTMR2"), digest("RTMR3")),
        report_data=reader.take(64, "REPORTDATA"),
        tee_tcb_svn_2=reader.take(16, "TEE_TCB_SVN_2") if extended else None,
        mrservicetd=register("MRSERVICETD") if extended else None,
    )


def _signature_section(
    reader: Reader, version: int, vendor: UUID, signed: bytes, report: TdReport
) -> TdxQuote:
    signature, key = (
        reader.take(_SIGNATURE_SIZE, "signature"),
        reader.take(_SIGNATURE_SIZE, "attestation key"),
    )
    outer = _certification(reader, _QE_REPORT_DATA, "QE report certification data")
    qe_report = _enclave_report(outer.take(_ENCLAVE_REPORT_SIZE, "QE report"))
    qe_signature = outer.take(_SIGNATURE_SIZE, "QE report signature")
    size = outer.u16("length of the QE authentication data")
    if size > MAX_AUTH_DATA:
        raise LimitError(f"TDX quote: {size} bytes of QE authentication data; the limit is {MAX_AUTH_DATA}")
    auth_data = outer.take(size, "QE authentication data")
    certificates = _certification(outer, _PCK_CHAIN, "PCK certificate chain").rest()
    if len(certificates) > MAX_CERTIFICATES_SIZE:
        raise LimitError(
            f"TDX quote: {len(certificates)} bytes of certificates; the limit is {MAX_CERTIFICATES_SIZE}"
        )
    return TdxQuote(
        version=version,
        qe_vendor=vendor,
        signed=signed,
        report=report,
        signature=signature,
        attestation_key=key,
        qe_report=qe_report,
        qe_signature=qe_signature,
        qe_auth_data=auth_data,
        certificates=certificates,
    )


def _certification(reader: Reader, expected: int, structure: str) -> Reader:
    kind = reader.u16("certification data type")
    if kind != expected:
        raise reader.error(f"certification data of type {kind}; expected {expected}, {structure}")
    part = reader.part(reader.u32("length of the certification data"), structure)
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes behind the {structure}")
    return part


def _enclave_report(raw: bytes) -> EnclaveReport:
    reader = Reader(raw, "QE report")
    reader.skip(16, "CPUSVN")
    miscselect = reader.u32("MISCSELECT")
    reader.skip(28, "reserved")
    attributes = reader.take(16, "ATTRIBUTES")
    mrenclave = reader.take(32, "MRENCLAVE")
    reader.skip(32, "reserved")
    mrsigner = reader.take(32, "MRSIGNER")
    reader.skip(96, "reserved")
    isvprodid, isvsvn = reader.u16("ISVPRODID"), reader.u16("ISVSVN")
    reader.skip(60, "reserved")
    return EnclaveReport(
        raw=raw,
        miscselect=miscselect,
        attributes=attributes,
        mrenclave=mrenclave,
        mrsigner=mrsigner,
        isvprodid=isvprodid,
        isvsvn=isvsvn,
        report_data=reader.take(64, "REPORTDATA"),
    )


def to_json(quote: TdxQuote) -> dict[str, Any]:
    """Return a quote's statements as JSON values, byte fields in lower-case hexadecimal."""
    report = quote.report
    newer = {
        "tee_tcb_svn_2": None if report.tee_tcb_svn_2 is None else report.tee_tcb_svn_2.hex(),
        "mrservicetd": None if report.mrservicetd is None else report.mrservicetd.hex(),
    }
    return {
        "version": quote.version,
        "qe_vendor": str(quote.qe_vendor),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mrseam": report.mrseam.hex(),
        "mrsignerseam": report.mrsignerseam.hex(),
        "seam_attributes": report.seam_attributes.hex(),
        "td_attributes": f"0x{report.td_attributes:016x}",
        "xfam": f"0x{report.xfam:016x}",
        "mrtd": report.mrtd.hex(),
        "mrconfigid": report.mrconfigid.hex(),
        "mrowner": report.mrowner.hex(),
        "mrownerconfig": report.mrownerconfig.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
        "report_data": report.report_data.hex(),
        **newer,
        "qe": {
            "mrenclave": quote.qe_report.mrenclave.hex(),
            "mrsigner": quote.qe_report.mrsigner.hex(),
            "isvprodid": quote.qe_report.isvprodid,
            "isvsvn": quote.qe_report.isvsvn,
        },
    }
