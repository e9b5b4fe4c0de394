"""What a verifier demands of a TDX quote. What decides trust has no default: say it, or say Unproven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Final, TypeAlias

from cryptography import x509

from measurements.attestation_key import MAX_ROOTS
from measurements.errors import FormatError, LimitError
from measurements.policy import Unproven
from measurements.tdx.collateral import Collateral

REPORT_DATA_SIZE: Final = 64
REGISTER_SIZE: Final = 48
_RTMRS = 4


class TdAttributes(IntFlag):
    """TDATTRIBUTES (348551, "ATTRIBUTES"): properties of a TD that are fixed when it is built."""

    DEBUG = 1 << 0  # the host reads and writes the TD's state
    HGS_PLUS_PROF = 1 << 4
    PERF_PROF = 1 << 5
    PMT_PROF = 1 << 6
    ICSSD = 1 << 16
    LASS = 1 << 27
    SEPT_VE_DISABLE = 1 << 28  # accesses to memory that is not accepted end the TD instead of raising #VE
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KL = 1 << 31
    TPA = 1 << 62
    PERFMON = 1 << 63


class Xfam(IntFlag):
    """XFAM (348551, "XFAM"): extended processor features that a TD may use, in XCR0's and IA32_XSS's numbering."""

    X87 = 1 << 0
    SSE = 1 << 1
    AVX = 1 << 2
    AVX512 = 0b111 << 5
    PT = 1 << 8
    PKRU = 1 << 9
    CET = 0b11 << 11
    ULI = 1 << 14
    LBR = 1 << 15
    AMX = 0b11 << 17
    APX = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits:
    """Which bits of a field must be set, and which must not; the rest is free.

    Attributes:
        required: bits that must be 1.
        forbidden: bits that must be 0.
    """

    required: int = 0
    forbidden: int = 0

    def __post_init__(self) -> None:
        if self.required & self.forbidden:
            raise FormatError(f"policy: bits 0x{self.required & self.forbidden:x} are required and forbidden")

    @classmethod
    def exactly(cls, value: int) -> Bits:
        """Demand this value of a 64-bit field."""
        return cls(required=value, forbidden=~value & 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The 64 bytes that the TD must have put into its report, such as the verifier's nonce and zeros."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != REPORT_DATA_SIZE:
            raise FormatError(f"report data: {len(self.value)} bytes; expected {REPORT_DATA_SIZE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbPolicy:
    """How current the platform must be.

    Attributes:
        collateral: Intel's statements, fetched for this quote.
        accepted: statuses that are accepted, of platform, TDX module and quoting enclave ("UpToDate", …).
    """

    collateral: Collateral
    accepted: frozenset[str]

    def __post_init__(self) -> None:
        if not self.accepted:
            raise FormatError("policy: no TCB status is accepted; name at least UpToDate")


#: Acceptable values of one register, or why it is not looked at.
RegisterPolicy: TypeAlias = frozenset[bytes] | Unproven


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """Everything that ``measurements.tdx.verify`` demands.

    Attributes:
        roots: trust anchors of PCK certificates and TCB statements; ``measurements.tdx.intel.sgx_root_ca``.
        now: the moment, with a time zone, at which certificates and statements must be valid.
        tcb: how current the platform must be.
        report_data: what the TD must have quoted.
        mrtd: acceptable builds.
        rtmrs: for RTMR0 to RTMR3, acceptable values.
        mrconfigid: acceptable configurations.
        mrowner: acceptable owners.
        mrownerconfig: acceptable configurations of the owner.
        attributes: of ``TdAttributes``; DEBUG is forbidden whatever it says.
        xfam: of ``Xfam``.
    """

    roots: tuple[x509.Certificate, ...]
    now: datetime
    tcb: TcbPolicy | Unproven
    report_data: ReportData | Unproven
    mrtd: RegisterPolicy
    rtmrs: tuple[RegisterPolicy, RegisterPolicy, RegisterPolicy, RegisterPolicy]
    mrconfigid: RegisterPolicy
    mrowner: RegisterPolicy
    mrownerconfig: RegisterPolicy
    attributes: Bits | Unproven
    xfam: Bits | Unproven

    def __post_init__(self) -> None:
        if not 1 <= len(self.roots) <= MAX_ROOTS:
            raise LimitError(f"certificate roots: {len(self.roots)}; expected 1 to {MAX_ROOTS}")
        if self.now.utcoffset() is None:
            raise FormatError("policy: 'now' has no time zone")
        if len(self.rtmrs) != _RTMRS:
            raise FormatError(f"policy: {len(self.rtmrs)} RTMRs; expected {_RTMRS}")
        if isinstance(self.attributes, Bits) and self.attributes.required & TdAttributes.DEBUG:
            raise FormatError("policy: a TD in debug mode proves nothing and cannot be required")
        for name, values in self.registers().items():
            if isinstance(values, Unproven):
                continue
            if not values or any(len(value) != REGISTER_SIZE for value in values):
                raise FormatError(
                    f"policy: {name} needs one or more values of {REGISTER_SIZE} bytes, or Unproven"
                )

    def registers(self) -> Mapping[str, RegisterPolicy]:
        """Return the demands on registers by name, in the report's order."""
        return {
            "MRTD": self.mrtd,
            **{f"RTMR{index}": values for index, values in enumerate(self.rtmrs)},
            "MRCONFIGID": self.mrconfigid,
            "MROWNER": self.mrowner,
            "MROWNERCONFIG": self.mrownerconfig,
        }
