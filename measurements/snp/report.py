"""SEV-SNP attestation reports, versions 2, 3 and 5.

Implements ATTESTATION_REPORT of AMD 56860, SEV-SNP Firmware ABI 1.58, 7.3, table 23: 1184 bytes, of which the last
512 are the signature over all before. Reading one proves nothing; `measurements.snp.verify` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from measurements.errors import FormatError
from measurements.formats.reader import Reader
from measurements.snp import keys
from measurements.snp.policy import GuestPolicy
from measurements.snp.tcb import Product, TcbVersion, product_of

REPORT_SIZE: Final = 1184
SIGNED_SIZE: Final = 0x2A0
REPORT_DATA_SIZE: Final = 64
HOST_DATA_SIZE: Final = 32
VERSIONS: Final = (2, 3, 5)

#: Since which version the report has the processor's family and model, and the mitigation vectors.
_WITH_CPUID = 3
_WITH_MITIGATIONS = 5
_PLATFORM_BITS = {
    0: "smt_enabled",
    1: "tsme_enabled",
    2: "ecc_enabled",
    3: "rapl_disabled",
    4: "ciphertext_hiding_enabled",
    5: "alias_check_complete",
    7: "tio_enabled",
}


class Signer(IntEnum):
    """SIGNING_KEY: what signed a report."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareVersion:
    """Version and build of the SEV-SNP firmware."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationReport:
    """What the firmware says about a guest. Attributes are named as in table 23.

    Attributes:
        signed: the 672 bytes that are signed.
        signature: 512 bytes.
        version: 2, 3 or 5.
        product: the processor's generation; ``None`` in version 2, which does not say it.
        guest_svn: from the ID block.
        policy: the guest policy.
        family_id, image_id: 16 bytes each, from the ID block.
        vmpl: privilege level that asked for the report, 0 (highest) to 3; 0xffffffff for the host.
        current_tcb, reported_tcb, committed_tcb, launch_tcb: TCB_VERSION as numbers; ``tcb`` reads them.
        platform_info: bits of the platform by name; `bit_N` for one without a name.
        signer: VCEK, VLEK or none.
        chip_masked: the host withholds CHIP_ID; it is zero then.
        author_key_enabled: the ID block names an author key.
        report_data: 64 bytes of the guest's choice.
        measurement: the launch digest, 48 bytes.
        host_data: 32 bytes of the host's choice at launch.
        id_key_digest, author_key_digest: 48 bytes each; zero without an ID block.
        report_id, report_id_ma: 32 bytes each.
        chip_id: 64 bytes; on Turin the first eight are in use.
        current, committed: versions of the firmware.
        launch_mitigations, current_mitigations: bits since version 5, else ``None``.
    """

    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    version: int
    product: Product | None
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: int
    reported_tcb: int
    committed_tcb: int
    launch_tcb: int
    platform_info: frozenset[str]
    signer: Signer
    chip_masked: bool
    author_key_enabled: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    chip_id: bytes
    current: FirmwareVersion
    committed: FirmwareVersion
    launch_mitigations: int | None
    current_mitigations: int | None

    def tcbs(self, product: Product) -> dict[str, TcbVersion]:
        """Return the four TCB versions by name, read in the layout of a generation."""
        return {
            "current": TcbVersion.parse(self.current_tcb, product),
            "reported": TcbVersion.parse(self.reported_tcb, product),
            "committed": TcbVersion.parse(self.committed_tcb, product),
            "launch": TcbVersion.parse(self.launch_tcb, product),
        }


def parse(data: bytes) -> AttestationReport:
    """Read a report.

    Raises:
        FormatError: the size, version, algorithm, policy or processor is not one that is known, or reserved bytes
            are not zero.
    """
    if len(data) != REPORT_SIZE:
        raise FormatError(f"attestation report has {len(data)} bytes, expected {REPORT_SIZE}")
    reader = Reader(data, "attestation report")
    version = reader.u32("version")
    if version not in VERSIONS:
        raise FormatError(f"attestation report of version {version}; known are 2, 3 and 5")
    guest_svn, policy = reader.u32("guest SVN"), GuestPolicy.parse(reader.u64("policy"))
    family_id, image_id = reader.take(16, "family id"), reader.take(16, "image id")
    vmpl, algorithm = reader.u32("VMPL"), reader.u32("signature algorithm")
    if algorithm != keys.ALGORITHM:
        raise FormatError(f"attestation report signed with algorithm {algorithm}; expected {keys.ALGORITHM}")
    current_tcb, platform_info = reader.u64("current TCB"), _platform_info(reader.u64("platform info"))
    signer, chip_masked, author = _key_info(reader.u32("key info"))
    _zero(reader, 4)
    report_data, measurement = reader.take(64, "report data"), reader.take(48, "measurement")
    host_data, id_key = reader.take(32, "host data"), reader.take(48, "id key digest")
    author_key, report_id = reader.take(48, "author key digest"), reader.take(32, "report id")
    report_id_ma, reported_tcb = reader.take(32, "migration agent"), reader.u64("reported TCB")
    product = None
    if version >= _WITH_CPUID:
        product = product_of(reader.u8("family"), reader.u8("model"))
        reader.skip(1, "stepping")
    _zero(reader, 0x1A0 - reader.offset)
    chip_id, committed_tcb = reader.take(64, "chip id"), reader.u64("committed TCB")
    current, committed = _firmware(reader), _firmware(reader)
    launch_tcb = reader.u64("launch TCB")
    mitigations: tuple[int | None, int | None] = (None, None)
    if version >= _WITH_MITIGATIONS:
        mitigations = reader.u64("launch mitigations"), reader.u64("current mitigations")
    _zero(reader, SIGNED_SIZE - reader.offset)
    return AttestationReport(
        signed=data[:SIGNED_SIZE],
        signature=reader.rest(),
        version=version,
        product=product,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        current_tcb=current_tcb,
        reported_tcb=reported_tcb,
        committed_tcb=committed_tcb,
        launch_tcb=launch_tcb,
        platform_info=platform_info,
        signer=signer,
        chip_masked=chip_masked,
        author_key_enabled=author,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        report_id_ma=report_id_ma,
        chip_id=chip_id,
        current=current,
        committed=committed,
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
    )


def to_json(report: AttestationReport, product: Product | None = None) -> dict[str, Any]:
    """Return a report as JSON values; TCB versions are split where the generation is known."""
    known = report.product or product
    numbers = {
        "current": report.current_tcb,
        "reported": report.reported_tcb,
        "committed": report.committed_tcb,
        "launch": report.launch_tcb,
    }
    tcb: dict[str, Any] = {name: f"0x{value:016x}" for name, value in numbers.items()}
    if known is not None:
        tcb = {name: value.to_json() for name, value in report.tcbs(known).items()}
    return {
        "version": report.version,
        "product": None if known is None else known.value,
        "guest_svn": report.guest_svn,
        "policy": report.policy.to_json(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "tcb": tcb,
        "platform_info": sorted(report.platform_info),
        "signer": report.signer.name.lower(),
        "chip_masked": report.chip_masked,
        "author_key_enabled": report.author_key_enabled,
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "chip_id": report.chip_id.hex(),
        "firmware": {"current": str(report.current), "committed": str(report.committed)},
        "mitigations": {"launch": report.launch_mitigations, "current": report.current_mitigations},
    }


def _platform_info(value: int) -> frozenset[str]:
    # Firmware sets bits before the specification names them: bit 6 is in reports of 2025. They are told, not refused.
    return frozenset(
        _PLATFORM_BITS.get(bit, f"bit_{bit}") for bit in range(value.bit_length()) if value >> bit & 1
    )


def _key_info(value: int) -> tuple[Signer, bool, bool]:
    signer = value >> 2 & 0b111
    if value >> 5 or signer not in set(Signer):
        raise FormatError(f"attestation report: KEY_INFO 0x{value:x} has reserved bits or an unknown signer")
    return Signer(signer), bool(value & 2), bool(value & 1)


def _firmware(reader: Reader) -> FirmwareVersion:
    build, minor, major = reader.u8("build"), reader.u8("minor"), reader.u8("major")
    _zero(reader, 1)
    return FirmwareVersion(major=major, minor=minor, build=build)


def _zero(reader: Reader, length: int) -> None:
    start = reader.offset
    if any(reader.view(length, "reserved bytes")):
        raise reader.error("reserved bytes are not zero", offset=start)
