"""JSON to golden document: strict, bounded, every stated value refolded (docs/golden-format.md)."""

from __future__ import annotations

from typing import Any

from measurements.errors import FormatError, LimitError
from measurements.events import (
    HashAlgorithm,
    RegisterPrediction,
)
from measurements.golden import gpu, image_layer, model, sev_snp, tdx
from measurements.golden.identity import read_firmware, read_gpus
from measurements.golden.model import Calculator, GoldenDocument, ImageIdentity, Inputs, Output, Validity
from measurements.golden.registers import choice, read_exactly, read_ids, read_table
from measurements.golden.write import to_value
from measurements.moments import parse_time
from measurements.prediction import BootPath, LaunchShape, Prediction
from measurements.strictjson import Fields, loads

_WHAT = "golden document"


def parse(data: bytes) -> GoldenDocument:
    """Parse a golden document in any JSON layout, canonical or pretty.

    Raises:
        FormatError: not a golden document of this version; a name missing, unknown or doubled; a wrong type;
            a digest of the wrong length or in upper case; a stated register value that its own events do not
            fold to; a table that is not in the order the format prescribes.
        LimitError: a named limit of ``measurements.golden.model`` is exceeded.
    """
    return parse_value(loads(data, what=_WHAT, max_bytes=model.MAX_DOCUMENT_BYTES))


def parse_value(value: Any) -> GoldenDocument:
    """Parse a golden document that was read as JSON values by ``strictjson.loads`` (a statement's predicate).

    Raises:
        FormatError, LimitError: as ``parse``.
    """
    return read_exactly(value, _document, to_value, what=_WHAT)


def _document(value: Any) -> GoldenDocument:
    fields = Fields(value, _WHAT)
    if fields.raw("format") != model.FORMAT:
        raise FormatError(f"{_WHAT}: format is {str(fields.raw('format'))[:40]!r}; expected {model.FORMAT!r}")
    version = fields.integer("format_version")
    if version != model.FORMAT_VERSION:
        raise FormatError(
            f"{_WHAT}: format_version {version}; this program reads {model.FORMAT_VERSION}: update goldsmith"
        )
    banks = read_banks(fields)
    registers = read_table(fields, banks, last_index=model.MAX_REGISTER_INDEX, min_items=1)
    document = GoldenDocument(
        image=_image(fields.fields("image")),
        source_date_epoch=fields.integer("source_date_epoch"),
        validity=_validity(fields.fields("validity")),
        inputs=_inputs(fields.fields("inputs")),
        outputs=tuple(
            _output(Fields(item, f"{_WHAT}: outputs[{position}]"))
            for position, item in enumerate(fields.array("outputs", max_items=model.MAX_OUTPUTS, min_items=1))
        ),
        calculator=_calculator(fields.fields("calculator")),
        predictions=_predictions(fields, registers),
        sev_snp=sev_snp.read_all(fields),
        tdx=tdx.read_all(fields),
        image_layer=image_layer.read(fields.fields(image_layer.MEMBER), banks)
        if fields.has(image_layer.MEMBER)
        else None,
        gpu=gpu.read(fields),
    )
    fields.end()
    return document


def _image(fields: Fields) -> ImageIdentity:
    image = ImageIdentity(
        name=fields.text("name", max_length=model.MAX_NAME, pattern=model.NAME),
        version=fields.text("version", max_length=model.MAX_NAME, pattern=model.NAME),
        svn=fields.integer("svn"),
    )
    fields.end()
    return image


def _validity(fields: Fields) -> Validity:
    validity = Validity(
        not_before=parse_time(fields.text("not_before", max_length=20)),
        not_after=parse_time(fields.text("not_after", max_length=20)),
    )
    fields.end()
    return validity


def _inputs(fields: Fields) -> Inputs:
    digests = []
    for name in ("recipe", "lock"):
        entry = fields.fields(name)
        digests.append(entry.hex("sha256", size=32).hex())
        entry.end()
    fields.end()
    return Inputs(recipe=digests[0], lock=digests[1])


def _output(fields: Fields) -> Output:
    output = Output(
        name=fields.text("name", max_length=model.MAX_NAME, pattern=model.NAME),
        size=fields.integer("size"),
        sha256=fields.hex("sha256", size=32).hex(),
    )
    fields.end()
    return output


def _calculator(fields: Fields) -> Calculator:
    calculator = Calculator(
        name=fields.text("name", max_length=model.MAX_NAME, pattern=model.NAME),
        version=fields.text("version", max_length=model.MAX_NAME, pattern=model.NAME),
    )
    fields.end()
    return calculator


def read_banks(fields: Fields) -> tuple[HashAlgorithm, ...]:
    """Read the member ``banks``; raises FormatError, LimitError."""
    names = fields.array("banks", max_items=len(HashAlgorithm), min_items=1)
    return tuple(choice(HashAlgorithm, name, f"{_WHAT}: banks") for name in names)


def _predictions(fields: Fields, registers: dict[str, RegisterPrediction]) -> tuple[Prediction, ...]:
    predictions: list[Prediction] = []
    for item in fields.array("platforms", max_items=model.MAX_SHAPES, min_items=1):
        platform = Fields(item, f"{_WHAT}: platforms")
        name = platform.text("name", max_length=model.MAX_NAME, pattern=model.NAME)
        for shape in platform.array("shapes", max_items=model.MAX_SHAPES, min_items=1):
            predictions.append(_prediction(name, Fields(shape, f"{_WHAT}: {name}: shape"), registers))
            if len(predictions) > model.MAX_SHAPES:
                raise LimitError(f"{_WHAT}: more than {model.MAX_SHAPES} launch shapes")
        platform.end()
    return tuple(predictions)


def _prediction(platform: str, fields: Fields, registers: dict[str, RegisterPrediction]) -> Prediction:
    shape = read_shape(platform, fields)
    chosen = read_ids(fields, registers, max_items=model.MAX_REGISTER_INDEX + 1)
    fields.end()
    return Prediction(shape=shape, registers=chosen)


def read_shape(platform: str, fields: Fields) -> LaunchShape:
    """Read what a shape says beside its registers; raises FormatError, LimitError."""
    shape = LaunchShape(
        platform=platform,
        firmware=read_firmware(fields),
        boot=choice(BootPath, fields.raw("boot"), f"{fields.where}: boot"),
        machine=fields.text("machine", max_length=model.MAX_NAME, pattern=model.NAME),
        memory_mib=fields.integer("memory_mib", minimum=1),
        vcpus=fields.integer("vcpus", minimum=1),
        secure_boot=fields.boolean("secure_boot"),
        gpus=read_gpus(fields),
    )
    name = fields.text("name", max_length=1024)
    if name != shape.name:
        raise FormatError(f"{fields.where}: name is {name[:120]!r}; its own fields make it {shape.name!r}")
    return shape
