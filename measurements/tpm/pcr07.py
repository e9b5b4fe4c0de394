"""PCR 7: Secure Boot's policy, and which entry of it allowed the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from measurements.events import Event, EventType, RegisterPrediction, Stability
from measurements.formats.efivar import IMAGE_SECURITY_DATABASE, Signature, Variable
from measurements.tpm.boot import CALIBRATE, Boot, not_pinned, pinned, separator

_PCR = 7


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the variable store and the image's signatures."""
    state = boot.secure_boot
    if state.variables is None or state.enabled is None:
        return not_pinned(_PCR, CALIBRATE)
    if state.refusal is not None:
        return not_pinned(_PCR, f"not predictable: {state.refusal}")
    events = [
        # TCG PFP 1.06, 3.3.4.8; edk2 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c MeasureSecureBootPolicy: variables,
        # separator.
        *variable_events(boot, state.variables),
        separator(boot, _PCR),
        *authority_events(boot),
    ]
    return pinned(_PCR, Stability.KEYS, events)


def variable_events(boot: Boot, variables: Iterable[Variable]) -> Iterator[Event]:
    """Yield one event for each variable of the Secure Boot policy."""
    return (_variable(boot, variable) for variable in variables)


def authority_events(boot: Boot) -> Iterator[Event]:
    """Yield one event for each db entry that allowed an image to start."""
    # edk2 SecurityPkg/Library/DxeImageVerificationLib/Measurement.c MeasureVariable: the one db entry that
    # verified the image, when it is loaded.
    return (authority_event(boot, entry) for entry in boot.secure_boot.authorities)


def _variable(boot: Boot, variable: Variable) -> Event:
    content = variable.encode()
    return boot.event(
        _PCR,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        content,
        description=f"variable {variable.name}",
        cause=f"variable {variable.name}",
        data=content,
    )


def authority_event(boot: Boot, entry: Signature) -> Event:
    """Return the event of the db entry that allowed an image to start."""
    content = Variable(guid=IMAGE_SECURITY_DATABASE, name="db", data=entry.encode()).encode()
    return boot.event(
        _PCR,
        EventType.EFI_VARIABLE_AUTHORITY,
        content,
        description="db entry that verified the image",
        cause="uki signature",
        data=content,
    )
