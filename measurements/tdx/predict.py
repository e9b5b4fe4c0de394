"""Predict what a trust domain's registers hold after one launch: MRTD, RTMR0 to RTMR3, and the TD HOB.

Builder and auditors run this same code. Every value is the fold of events that name their cause; a register
whose events do not follow from the inputs has no value, says why, and still shows the events before the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from measurements.errors import FormatError, NotPredictableError
from measurements.events import Digest, Event, HashAlgorithm, Sequence, event_type_name
from measurements.prediction import FirmwareIdentity
from measurements.tdx import mrtd, rtmr0, rtmr1, rtmr2
from measurements.tdx.boot import TdxBoot, examine
from measurements.tdx.inputs import TdxInputs
from measurements.tdx.mrtd import PageOrder

_BANK: Final = HashAlgorithm.SHA384
RTMR3: Final = (
    "firmware and kernel extend nothing into RTMR3: it is zero until an application extends it, and what "
    "applications extend is theirs to tell"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmrPrediction:
    """What one RTMR may hold once the kernel runs.

    Attributes:
        index: 0 to 3.
        courses: every acceptable course of events, the usual one first; empty when the value is not known.
        known: the events before the first that is not known; empty where there are courses.
        reason: why there is no value, or what a reader must know; ``None`` when there is nothing to say.
    """

    index: int
    courses: tuple[Sequence, ...]
    known: tuple[Event, ...] = ()
    reason: str | None = None

    @property
    def value(self) -> Digest | None:
        """The value after the usual course."""
        return self.courses[0].value(_BANK) if self.courses else None

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the usual course, or as many as are known."""
        return self.courses[0].events if self.courses else self.known


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPrediction:
    """What a quote of this launch holds.

    Attributes:
        firmware: the firmware file.
        mrtd: by the order in which the VMM adds pages; empty when ``mrtd_reason`` says why.
        mrtd_reason: why there is no MRTD.
        hob: the measured part of the TD HOB; ``None`` when ``hob_reason`` says why.
        hob_reason: why there is no TD HOB.
        registers: RTMR0 to RTMR3.
        warnings: what keeps the machine from starting the image, or a reader should know.
    """

    firmware: FirmwareIdentity
    mrtd: dict[PageOrder, Digest]
    mrtd_reason: str | None
    hob: bytes | None = field(repr=False)
    hob_reason: str | None
    registers: tuple[RtmrPrediction, ...]
    warnings: tuple[str, ...]


def predict_tdx(inputs: TdxInputs) -> TdxPrediction:
    """Predict the registers of a trust domain.

    Raises:
        FormatError: the firmware has no TDVF metadata, or it, the image or a blob of the machine is malformed.
        PredictionError: the inputs contradict each other, or the image cannot boot.
    """
    boot = examine(inputs)
    values, mrtd_reason = {}, None
    try:
        values = {order: mrtd.measure(boot.tdvf, order) for order in PageOrder}
    except NotPredictableError as error:
        mrtd_reason = str(error)
    hob, hob_reason = None, None
    try:
        hob = boot.hob()
    except (NotPredictableError, FormatError) as error:
        hob_reason = str(error)
    return TdxPrediction(
        firmware=inputs.firmware_identity(),
        mrtd=values,
        mrtd_reason=mrtd_reason,
        hob=hob,
        hob_reason=hob_reason,
        registers=(
            _one_course(0, lambda: rtmr0.events(boot)),
            _courses(1, lambda: rtmr1.sequences(boot)),
            _one_course(2, lambda: rtmr2.events(boot)),
            RtmrPrediction(index=3, courses=(), reason=RTMR3),
        ),
        warnings=tuple(_warnings(boot)),
    )


def _one_course(index: int, events: Callable[[], Iterator[Event]]) -> RtmrPrediction:
    known: list[Event] = []
    try:
        for event in events():
            known.append(event)  # noqa: PERF402 - those before an exception must stay
    except NotPredictableError as error:
        return RtmrPrediction(index=index, courses=(), known=tuple(known), reason=str(error))
    return RtmrPrediction(index=index, courses=(Sequence(label="boot", events=tuple(known)),))


def _courses(index: int, courses: Callable[[], tuple[Sequence, ...]]) -> RtmrPrediction:
    try:
        return RtmrPrediction(index=index, courses=courses())
    except NotPredictableError as error:
        return RtmrPrediction(index=index, courses=(), reason=str(error))


def _warnings(boot: TdxBoot) -> Iterator[str]:
    if boot.variants and boot.boot.secure_boot.refusal is not None:
        yield f"this firmware would not start the image: {boot.boot.secure_boot.refusal}"


def prediction_to_json(prediction: TdxPrediction) -> dict[str, Any]:
    """Return the object that ``goldsmith predict tdx --json`` prints; digests in lower-case hexadecimal.

    ``mrtd``: values by page order, or null. ``rtmr0`` to ``rtmr3``: the usual value, or null. ``td_hob``: its
    digest. ``alternatives``: every acceptable value of a register that has several, with its label. ``reasons``:
    why a value is null. ``events``: those of the usual course, each with the register's value after it.
    """
    reasons = {f"rtmr{each.index}": each.reason for each in prediction.registers if each.reason is not None}
    if prediction.mrtd_reason is not None:
        reasons["mrtd"] = prediction.mrtd_reason
    if prediction.hob_reason is not None:
        reasons["td_hob"] = prediction.hob_reason
    hob = None if prediction.hob is None else Digest.of(_BANK, prediction.hob).hex()
    return {
        "firmware": {
            "name": prediction.firmware.name,
            "sha256": prediction.firmware.sha256,
            "sha384": prediction.firmware.sha384,
        },
        "mrtd": {
            order.value: prediction.mrtd[order].hex() if order in prediction.mrtd else None
            for order in PageOrder
        },
        **{
            f"rtmr{each.index}": None if each.value is None else each.value.hex()
            for each in prediction.registers
        },
        "td_hob": {"sha384": hob, "size": None if prediction.hob is None else len(prediction.hob)},
        "alternatives": {
            f"rtmr{each.index}": [
                {"label": course.label, "value": course.value(_BANK).hex()} for course in each.courses
            ]
            for each in prediction.registers
            if len(each.courses) > 1
        },
        "reasons": reasons,
        "warnings": list(prediction.warnings),
        "events": [
            {
                "register": f"rtmr{register.index}",
                "type": "-" if event.type is None else event_type_name(event.type),
                "description": event.description,
                "cause": event.cause,
                "digest": event.digest(_BANK).hex(),
                "value": value.hex(),
                "data": None if event.data is None else event.data.hex(),
            }
            for register in prediction.registers
            for event, value in running_values(register.events)
        ],
    }


def running_values(events: tuple[Event, ...]) -> Iterator[tuple[Event, Digest]]:
    """Yield each event with the value that its register has after it."""
    value = Digest.zero(_BANK)
    for event in events:
        value = value.extend(event.digest(_BANK))
        yield event, value
