"""PCR 5: the partition table, and the end of boot services."""

from __future__ import annotations

from typing import Final

from measurements.errors import NotPredictableError, PredictionError
from measurements.events import Event, EventType, RegisterPrediction, Sequence, Stability
from measurements.prediction import BootPath
from measurements.tpm.boot import Boot, action, not_pinned, separator

_PCR = 5
_INVOCATION = "Exit Boot Services Invocation"
_SUCCESS = "Exit Boot Services Returned with Success"
_FAILURE = "Exit Boot Services Returned with Failure"

#: TCG PFP 1.06, 3.3.4.6, 8.3.3; edk2 Tcg2Dxe.c OnExitBootServices, OnExitBootServicesFailed. A kernel whose first
#: call met a changed memory map calls again (UEFI 2.10, 7.4.6), so both courses are sound.
EXIT_COURSES: Final = (
    ("exit-boot-services", (_INVOCATION, _SUCCESS)),
    ("exit-boot-services-retried", (_INVOCATION, _FAILURE, _INVOCATION, _SUCCESS)),
)


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the partition table; the end of boot services has two courses.

    Raises:
        PredictionError: a disk boot without a disk.
    """
    try:
        boot.require_known_loader()
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    events = [separator(boot, _PCR)]
    if boot.inputs.boot is BootPath.DISK:
        events.append(partition_table_event(boot))
    return RegisterPrediction(
        index=_PCR,
        stability=Stability.IMAGE,
        alternatives=tuple(
            Sequence(label=label, events=(*events, *(action(boot, _PCR, text) for text in texts)))
            for label, texts in EXIT_COURSES
        ),
    )


def partition_table_event(boot: Boot) -> Event:
    """Return the event of the disk's partition table.

    Raises:
        PredictionError: there is no disk.
    """
    if boot.inputs.disk is None:
        raise PredictionError(
            "a disk boot needs the disk's partition table; pass the disk, or boot with -kernel"
        )
    # TCG PFP 1.06, 10.2.6 UEFI_GPT_DATA; edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib
    # Tcg2MeasureGptTable. The header names the disk's size: growing the disk changes the register.
    content = boot.inputs.disk.measured_bytes()
    return boot.event(
        _PCR,
        EventType.EFI_GPT_EVENT,
        content,
        description="GUID partition table",
        cause="disk partition table",
        data=content,
    )
