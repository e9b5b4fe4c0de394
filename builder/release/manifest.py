"""``manifest.json``: what a release folder holds, what the image is made of, and where its parts lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.artifacts import Lock, Output, PackageShare
from builder.errors import UsageError
from builder.recipe.merged import Recipe
from builder.recipe.model import FirmwareSource
from builder.recipe.platforms import Platform, SevSnpPlatform, TdxPlatform
from measurements import golden

FORMAT = "goldsmith-manifest/1"
_LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of a published file that has a meaning of its own.

    Attributes:
        name: what an operator calls it ("root file system", "uki .cmdline").
        file: the output it lies in.
        offset: bytes from the file's start.
        size: bytes.
        sha256: 64 hex digits.
    """

    name: str
    file: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A release folder's table of contents.

    Attributes:
        name: of the image.
        version: of the image.
        svn: security version number.
        source_date_epoch: seconds since 1970.
        recipe: SHA-256 of the merged recipe.
        lock: SHA-256 of lock.json.
        scratch: the lock was resolved for this build only.
        outputs: every other file of the release.
        parts: where the meaningful stretches of the outputs lie.
        platforms: the machines with a TPM whose registers were predicted.
        sev_snp: the SEV-SNP guests whose launch digests were predicted.
        tdx: the trust domains whose registers were predicted.
        firmware: firmware builds by their source packages; their archives stand in lock.json.
        variables: the recipe's variables, such as the evidence service's port.
        contents: tree name ("root", "initrd") -> who brought what.
        toolbox: package -> version of the tools that wrote the bytes.
        warnings: what the image lacks to serve its purpose, such as reference values of its GPU.
    """

    name: str
    version: str
    svn: int
    source_date_epoch: int
    recipe: str
    lock: str
    scratch: bool
    outputs: tuple[Output, ...]
    parts: tuple[Part, ...]
    platforms: tuple[Platform, ...]
    sev_snp: tuple[SevSnpPlatform, ...]
    tdx: tuple[TdxPlatform, ...]
    firmware: tuple[FirmwareSource, ...]
    variables: Mapping[str, str | int | bool]
    contents: Mapping[str, tuple[PackageShare, ...]]
    toolbox: Mapping[str, str]
    warnings: tuple[str, ...]


def manifest_of(
    recipe: Recipe,
    lock: Lock,
    *,
    outputs: Iterable[Output],
    parts: Iterable[Part],
    contents: Mapping[str, tuple[PackageShare, ...]],
    toolbox: Mapping[str, str],
    warnings: tuple[str, ...] = (),
) -> Manifest:
    """Assemble the manifest of a build."""
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        svn=recipe.svn,
        source_date_epoch=lock.source_date_epoch,
        recipe=recipe.digest,
        lock=lock.digest,
        scratch=lock.scratch,
        outputs=tuple(sorted(outputs, key=lambda output: output.name)),
        parts=tuple(parts),
        platforms=recipe.platforms,
        sev_snp=recipe.sev_snp,
        tdx=recipe.tdx,
        firmware=recipe.firmware,
        variables=recipe.variables,
        contents=contents,
        toolbox=toolbox,
        warnings=warnings,
    )


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as JSON: sorted keys, two spaces, one newline at the end."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "image": {"name": manifest.name, "version": manifest.version, "svn": manifest.svn},
        "source_date_epoch": manifest.source_date_epoch,
        "inputs": {"recipe": manifest.recipe, "lock": manifest.lock, "scratch": manifest.scratch},
        "outputs": [
            {"name": output.name, "size": output.size, "sha256": output.sha256} for output in manifest.outputs
        ],
        "parts": [asdict(part) for part in manifest.parts],
        "platforms": [platform.model_dump(mode="json") for platform in manifest.platforms],
        "sev_snp": [platform.model_dump(mode="json") for platform in manifest.sev_snp],
        "tdx": [platform.model_dump(mode="json") for platform in manifest.tdx],
        "firmware": [source.model_dump(mode="json") for source in manifest.firmware],
        "variables": dict(manifest.variables),
        "contents": {
            tree: {
                "files": sum(share.files for share in shares),
                "bytes": sum(share.size for share in shares),
                "origins": [asdict(share) for share in shares],
            }
            for tree, shares in manifest.contents.items()
        },
        "toolbox": dict(manifest.toolbox),
        "warnings": list(manifest.warnings),
    }
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def load(folder: Path) -> Manifest:
    """Read the manifest of a release folder.

    Raises:
        UsageError: there is none, or it is not one of ours.
    """
    path = folder / "manifest.json"
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"{folder} is no release folder: {path.name}: {error.strerror}", hint="make image"
        ) from error
    try:
        if len(raw) > _LARGEST:
            raise ValueError(f"larger than {_LARGEST} bytes")
        return _parse(json.loads(raw), folder)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a manifest of the format {FORMAT}: {error}", hint="make image"
        ) from error


def _parse(value: Any, folder: Path) -> Manifest:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError("the format key is missing or another")
    image, inputs = value["image"], value["inputs"]
    outputs = []
    for item in value["outputs"]:
        name = item["name"]
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"output {name!r} is no plain file name")
        outputs.append(
            Output(name=name, path=folder / name, size=int(item["size"]), sha256=str(item["sha256"]))
        )
    return Manifest(
        name=str(image["name"]),
        version=str(image["version"]),
        svn=int(image["svn"]),
        source_date_epoch=int(value["source_date_epoch"]),
        recipe=str(inputs["recipe"]),
        lock=str(inputs["lock"]),
        scratch=bool(inputs["scratch"]),
        outputs=tuple(outputs),
        parts=tuple(
            Part(
                name=str(item["name"]),
                file=str(item["file"]),
                offset=int(item["offset"]),
                size=int(item["size"]),
                sha256=str(item["sha256"]),
            )
            for item in value["parts"]
        ),
        platforms=tuple(Platform.model_validate_json(json.dumps(item)) for item in value["platforms"]),
        sev_snp=tuple(SevSnpPlatform.model_validate_json(json.dumps(item)) for item in value["sev_snp"]),
        tdx=tuple(TdxPlatform.model_validate_json(json.dumps(item)) for item in value["tdx"]),
        firmware=tuple(FirmwareSource.model_validate_json(json.dumps(item)) for item in value["firmware"]),
        variables={str(name): _plain(item) for name, item in value["variables"].items()},
        contents={
            tree: tuple(
                PackageShare(
                    name=str(item["name"]),
                    version=str(item["version"]),
                    files=int(item["files"]),
                    size=int(item["size"]),
                )
                for item in content["origins"]
            )
            for tree, content in value["contents"].items()
        },
        toolbox={str(name): str(version) for name, version in value["toolbox"].items()},
        warnings=tuple(str(text) for text in value["warnings"]),
    )


def _plain(value: Any) -> str | int | bool:
    if not isinstance(value, str | int | bool):
        raise TypeError(f"a variable is text, a number or a truth value, not {type(value).__name__}")
    return value


def output_of(path: Path) -> Output:
    """Describe a file that is to be published under its own name."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Output(name=path.name, path=path, size=path.stat().st_size, sha256=digest)


def changed_parts(manifest: Manifest, folder: Path, signed: Iterable[golden.Output] = ()) -> tuple[str, ...]:
    """Name the parts of a release folder's files that are not what the manifest says.

    A changed file none of whose parts changed is named itself; a missing one too. Parts are told apart by
    their digests, so the answer is exact to the part, not to the byte.

    Args:
        manifest: says where the parts lie. Nobody signed it.
        folder: the release.
        signed: outputs as the signed golden document has them; they win over the manifest.
    """
    listed = {output.name: output.sha256 for output in manifest.outputs}
    promised = listed | {output.name: output.sha256 for output in signed}
    changed = [
        f"manifest.json: not what the signed golden document says about {name}"
        for name in sorted(listed)
        if promised[name] != listed[name]
    ]
    for name, sha256 in sorted(promised.items()):
        path = folder / name
        if not path.is_file():
            changed.append(f"{name}: missing")
            continue
        if output_of(path).sha256 == sha256:
            continue
        names = [
            part.name
            for part in manifest.parts
            if part.file == name and _digest(path, part.offset, part.size) != part.sha256
        ]
        changed.extend(f"{name}: {part}" for part in names or ["outside every known part"])
    return tuple(changed)


def _digest(path: Path, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while size > 0:
            block = file.read(min(size, 1 << 20))
            if not block:
                break
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
