"""Reference values of GPUs beside a recipe: importing NVIDIA's manifests (RIMs), and judging those that are there.

A manifest is believed as these bytes, signed under NVIDIA's pinned root, at the moment of its import: the image carries
all of that, and the gate in the guest judges the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from builder.atomic import locked, write_atomic
from builder.errors import MissingRimError, RimError, UsageError
from builder.recipe.gpu import FOLDER, INDEX, SUFFIX, index_bytes, read_rims
from builder.recipe.merged import Recipe
from measurements.errors import FormatError, MeasurementError
from measurements.gpu.certificates import RIM_ROOT
from measurements.gpu.expectations import (
    MAX_ID,
    MAX_RIMS,
    RimReference,
    check_id,
    driver_rim_id,
    rim_to_value,
)
from measurements.gpu.rim import MAX_RIM_BYTES, Rim, RimKind, open_rim
from measurements.strictjson import Fields, decode_base64, loads

#: The answer of NVIDIA's service: the manifest in Base64, and a little about it.
MAX_ANSWER_BYTES: Final = 2 * MAX_RIM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRim:
    """A manifest that was imported.

    Attributes:
        reference: what the golden document says of it.
        path: the file it became.
        measurements: how many active measurements it has.
        missing: what the recipe still holds no manifest for.
    """

    reference: RimReference
    path: Path
    measurements: int
    missing: tuple[str, ...]


def import_rim(
    recipe: Recipe,
    data: bytes,
    *,
    name: str,
    at: datetime,
    identifier: str | None = None,
    root: x509.Certificate | None = None,
) -> ImportedRim:
    """Check a manifest and keep it beside a recipe, by atomic renames.

    Args:
        recipe: whose; it has a section ``gpu``.
        data: the manifest (SWID XML), or the answer of NVIDIA's service with one.
        name: of the file, for messages; without its suffix, the id where nothing else says it.
        at: moment, with a time zone, at which its signature must hold; whole seconds of it are recorded.
        identifier: NVIDIA's id, for a VBIOS's, which does not say it.
        root: NVIDIA's for reference values if absent.

    Raises:
        UsageError: the recipe has no GPU, the id is not known or another's, or the manifest is there already.
        RimError: it is not signed under the root at that moment, not in the form of a manifest, or of another driver,
            architecture or VBIOS than the recipe's.
    """
    if recipe.gpu is None:
        raise UsageError(
            f"{recipe.path}: the recipe expects no GPU", hint="section gpu: docs/recipe-format.md"
        )
    at = at.astimezone(UTC).replace(microsecond=0)
    try:
        data, told = unwrap(data)
        rim = open_rim(data, root=root or RIM_ROOT, at=at)
    except MeasurementError as error:
        raise RimError(f"{name}: {error}", hint=_time_hint(str(error))) from error
    reference = _reference(rim, data, at, _identifier(rim, name, identifier or told))
    try:
        recipe.gpu.check_rim(reference)
    except FormatError as error:
        raise RimError(f"{name}: {error}", hint=f"{recipe.path}, section gpu") from error
    folder = recipe.directory / FOLDER
    with locked(recipe.directory / f".{FOLDER}.lock"):
        held = list(read_rims(folder, str(folder)))
        _refuse_twice(held, reference, name)
        path = folder / f"{reference.id}{SUFFIX}"
        write_atomic(path, data)
        write_atomic(folder / INDEX, index_bytes([*held, reference]))
    whole = replace(recipe.gpu, rims=tuple(sorted([*held, reference], key=lambda each: each.id)))
    return ImportedRim(reference=reference, path=path, measurements=len(rim.active), missing=whole.missing)


def check_rims(
    recipe: Recipe, *, required: bool = False, root: x509.Certificate | None = None
) -> tuple[str, ...]:
    """Judge every manifest of a recipe as the gate will; return what none is held for, as warnings.

    Args:
        recipe: any; without a GPU there is nothing to say.
        required: what is missing is an error.
        root: NVIDIA's for reference values if absent.

    Raises:
        RimError: a manifest does not hold at the moment recorded, or is about something else than recorded.
        MissingRimError: something is missing, and ``required``.
    """
    if recipe.gpu is None:
        return ()
    for reference in recipe.gpu.rims:
        where = recipe.directory / FOLDER / f"{reference.id}{SUFFIX}"
        try:
            rim = open_rim(recipe.rims[reference.id], root=root or RIM_ROOT, at=reference.judged_at)
        except MeasurementError as error:
            raise RimError(
                f"{where}: {error}", hint="remove it, and import it with goldsmith rim add"
            ) from error
        if (rim.kind, rim.product, rim.version) != (reference.kind, reference.chip, reference.version):
            raise RimError(
                f"{where}: the manifest is of {rim.kind} {rim.version} of {rim.product}; the index says "
                f"{reference.kind} {reference.version} of {reference.chip}"
            )
    warnings = tuple(
        f"no reference values (RIM) of {what} are held: the gate of this image accepts no GPU"
        for what in recipe.gpu.missing
    )
    if warnings and required:
        raise MissingRimError(
            f"{recipe.name}: " + "; ".join(warnings),
            hint=f"goldsmith rim add FILE --recipe {recipe.name}, with manifests of NVIDIA's RIM service (docs/gpu.md)",
        )
    return warnings


def unwrap(data: bytes) -> tuple[bytes, str | None]:
    """Return a manifest, and its id where it came in the JSON answer of NVIDIA's service.

    Raises:
        FormatError: JSON that is no such answer.
        LimitError: it is too large.
    """
    if not data.lstrip().startswith(b"{"):
        return data, None
    what = "answer of the RIM service"
    fields = Fields(loads(data, what=what, max_bytes=MAX_ANSWER_BYTES), what)
    manifest = decode_base64(fields.raw("rim"), where=f"{what}: 'rim'", max_size=MAX_RIM_BYTES)
    identifier = fields.text("id", max_length=MAX_ID) if fields.has("id") else None
    return manifest, identifier


def to_json(imported: ImportedRim, recipe: Recipe) -> dict[str, Any]:
    """Return the object that ``goldsmith rim add --json`` prints (docs/cli.md)."""
    return {
        "recipe": recipe.name,
        "file": str(imported.path),
        "rim": rim_to_value(imported.reference),
        "measurements": imported.measurements,
        "missing": list(imported.missing),
    }


def _identifier(rim: Rim, name: str, said: str | None) -> str:
    try:
        own = driver_rim_id(rim.product, rim.version) if rim.kind is RimKind.DRIVER else name
        found = said or own
        check_id(found, rim.kind, rim.product, rim.version)
    except FormatError as error:
        hint = "--id ID says under which id NVIDIA's service has it" if said is None else None
        raise UsageError(f"{name}: {error}", hint=hint) from error
    return found


def _reference(rim: Rim, data: bytes, at: datetime, identifier: str) -> RimReference:
    try:
        return RimReference(
            id=identifier,
            kind=rim.kind,
            chip=rim.product,
            version=rim.version,
            sha256=sha256(data).hexdigest(),
            judged_at=at,
        )
    except FormatError as error:
        raise RimError(f"{identifier}: {error}") from error


def _refuse_twice(held: list[RimReference], new: RimReference, name: str) -> None:
    for rim in held:
        if rim.sha256 == new.sha256:
            raise UsageError(f"{name}: is there already, as {rim.id}")
        if rim.id == new.id or (rim.kind, rim.chip, rim.version) == (new.kind, new.chip, new.version):
            raise UsageError(
                f"{name}: {rim.id} is there already, with other bytes and the same {rim.kind} {rim.version}; "
                "a verifier that finds two believes neither",
                hint=f"to put it in its place, remove {FOLDER}/{rim.id}{SUFFIX} and its entry in {FOLDER}/{INDEX}",
            )
    if len(held) == MAX_RIMS:
        raise UsageError(f"{name}: the recipe holds {MAX_RIMS} manifests already, which is the limit")


def _time_hint(message: str) -> str | None:
    return (
        "--at TIME judges it at a time when its certificates were valid"
        if "is valid from" in message
        else None
    )
