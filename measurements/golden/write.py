"""Golden document to JSON (docs/golden-format.md): canonical bytes to sign, a pretty form to diff."""

from __future__ import annotations

import json
from typing import Any

import rfc8785

from measurements.events import RegisterPrediction
from measurements.golden import gpu, image_layer, sev_snp, tdx
from measurements.golden.model import FORMAT, FORMAT_VERSION, GoldenDocument
from measurements.golden.registers import Table, identifier, write_table
from measurements.gpu.expectations import to_value as gpu_value
from measurements.moments import format_time
from measurements.prediction import LaunchShape, Prediction, shape_to_json


def to_canonical(document: GoldenDocument) -> bytes:
    """Return the document in canonical JSON (RFC 8785): what is signed, and what is hashed."""
    return rfc8785.dumps(to_value(document))


def to_pretty(document: GoldenDocument) -> bytes:
    """Return the same JSON value, indented, with a final newline: ``golden.json``, made for git diffs."""
    return pretty(to_value(document))


def to_value(document: GoldenDocument) -> dict[str, Any]:
    """Return the document as JSON values.

    Registers that several launch shapes share are written once, in ``registers``, ordered by index and then
    by first use; a shape names them by id. Within a register an event is written once too, and its courses
    of events are lists of positions.
    """
    layer = document.image_layer
    banks = document.banks
    table: Table[RegisterPrediction] = {}
    platforms: dict[str, list[Any]] = {}
    for prediction in document.predictions:
        platforms.setdefault(prediction.shape.platform, []).append(_shape(prediction, table))
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "image": {
            "name": document.image.name,
            "version": document.image.version,
            "svn": document.image.svn,
        },
        "source_date_epoch": document.source_date_epoch,
        "validity": {
            "not_before": format_time(document.validity.not_before),
            "not_after": format_time(document.validity.not_after),
        },
        "inputs": {"recipe": {"sha256": document.inputs.recipe}, "lock": {"sha256": document.inputs.lock}},
        "outputs": [
            {"name": output.name, "size": output.size, "sha256": output.sha256} for output in document.outputs
        ],
        "calculator": {"name": document.calculator.name, "version": document.calculator.version},
        "banks": [bank.value for bank in banks],
        "platforms": [{"name": name, "shapes": shapes} for name, shapes in platforms.items()],
        "registers": write_table(table, banks),
        "sev_snp": [sev_snp.write(reference) for reference in document.sev_snp],
        "tdx": tdx.write_all(document.tdx),
        **({} if layer is None else {image_layer.MEMBER: image_layer.write(layer)}),
        **({} if document.gpu is None else {gpu.MEMBER: gpu_value(document.gpu)}),
    }


def _shape(prediction: Prediction, table: Table[RegisterPrediction]) -> dict[str, Any]:
    return write_shape(prediction.shape) | {
        "registers": [identifier(register, table) for register in prediction.registers],
    }


def write_shape(shape: LaunchShape) -> dict[str, Any]:
    """Return a shape as it stands in the group of its platform, without registers."""
    value = shape_to_json(shape)
    del value["platform"]  # the group that the shape stands in has it
    return value


def pretty(value: Any) -> bytes:
    """Return JSON values in the form that is made for git diffs, with a final newline."""
    return (_pretty(value, "") + "\n").encode()


def _pretty(value: Any, indent: str) -> str:
    """Indent by two spaces; arrays of scalars and empty containers stay on one line, for short diffs."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{_scalar(name)}: {_pretty(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "[\n" + ",\n".join(inner + _pretty(item, inner) for item in value) + f"\n{indent}]"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
