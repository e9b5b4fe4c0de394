"""How current a platform, its TDX module and its quoting enclave are, by Intel's statements.

Intel "SGX and TDX Provisioning Certification Service API" version 4, Get TDX TCB Info, "TCB status": the algorithms.
"""

from __future__ import annotations

from measurements.errors import VerificationError
from measurements.formats.tdxquote import EnclaveReport, TdReport
from measurements.tdx.collateral import ModuleIdentity, QeIdentity, TcbInfo
from measurements.tdx.pck import PckPlatform


def platform_status(info: TcbInfo, platform: PckPlatform, svn: bytes) -> str:
    """Return the status of the highest level that the platform reaches.

    Args:
        info: Intel's statement about the platform.
        platform: out of the PCK certificate.
        svn: TEE_TCB_SVN, of the module that built the TD or of the one that runs it now, 16 bytes.

    Raises:
        VerificationError: the statement is about another platform, or the platform reaches no level.
    """
    if (info.fmspc, info.pceid) != (platform.fmspc, platform.pceid):
        raise VerificationError(
            f"the TCB information is about FMSPC {info.fmspc.hex()}, PCEID {info.pceid.hex()}; the platform has "
            f"{platform.fmspc.hex()}, {platform.pceid.hex()}"
        )
    # TEE_TCB_SVN[1] above 0 is the module's major version; then the first two components are the module's own,
    # which `module_status` compares.
    first = 2 if svn[1] > 0 else 0
    for level in info.levels:
        if (
            all(have >= least for have, least in zip(platform.components, level.sgx, strict=True))
            and platform.pcesvn >= level.pcesvn
            and all(have >= least for have, least in zip(svn[first:], level.tdx[first:], strict=True))
        ):
            return level.status
    raise VerificationError(
        f"the platform reaches no TCB level: SGX components {list(platform.components)}, PCESVN {platform.pcesvn}, "
        f"TDX components {list(svn)}"
    )


def module_status(info: TcbInfo, report: TdReport, svn: bytes) -> str:
    """Return the status of the TDX module with this TEE_TCB_SVN.

    Raises:
        VerificationError: Intel did not sign the module, or its version is not known.
    """
    minor, major = svn[0], svn[1]
    if major == 0:
        _check_module(info.module, report)
        return "UpToDate"
    name = f"TDX_{major:02X}"
    identity = info.modules.get(name)
    if identity is None:
        known = ", ".join(sorted(info.modules)) or "none"
        raise VerificationError(f"the TCB information has no module {name}; it has {known}")
    _check_module(identity, report)
    for level in identity.levels:
        if minor >= level.isvsvn:
            return level.status
    raise VerificationError(f"TDX module {name} with security version {minor} reaches no TCB level")


def enclave_status(identity: QeIdentity, report: EnclaveReport) -> str:
    """Return the status of the quoting enclave.

    Raises:
        VerificationError: it is another enclave, or its version reaches no level.
    """
    if report.mrsigner != identity.mrsigner:
        raise VerificationError(
            f"quoting enclave: signer {report.mrsigner.hex()}; expected {identity.mrsigner.hex()}"
        )
    if report.isvprodid != identity.isvprodid:
        raise VerificationError(f"quoting enclave: product {report.isvprodid}; expected {identity.isvprodid}")
    if report.miscselect & identity.miscselect_mask != identity.miscselect:
        raise VerificationError(f"quoting enclave: MISCSELECT 0x{report.miscselect:x} is not the identity's")
    if _masked(report.attributes, identity.attributes_mask) != identity.attributes:
        raise VerificationError(
            f"quoting enclave: attributes {report.attributes.hex()} are not the identity's"
        )
    for level in identity.levels:
        if report.isvsvn >= level.isvsvn:
            return level.status
    raise VerificationError(f"quoting enclave: security version {report.isvsvn} reaches no TCB level")


def _check_module(identity: ModuleIdentity, report: TdReport) -> None:
    if report.mrsignerseam != identity.mrsigner:
        raise VerificationError(f"TDX module: signer {report.mrsignerseam.hex()} is not Intel's")
    if _masked(report.seam_attributes, identity.mask) != identity.attributes:
        raise VerificationError(
            f"TDX module: attributes {report.seam_attributes.hex()} are not the identity's"
        )


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(left & right for left, right in zip(value, mask, strict=True))
