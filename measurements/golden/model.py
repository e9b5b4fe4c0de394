"""The golden document as values: what an image is, what it was made from, and what every launch measures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from measurements.errors import FormatError, LimitError
from measurements.events import Event, HashAlgorithm, Stability
from measurements.gpu.expectations import GpuExpectations
from measurements.prediction import Prediction

if TYPE_CHECKING:  # they are read and written with the limits of this module
    from measurements.golden.sev_snp import SevSnpReference
    from measurements.golden.tdx import TdxReference
    from measurements.image_layer import ImageLayer

#: First name of the document; another major version is another format.
FORMAT = "goldsmith-golden"
FORMAT_VERSION = 1

#: Limits of the parser; a writer that needs more must raise the format version.
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
MAX_OUTPUTS = 64
MAX_SHAPES = 256
#: SEV-SNP launches, and trust domains, each.
MAX_CONFIDENTIAL = 1024
MAX_REGISTERS = MAX_SHAPES * 16
MAX_SEQUENCES = 32
MAX_EVENTS = 1024
#: Events of all courses of all registers together: the work of refolding a document.
MAX_FOLDS = 1 << 18
MAX_TEXT = 1024
MAX_NAME = 255
#: Event data longer than this stays out of the document: a reader needs it for an explanation only.
MAX_EVENT_DATA = 1024
MAX_REGISTER_INDEX = 23

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
SHAPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~/-]*")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIdentity:
    """Which image this is.

    Attributes:
        name: the recipe's name.
        version: the recipe's version.
        svn: security version number; grows whenever an older version must no longer be trusted.
    """

    name: str
    version: str
    svn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The period in which the values may be used, both ends included, in UTC with whole seconds."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        for moment in (self.not_before, self.not_after):
            if moment.utcoffset() != timedelta(0) or moment.microsecond:
                raise FormatError(f"validity: {moment.isoformat()} is not a whole second in UTC")
        if self.not_after < self.not_before:
            raise FormatError("validity: not_after is earlier than not_before")

    @classmethod
    def since(cls, epoch: int, *, days: int) -> Validity:
        """Return the period that starts at ``epoch`` (Unix seconds, the lock's) and lasts ``days``.

        Raises:
            FormatError: the period leaves the years 1970 to 9999.
        """
        try:
            start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch)
            return cls(not_before=start, not_after=start + timedelta(days=days))
        except OverflowError:
            raise FormatError(f"validity: {epoch} s and {days} days end after the year 9999") from None

    def contains(self, moment: datetime) -> bool:
        """Say whether ``moment`` (with a time zone) lies within the period."""
        return self.not_before <= moment <= self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """SHA-256 (64 hex digits) of what the image was made from."""

    recipe: str
    lock: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One file of the release: its name, size in bytes and SHA-256 (64 hex digits)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calculator:
    """Which program computed the predictions."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenDocument:
    """Reference values of one image for every launch shape it may run in.

    Holds nothing that depends on the signing key or on the machine that built it.

    Attributes:
        image: name, version and SVN.
        source_date_epoch: the lock's time, Unix seconds.
        validity: when the values may be used.
        inputs: digests of recipe and lock.
        outputs: the files of the release, ascending by name.
        calculator: name and version.
        predictions: what a TPM holds, one per launch shape, grouped by platform, in the order of the recipe.
        sev_snp: what SEV-SNP launches measure, in the order of the recipe.
        tdx: what trust domains measure, in the order of the recipe.
        image_layer: what the image decides on every platform; ``None`` in documents of goldsmith before it had one.
        gpu: what the image expects of GPUs; ``None`` where it is for machines without.
    """

    image: ImageIdentity
    source_date_epoch: int
    validity: Validity
    inputs: Inputs
    outputs: tuple[Output, ...]
    calculator: Calculator
    predictions: tuple[Prediction, ...]
    sev_snp: tuple[SevSnpReference, ...] = ()
    tdx: tuple[TdxReference, ...] = ()
    image_layer: ImageLayer | None = None
    gpu: GpuExpectations | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def banks(self) -> tuple[HashAlgorithm, ...]:
        """The banks that every event of the document carries, in the order of ``HashAlgorithm``."""
        return banks_of(self.predictions)

    @property
    def launch_names(self) -> tuple[str, ...]:
        """Names of all launches, of every kind."""
        return (
            *(prediction.shape.name for prediction in self.predictions),
            *(each.name for each in self.sev_snp),
            *(each.name for each in self.tdx),
        )

    def prediction(self, shape: str) -> Prediction:
        """Return the prediction for the launch shape of this name.

        Raises:
            FormatError: the document has no such shape; the message lists those it has.
        """
        for prediction in self.predictions:
            if prediction.shape.name == shape:
                return prediction
        known = ", ".join(prediction.shape.name for prediction in self.predictions)
        raise FormatError(f"the document has no launch shape {shape!r}; it has {known}")


def events_of(predictions: Iterable[Prediction]) -> Iterable[Event]:
    """Yield every event of every register, alternative and phase."""
    for prediction in predictions:
        for register in prediction.registers:
            for sequence in (*register.alternatives, *register.phases):
                yield from sequence.events


def banks_of(predictions: Iterable[Prediction]) -> tuple[HashAlgorithm, ...]:
    """Return the banks that all events share.

    Raises:
        FormatError: two events carry different banks, there is no event, or neither SHA-256 nor SHA-384.
    """
    found = {frozenset(event.digests) for event in events_of(predictions)}
    if len(found) != 1:
        listed = sorted(sorted(banks) for banks in found)
        raise FormatError(f"the events carry {listed}; expected the same banks in every event")
    banks = found.pop()
    if not banks & {HashAlgorithm.SHA256, HashAlgorithm.SHA384}:
        raise FormatError(f"the events carry {sorted(banks)}; expected at least sha256 or sha384")
    return tuple(bank for bank in HashAlgorithm if bank in banks)


def _check(document: GoldenDocument) -> None:
    _text("image name", document.image.name, NAME)
    _text("image version", document.image.version, NAME)
    _text("calculator name", document.calculator.name, NAME)
    _text("calculator version", document.calculator.version, NAME)
    for what, digest in (("recipe", document.inputs.recipe), ("lock", document.inputs.lock)):
        _text(f"inputs: {what}", digest, SHA256_HEX)
    for output in document.outputs:
        _text("output name", output.name, NAME)
        _text(f"output {output.name}: sha256", output.sha256, SHA256_HEX)
    names = [output.name for output in document.outputs]
    if names != sorted(set(names)):
        raise FormatError("outputs: expected ascending, distinct names")
    if not 1 <= len(names) <= MAX_OUTPUTS:
        raise LimitError(f"outputs: {len(names)}; expected 1 to {MAX_OUTPUTS}")
    if not 1 <= len(document.predictions) <= MAX_SHAPES:
        raise LimitError(f"launch shapes: {len(document.predictions)}; expected 1 to {MAX_SHAPES}")
    platforms = [prediction.shape.platform for prediction in document.predictions]
    if len(list(groupby(platforms))) != len(set(platforms)):
        raise FormatError(f"launch shapes: platforms {platforms}; expected those of one platform together")
    for what, count in (("sev_snp", len(document.sev_snp)), ("tdx", len(document.tdx))):
        if count > MAX_CONFIDENTIAL:
            raise LimitError(f"{what}: {count} launches; at most {MAX_CONFIDENTIAL}")
    launches = document.launch_names
    if len(set(launches)) != len(launches):
        raise FormatError(f"launch shapes: two share one name among {sorted(launches)}")
    banks = banks_of(document.predictions)
    if document.image_layer is not None:
        if document.image_layer.banks != banks:
            raise FormatError(f"image layer: banks {document.image_layer.banks}; expected {banks}")
        _check_layer(document, document.image_layer)
    for prediction in document.predictions:
        _check_prediction(prediction)


def _check_layer(document: GoldenDocument, layer: ImageLayer) -> None:
    """Make sure that no launch says another thing of the image than the image layer does."""
    of_tpm = ((each.shape.name, each.registers, layer.registers) for each in document.predictions)
    of_td = ((each.name, each.registers, layer.rtmrs) for each in document.tdx)
    compared: set[int] = set()  # launches that were read share registers: compare each once
    for launch, registers, expected in (*of_tpm, *of_td):
        told = {register.index: register for register in expected}
        for register in registers:
            if id(register) in compared:
                continue
            compared.add(id(register))
            wanted = told.get(register.index, register)
            # Where the layer leaves a register open the machine has a say, which a launch knows.
            if register != wanted and wanted.stability is not Stability.NOT_PINNED:
                raise FormatError(
                    f"launch shape {launch}: register {register.index} is not the one of the image layer"
                )


def _check_prediction(prediction: Prediction) -> None:
    shape = prediction.shape
    _text("launch shape", shape.name, SHAPE_NAME)
    for what, text in (
        ("platform", shape.platform),
        ("firmware", shape.firmware.name),
        ("machine", shape.machine),
    ):
        _text(f"launch shape {shape.name}: {what}", text, NAME)
    indexes = [register.index for register in prediction.registers]
    if indexes != sorted(set(indexes)) or not indexes:
        raise FormatError(f"launch shape {shape.name}: registers {indexes}; expected ascending and distinct")
    for register in prediction.registers:
        where = f"launch shape {shape.name}: register {register.index}"
        if not 0 <= register.index <= MAX_REGISTER_INDEX:
            raise FormatError(f"{where}: expected 0 to {MAX_REGISTER_INDEX}")
        for kind, sequences in (("alternatives", register.alternatives), ("phases", register.phases)):
            if len(sequences) > MAX_SEQUENCES:
                raise LimitError(f"{where}: {len(sequences)} {kind}; at most {MAX_SEQUENCES}")
            labels = [sequence.label for sequence in sequences]
            if len(set(labels)) != len(labels):
                raise FormatError(f"{where}: two {kind} share one label among {labels}")
        for sequence in (*register.alternatives, *register.phases):
            if any(event.register != register.index for event in sequence.events):
                raise FormatError(f"{where}: {sequence.label!r} holds an event of another register")
            if len(sequence.events) > MAX_EVENTS:
                raise LimitError(f"{where}: {len(sequence.events)} events; at most {MAX_EVENTS}")


def _text(what: str, value: str, pattern: re.Pattern[str]) -> None:
    if len(value) > MAX_NAME or pattern.fullmatch(value) is None:
        raise FormatError(
            f"{what}: {value[:80]!r}; expected up to {MAX_NAME} characters like {pattern.pattern}"
        )
