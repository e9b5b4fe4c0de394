"""PCR 0: the firmware."""

from __future__ import annotations

from measurements.errors import NotPredictableError
from measurements.events import Digests, Event, EventType, RegisterPrediction, Stability, digests_of
from measurements.platforms.firmware import FirmwareProfile, PeifvMode
from measurements.prediction import BootPath
from measurements.tpm.boot import Boot, not_pinned, pinned, separator

_PCR = 0


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the firmware file and its profile."""
    try:
        profile, firmware = boot.require_profile(), boot.require_firmware()
        peifv = _measured_peifv(boot, profile, firmware.peifv)
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    version = profile.crtm_version.encode("utf-16-le") + b"\0\0"
    events = (
        # TCG PFP 1.06, 3.3.4.1; edk2 SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c MeasureCRTMVersion: the string with
        # its NUL.
        boot.event(
            _PCR,
            EventType.S_CRTM_VERSION,
            version,
            description="S-CRTM version",
            cause="firmware version string",
            data=version,
        ),
        # Tcg2Pei.c MeasureMainBios: the volumes in memory, PEIFV first. The event's address and length are
        # not hashed.
        _volume("PEIFV", peifv),
        _volume("DXEFV", digests_of(firmware.dxefv, boot.banks)),
        separator(boot, _PCR),
    )
    stability = Stability.VM_SHAPE if profile.peifv is PeifvMode.CALIBRATE else Stability.FIRMWARE
    return pinned(_PCR, stability, events)


def _volume(name: str, digests: Digests) -> Event:
    return Event(
        register=_PCR,
        type=EventType.EFI_PLATFORM_FIRMWARE_BLOB,
        digests=digests,
        description=f"firmware volume {name}",
        cause=f"firmware {name}",
    )


def _measured_peifv(boot: Boot, profile: FirmwareProfile, volume: bytes) -> Digests:
    # PEIMs run in place before Tcg2Pei hashes their volume, so their variables are part of it.
    match profile.peifv:
        case PeifvMode.FILE:
            return digests_of(volume, boot.banks)
        case PeifvMode.PATCHED:
            patched = bytearray(volume)
            for patch in profile.patches:
                end = patch.offset + len(patch.data)
                if end > len(patched):
                    raise NotPredictableError(
                        f"not predictable: profile {profile.name!r} patches PEIFV up to offset {end}, the "
                        "volume "
                        f"has {len(patched)} bytes; calibrate again"
                    )
                patched[patch.offset : end] = patch.data
            return digests_of(patched, boot.banks)
        case PeifvMode.CALIBRATE:
            inputs = boot.inputs
            path = "-kernel" if inputs.boot is BootPath.DIRECT else "disk"
            shape = f"{inputs.memory_mib} MiB, {inputs.vcpus} vCPUs and {path}"
            seen = profile.observation(inputs.memory_mib, inputs.vcpus, inputs.boot)
            if seen is None:
                raise NotPredictableError(
                    "not predictable: calibrate; this firmware measures variables that depend on the "
                    f"machine, and no boot with {shape} was observed (goldsmith calibrate)"
                )
            missing = [bank.value for bank in boot.banks if bank not in seen.digests]
            if missing:
                raise NotPredictableError(
                    f"not predictable: calibrate; the boot observed with {shape} lacks {', '.join(missing)}"
                )
            return {bank: seen.digests[bank] for bank in boot.banks}
