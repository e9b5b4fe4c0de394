"""An inventory as SPDX 2.3 JSON (ISO/IEC 5962 and its successor)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from builder.release.sbom.cyclonedx import python_purl
from builder.release.sbom.layout import render, timestamp
from builder.release.sbom.model import INITRD, RECIPE, ROOT, UKI, File, Inventory
from builder.tree import Kind

SPDX = "sbom.spdx.json"
_NOASSERTION = "NOASSERTION"
_LICENCES = "every licence that the copyright file of the source package lists; not all apply to each file"
_DOCUMENT, _IMAGE = "SPDXRef-DOCUMENT", "SPDXRef-image"


def to_spdx(inventory: Inventory, *, producer: str) -> bytes:
    """Return an inventory as SPDX 2.3 JSON.

    SPDX knows files by their digests, so links and directories are in the CycloneDX document alone.

    Args:
        inventory: of a build.
        producer: version of the program that writes it.
    """
    files = [file for file in inventory.files if file.kind is Kind.FILE]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": f"{inventory.name}-{inventory.version}",
        "creationInfo": {
            "created": timestamp(inventory.source_date_epoch),
            "creators": [f"Tool: goldsmith-{producer}"],
        },
        "packages": [*_parts(inventory, files), *_packages(inventory)],
        "hasExtractedLicensingInfos": [*_texts(inventory)],
        "files": [_file(file, inventory) for file in files],
        "relationships": [
            {"spdxElementId": left, "relationshipType": kind, "relatedSpdxElement": right}
            for left, kind, right in _relationships(inventory, files)
        ],
    }
    return render(document, identity="documentNamespace")


def _parts(inventory: Inventory, files: Iterable[File]) -> Iterator[dict[str, Any]]:
    """Yield the image, its trees, and what the recipe brought."""
    yield _element(_IMAGE, inventory.name, "OPERATING-SYSTEM") | {
        "versionInfo": inventory.version,
        "packageFileName": inventory.disk.name,
        "checksums": _checksums(SHA256=inventory.disk.sha256),
        "summary": inventory.summary,
    }
    for tree, name, more in (
        (
            ROOT,
            "root file system",
            {
                "externalRefs": [
                    {
                        "referenceCategory": "OTHER",
                        "referenceType": "dm-verity-root-hash",
                        "referenceLocator": inventory.root_hash,
                    }
                ]
            },
        ),
        (INITRD, "initrd", {}),
        (
            UKI,
            "unified kernel image",
            {
                "packageFileName": inventory.uki.name,
                "checksums": _checksums(SHA256=inventory.uki.sha256),
                "comment": "Its files became sections of it, as did the initrd.",
            },
        ),
    ):
        yield (
            _element(_id(tree), name, "OPERATING-SYSTEM")
            | more
            | {
                "versionInfo": inventory.version,
                "filesAnalyzed": True,
                "packageVerificationCode": {
                    "packageVerificationCodeValue": _verification_code(
                        file.sha1 for file in files if file.tree == tree
                    )
                },
            }
        )
    yield _element(_id(RECIPE), f"recipe of {inventory.name}", "SOURCE") | {
        "versionInfo": inventory.version,
        "comment": f"SHA-256 of the merged recipe: {inventory.recipe}; of its lock: {inventory.lock}",
    }
    for ref, name in inventory.recipe_files.items():
        yield _element(_id(ref), name, "SOURCE")


def _packages(inventory: Inventory) -> Iterator[dict[str, Any]]:
    for package in inventory.packages:
        element = _element(_id(package.ref), package.archive.name, "LIBRARY") | {
            "versionInfo": package.archive.version,
            "packageFileName": package.archive.path,
            "supplier": "Organization: Debian",
            "checksums": _checksums(SHA256=package.archive.sha256),
            "sourceInfo": f"built from the source package {package.source} {package.source_version}".rstrip(),
            "externalRefs": _purl(package.ref),
        }
        if package.licence:
            element["licenseDeclared"] = package.licence.expression
            element["licenseComments"] = _LICENCES
        yield element
    for name, version in inventory.python.items():
        ref = python_purl(name, version)
        yield _element(_id(ref), name, "LIBRARY") | {"versionInfo": version, "externalRefs": _purl(ref)}


def _texts(inventory: Inventory) -> Iterator[dict[str, str]]:
    texts = {item for package in inventory.packages if package.licence for item in package.licence.texts}
    for ref, name, text in sorted(texts):
        yield {"licenseId": ref, "name": name, "extractedText": text}


def _element(spdx_id: str, name: str, purpose: str) -> dict[str, Any]:
    return {
        "SPDXID": spdx_id,
        "name": name,
        "primaryPackagePurpose": purpose,
        "downloadLocation": _NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": _NOASSERTION,
        "licenseDeclared": _NOASSERTION,
        "copyrightText": _NOASSERTION,
    }


def _file(file: File, inventory: Inventory) -> dict[str, Any]:
    element: dict[str, Any] = {
        "SPDXID": _id(f"{file.tree}:{file.path}"),
        "fileName": f".{file.path}",
        "checksums": _checksums(SHA1=file.sha1, SHA256=file.sha256),
        "licenseConcluded": _NOASSERTION,
        "copyrightText": _NOASSERTION,
    }
    if file.origin in inventory.steps:
        element["comment"] = f"written by the build's step: {inventory.steps[file.origin]}"
    if (made := file.signature) is not None:
        element["comment"] = (
            f"{made.unsigned} (SHA-256 {made.unsigned_sha256}), compiled from this package's source, with the "
            f"signature {made.file} (SHA-256 {made.sha256}) of {made.signer}"
        )
    return element


def _relationships(inventory: Inventory, files: Iterable[File]) -> Iterator[tuple[str, str, str]]:
    yield _DOCUMENT, "DESCRIBES", _IMAGE
    yield _IMAGE, "CONTAINS", _id(ROOT)
    yield _IMAGE, "CONTAINS", _id(UKI)
    yield _id(UKI), "CONTAINS", _id(INITRD)
    yield _IMAGE, "GENERATED_FROM", _id(RECIPE)
    for ref in inventory.recipe_files:
        yield _id(RECIPE), "CONTAINS", _id(ref)
    for package in inventory.packages:
        for tree in package.trees:
            yield _id(tree), "CONTAINS", _id(package.ref)
        if package.tool:
            yield _id(package.ref), "BUILD_TOOL_OF", _IMAGE
    for name, version in inventory.python.items():
        yield _id(python_purl(name, version)), "BUILD_TOOL_OF", _IMAGE
    for graph in (inventory.listed, inventory.depends):
        for ref, needed in graph.items():
            for other in needed:
                yield _id(ref), "DEPENDS_ON", _id(other)
    packages = {package.ref for package in inventory.packages}
    for file in files:
        own = _id(f"{file.tree}:{file.path}")
        yield _id(file.tree), "CONTAINS", own
        if file.origin in packages:
            yield own, "EXPANDED_FROM_ARCHIVE", _id(file.origin)
        else:
            ref = file.origin if file.origin in inventory.recipe_files else RECIPE
            yield own, "GENERATED_FROM", _id(ref)


def _id(ref: str) -> str:
    """Return the SPDX identifier of a reference: readable, and told apart by a digest (SPDX 2.3, 7.2)."""
    readable = re.sub(r"[^a-zA-Z0-9.]+", "-", ref.partition("@")[0].removeprefix("pkg:")).strip("-")
    return f"SPDXRef-{readable[-80:]}-{hashlib.sha256(ref.encode()).hexdigest()[:16]}"


def _purl(ref: str) -> list[dict[str, str]]:
    return [
        {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": ref},
    ]


def _checksums(**digests: str) -> list[dict[str, str]]:
    return [{"algorithm": name, "checksumValue": value} for name, value in digests.items()]


def _verification_code(sha1: Iterable[str]) -> str:
    """SPDX 2.3, 7.9: SHA-1 over the files' SHA-1s, sorted and joined."""
    return hashlib.sha1("".join(sorted(sha1)).encode(), usedforsecurity=False).hexdigest()
