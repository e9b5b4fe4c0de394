"""Assembling a golden document from predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
from measurements.golden.sev_snp import SevSnpReference
from measurements.golden.tdx import TdxReference
from measurements.golden.write import to_canonical
from measurements.gpu.expectations import GpuExpectations
from measurements.image_layer import ImageLayer
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
    sev_snp: Iterable[SevSnpReference] = (),
    tdx: Iterable[TdxReference] = (),
    image_layer: ImageLayer | None = None,
    gpu: GpuExpectations | None = None,
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
        sev_snp=tuple(sev_snp),
        tdx=tuple(_without_large_data_tdx(reference) for reference in tdx),
        image_layer=None if image_layer is None else _without_large_data_layer(image_layer),
        gpu=gpu,
    )
    if parse(to_canonical(document)) != document:
        raise FormatError(
            "golden document: does not survive being written and read; this is a fault of goldsmith"
        )
    return document


def _without_large_data(prediction: Prediction) -> Prediction:
    return replace(prediction, registers=tuple(map(_register, prediction.registers)))


def _without_large_data_tdx(reference: TdxReference) -> TdxReference:
    return replace(reference, registers=tuple(map(_register, reference.registers)))


def _without_large_data_layer(layer: ImageLayer) -> ImageLayer:
    return replace(
        layer,
        events={
            slot: event
            if event.data is None or len(event.data) <= MAX_EVENT_DATA
            else replace(event, data=None)
            for slot, event in layer.events.items()
        },
        registers=tuple(map(_register, layer.registers)),
        rtmrs=tuple(map(_register, layer.rtmrs)),
    )


def _register(register: RegisterPrediction) -> RegisterPrediction:
    return replace(
        register,
        alternatives=tuple(map(_sequence, register.alternatives)),
        phases=tuple(map(_sequence, register.phases)),
    )


def _sequence(sequence: Sequence) -> Sequence:
    return replace(sequence, events=tuple(map(_event, sequence.events)))


def _event(event: Event) -> Event:
    return event if event.data is None or len(event.data) <= MAX_EVENT_DATA else replace(event, data=None)
