"""Assembling a golden document from predictions."""

from __future__ import annotations

from collections.abc import Iterable

from measurements.errors import FormatError
from measurements.events import Event, RegisterPrediction, Sequence
from measurements.golden.model import (
    MAX_EVENT_DATA,
    Calculator,
    GoldenDocument,
    ImageIdentity,
    Inputs,
    Output,
    Validity,
)
from measurements.golden.read import parse
from measurements.golden.write import to_canonical
from measurements.prediction import Prediction


def document_from(
    *,
    image: ImageIdentity,
    source_date_epoch: int,
    validity: Validity,
    inputs: Inputs,
    outputs: Iterable[Output],
    calculator: Calculator,
    predictions: Iterable[Prediction],
) -> GoldenDocument:
    """Assemble a document: sort the outputs, group the shapes by platform, drop event data over the limit.

    The document is written and read back once, so what is returned can be parsed by every reader.

    Raises:
        FormatError: two shapes or outputs share a name, the events carry different banks, or a text is empty
            or of the wrong form.
        LimitError: more of something than the format holds.
    """
    shapes = list(predictions)
    order = list(dict.fromkeys(prediction.shape.platform for prediction in shapes))
    shapes.sort(key=lambda prediction: order.index(prediction.shape.platform))
    document = GoldenDocument(
        image=image,
        source_date_epoch=source_date_epoch,
        validity=validity,
        inputs=inputs,
        outputs=tuple(sorted(outputs, key=lambda output: output.name)),
        calculator=calculator,
        predictions=tuple(_without_large_data(prediction) for prediction in shapes),
    )
    if parse(to_canonical(document)) != document:
        raise FormatError(
            "golden document: does not survive being written and read; this is a fault of goldsmith"
        )
    return document


def _without_large_data(prediction: Prediction) -> Prediction:
    def event(value: Event) -> Event:
        if value.data is None or len(value.data) <= MAX_EVENT_DATA:
            return value
        return Event(
            register=value.register,
            type=value.type,
            digests=value.digests,
            description=value.description,
            cause=value.cause,
        )

    def sequence(value: Sequence) -> Sequence:
        return Sequence(label=value.label, events=tuple(event(item) for item in value.events))

    def register(value: RegisterPrediction) -> RegisterPrediction:
        return RegisterPrediction(
            index=value.index,
            stability=value.stability,
            alternatives=tuple(sequence(item) for item in value.alternatives),
            reason=value.reason,
            phases=tuple(sequence(item) for item in value.phases),
        )

    return Prediction(
        shape=prediction.shape, registers=tuple(register(item) for item in prediction.registers)
    )
