"""GPUs of a recipe: the manifests imported beside it, and the files that the image's gate judges by.

``recipes/<image>/rims/`` is written by ``goldsmith rim add``: ``index.json`` and one ``<id>.swidtag`` for each entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.debian import upstream_version
from builder.errors import RecipeError
from builder.recipe.merged import RecipeFile
from builder.recipe.model import Gpu, ModuleSource
from measurements.errors import MeasurementError
from measurements.gpu.expectations import (
    MAX_RIMS,
    Architecture,
    GpuExpectations,
    RimReference,
    rim_from_fields,
    rim_to_value,
    serialize,
)
from measurements.gpu.rim import MAX_RIM_BYTES
from measurements.strictjson import Fields, loads

FOLDER: Final = "rims"
INDEX: Final = "index.json"
INDEX_FORMAT: Final = "goldsmith-rims/1"
SUFFIX: Final = ".swidtag"
MAX_INDEX_BYTES: Final = 1 << 16

#: Where the gate finds them in the image.
POLICY_PATH: Final = "/usr/lib/goldsmith/gpu/policy.json"
RIM_PATH: Final = "/usr/lib/goldsmith/gpu/rims/{id}" + SUFFIX
_MODULE: Final = "nvidia"


def read_rims(folder: Path, label: str) -> dict[RimReference, bytes]:
    """Read the manifests imported into a folder: index entry -> bytes, ascending by id.

    Their signatures are judged elsewhere (`builder.rims`).

    Args:
        folder: ``recipes/<image>/rims``; absent where nothing was imported.
        label: how messages name it.

    Raises:
        RecipeError: the index is malformed, a file is absent, another than the index says, or in it nowhere.
    """
    if not folder.exists():
        return {}
    try:
        entries = _index(_read(folder / INDEX, MAX_INDEX_BYTES, label), f"{label}/{INDEX}")
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise RecipeError(
            f"{label}: cannot be read: {error.strerror}", hint="goldsmith rim add writes it"
        ) from error
    except MeasurementError as error:
        raise RecipeError(str(error), hint="goldsmith rim add writes it") from error
    wanted = sorted([INDEX, *(f"{rim.id}{SUFFIX}" for rim in entries)])
    if found != wanted:
        odd = ", ".join(sorted({*found} ^ {*wanted}))
        raise RecipeError(
            f"{label}: index and files disagree about {odd}", hint="goldsmith rim add imports a RIM"
        )
    held = {}
    for rim in entries:
        name = f"{rim.id}{SUFFIX}"
        try:
            content = _read(folder / name, MAX_RIM_BYTES, label)
        except OSError as error:
            raise RecipeError(f"{label}/{name}: cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != rim.sha256:
            raise RecipeError(f"{label}/{name}: SHA-256 is {sha256}; the index says {rim.sha256}")
        held[rim] = content
    return held


def index_bytes(rims: list[RimReference]) -> bytes:
    """Return the index of these manifests, for people to compare."""
    value = {
        "format": INDEX_FORMAT,
        "rims": [rim_to_value(rim) for rim in sorted(rims, key=lambda rim: rim.id)],
    }
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def expectations_of(gpu: Gpu, rims: Mapping[RimReference, bytes]) -> GpuExpectations:
    """Return what a recipe expects of GPUs.

    Raises:
        FormatError, LimitError: a manifest is of another driver or architecture, or the section contradicts itself.
    """
    return GpuExpectations(
        architecture=Architecture(gpu.architecture),
        driver_version=gpu.driver,
        count=gpu.count,
        nvswitches=gpu.nvswitches,
        vbios=tuple(sorted(gpu.vbios.allow)) or None,
        rims=tuple(rims),
    )


def gate_files(
    expectations: GpuExpectations, rims: Mapping[RimReference, bytes], *, said: str, folder: str
) -> tuple[RecipeFile, ...]:
    """Return what the gate reads in the image: the policy, and each manifest.

    Args:
        expectations: written as the policy.
        rims: their bytes.
        said: the recipe file whose section ``gpu`` the policy comes from.
        folder: how the manifests' folder is called in origins ("recipes/gpu-cc/rims").
    """

    def file(path: str, content: bytes, origin: str) -> RecipeFile:
        return RecipeFile(
            path=path, content=content, mode=0o644, owner="root", group="root", replaces=None, origin=origin
        )

    return (
        file(POLICY_PATH, serialize(expectations), said),
        *(
            file(RIM_PATH.format(id=rim.id), content, f"{folder}/{rim.id}{SUFFIX}")
            for rim, content in rims.items()
        ),
    )


def check_driver(gpu: Gpu, sources: tuple[ModuleSource, ...]) -> str | None:
    """Return what is wrong where the driver that is compiled in is another than the one expected."""
    for source in sources:
        if _MODULE in source.modules and upstream_version(source.version) != gpu.driver:
            return f"driver {gpu.driver}, and the module source {source.name} is of {source.version}"
    return None


def _index(data: bytes, what: str) -> list[RimReference]:
    fields = Fields(loads(data, what=what, max_bytes=MAX_INDEX_BYTES), what)
    fields.text("format", max_length=32)
    if fields.raw("format") != INDEX_FORMAT:
        raise RecipeError(f"{what}: format is {fields.raw('format')!r}; expected {INDEX_FORMAT!r}")
    rims = [
        rim_from_fields(Fields(item, f"{what}: rims[{position}]"))
        for position, item in enumerate(fields.array("rims", max_items=MAX_RIMS))
    ]
    fields.end()
    if [rim.id for rim in rims] != sorted({rim.id for rim in rims}):
        raise RecipeError(f"{what}: expected RIMs ascending by id, each once")
    return rims


def _read(path: Path, limit: int, label: str) -> bytes:
    if path.is_symlink():
        raise RecipeError(f"{label}/{path.name}: is a symbolic link; expected a file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise RecipeError(f"{label}/{path.name}: larger than {limit} bytes")
    return data
