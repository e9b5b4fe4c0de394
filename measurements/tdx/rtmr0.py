"""RTMR0: what the virtual machine is made of and configured with (PCR 1 and 7 of a machine with a TPM)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.events import Event, EventType
from measurements.formats.tdvf import SectionType
from measurements.formats.uki import ImageKind
from measurements.platforms.firmware import SmbiosMeasurement
from measurements.tdx.boot import TdxBoot, event, require_profile, to_rtmr
from measurements.tdx.td_hob import Vmm
from measurements.tpm import pcr01, pcr07
from measurements.tpm.boot import separator
from measurements.tpm.stub import require_generation

_RTMR = 0
_FW_CFG_EVENT: Final = b"QEMU FW CFG\0"
_FW_CFG_NAME_SIZE = 56
#: edk2 before this release closes RTMR0 a second time when it is ready to boot (commit efaf8931bb).
SEPARATOR_MOVED: Final = (2024, 11)

_GCE: Final = (
    "not predictable: Compute Engine's ACPI tables, variables and boot options are its own; the TD HOB and the "
    "variables' volume are among the events"
)


def events(boot: TdxBoot) -> Iterator[Event]:
    """Yield the events in order.

    Raises:
        NotPredictableError: the next one is not known; those before it have been yielded.
    """
    # edk2 OvmfPkg/Library/TdxHelperLib: TdxHelperMeasureTdHob, TdxHelperMeasureCfvImage, in SEC.
    yield event(
        _RTMR,
        EventType.EFI_HANDOFF_TABLES2,
        boot.hob(),
        description="TD HOB",
        cause="memory size",
        data=None,
    )
    volume = boot.tdvf.only(SectionType.CFV)
    yield event(
        _RTMR,
        EventType.EFI_PLATFORM_FIRMWARE_BLOB2,
        bytes(volume.data),
        description="variables of the firmware (CFV)",
        cause="firmware CFV",
        data=None,
    )
    if boot.inputs.vmm is Vmm.GCE:
        raise NotPredictableError(_GCE)
    yield from _fw_cfg(boot)
    require_profile(boot)
    if boot.variables_problem is not None:
        raise NotPredictableError(boot.variables_problem)
    inner = boot.boot
    if inner.secure_boot.variables is None:
        raise NotPredictableError("not predictable: what this firmware keeps in SecureBoot is not known")
    # SecurityPkg/Tcg/TdTcg2Dxe (OvmfPkg/Tcg/TdTcg2Dxe) MeasureSecureBootPolicy: PCR 7 is RTMR0.
    yield from to_rtmr(_RTMR, pcr07.variable_events(inner, inner.secure_boot.variables))
    yield from to_rtmr(_RTMR, (separator(inner, _RTMR),))
    profile = inner.require_profile()
    if profile.acpi_measured:
        yield from to_rtmr(_RTMR, pcr01.acpi_events(inner, profile))
    if profile.smbios is not SmbiosMeasurement.NONE:
        yield from to_rtmr(_RTMR, (pcr01.smbios_event(inner),))
    yield from to_rtmr(_RTMR, pcr01.boot_variable_events(inner, profile))
    if boot.build.release is None:
        raise NotPredictableError(
            f"not predictable: profile {profile.name!r} does not say of which edk2 release the firmware is"
        )
    if boot.build.release < SEPARATOR_MOVED:
        yield from to_rtmr(_RTMR, (separator(inner, _RTMR),))
    if inner.secure_boot.enabled is None or inner.secure_boot.refusal is not None:
        raise NotPredictableError(
            f"not predictable: {inner.secure_boot.refusal or 'whether Secure Boot is on is not known'}"
        )
    yield from to_rtmr(_RTMR, pcr07.authority_events(inner))
    if inner.image.kind is ImageKind.UKI and (types := require_generation(inner.image).smbios_types):
        yield from to_rtmr(_RTMR, pcr01.stub_smbios_events(inner, types))


def _fw_cfg(boot: TdxBoot) -> Iterator[Event]:
    if not boot.build.measures_fw_cfg:
        return
    if boot.inputs.fw_cfg is None:
        raise NotPredictableError(
            "not predictable: this firmware measures fw_cfg files of the machine, and they were not supplied"
        )
    # QemuFwCfgCacheInit.c CacheFwCfgInfoWithOptionalMeasurment: the name's 56 bytes, then zeros.
    for name, content in boot.inputs.fw_cfg.measured():
        yield event(
            _RTMR,
            EventType.PLATFORM_CONFIG_FLAGS,
            content,
            description=f"QEMU FW CFG: {name}",
            cause=f"fw_cfg {name}",
            data=_FW_CFG_EVENT + name.encode("ascii").ljust(_FW_CFG_NAME_SIZE, b"\0"),
        )
