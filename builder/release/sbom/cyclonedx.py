"""An inventory as CycloneDX 1.6 JSON (ECMA-424): the document that ``goldsmith why`` reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from builder.release.sbom.layout import render, timestamp
from builder.release.sbom.model import INITRD, RECIPE, ROOT, TREES, UKI, File, Inventory, Package
from builder.release.sbom.read import (
    KIND,
    ORIGIN,
    ROOT_HASH,
    SIGNATURE,
    SIGNATURE_SHA256,
    SIGNER,
    SIZE,
    TARGET,
    UNSIGNED,
    UNSIGNED_SHA256,
)
from builder.tree import Kind

IMAGE = "image"

_NAMES = {ROOT: "root file system", INITRD: "initrd", UKI: "unified kernel image"}


def to_cyclonedx(inventory: Inventory, *, producer: str) -> bytes:
    """Return an inventory as CycloneDX 1.6 JSON.

    Paths are components of the tree they are in and say where they came from with a property; packages are
    components of the image. What only wrote bytes stands in the formulation, apart from what is in the image.

    Args:
        inventory: of a build.
        producer: version of the program that writes it.
    """
    inside = [package for package in inventory.packages if package.trees]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(inventory.source_date_epoch),
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "goldsmith", "version": producer}]},
            "component": {
                "type": "operating-system",
                "bom-ref": IMAGE,
                "name": inventory.name,
                "version": inventory.version,
                "description": inventory.summary,
                "hashes": _hashes(inventory.disk.sha256),
                "properties": _properties(
                    {
                        "goldsmith:file": inventory.disk.name,
                        ROOT_HASH: inventory.root_hash,
                        "goldsmith:lock-sha256": inventory.lock,
                        "goldsmith:recipe-sha256": inventory.recipe,
                    }
                ),
            },
        },
        "components": [
            *(_tree(inventory, tree) for tree in TREES),
            *(_package(package) for package in inside),
            {
                "type": "data",
                "bom-ref": RECIPE,
                "name": f"recipe of {inventory.name}",
                "version": inventory.version,
            },
            *({"type": "file", "bom-ref": ref, "name": name} for ref, name in inventory.recipe_files.items()),
            *(
                {
                    "type": "data",
                    "bom-ref": ref,
                    "name": name,
                    "description": "a step of the build that wrote files from the recipe and the packages",
                }
                for ref, name in inventory.steps.items()
            ),
        ],
        "dependencies": _dependencies(inventory, inside),
        "compositions": [{"aggregate": "complete", "assemblies": list(TREES)}],
        "formulation": [{"bom-ref": "build", "components": _formulation(inventory)}],
    }
    return render(document, identity="serialNumber")


def _tree(inventory: Inventory, tree: str) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "file", "bom-ref": tree, "name": _NAMES[tree]}
    if tree == UKI:
        component |= {
            "hashes": _hashes(inventory.uki.sha256),
            "properties": _properties({"goldsmith:file": inventory.uki.name}),
        }
    if tree == ROOT:
        component["properties"] = _properties({ROOT_HASH: inventory.root_hash})
    component["components"] = [_file(file) for file in inventory.files if file.tree == tree]
    return component


def _file(file: File) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "file",
        "bom-ref": f"{file.tree}:{file.path}",
        "name": file.path,
    }
    properties = {ORIGIN: file.origin}
    if file.kind is Kind.FILE:
        component["hashes"] = _hashes(file.sha256)
        properties[SIZE] = str(file.size)
    else:
        properties[KIND] = file.kind.value
        if file.kind is Kind.SYMLINK:
            properties[TARGET] = file.target
    if file.signature is not None:
        properties |= {
            UNSIGNED: file.signature.unsigned,
            UNSIGNED_SHA256: file.signature.unsigned_sha256,
            SIGNATURE: file.signature.file,
            SIGNATURE_SHA256: file.signature.sha256,
            SIGNER: file.signature.signer,
        }
    component["properties"] = _properties(properties)
    return component


def _package(package: Package, *, ref: str = "") -> dict[str, Any]:
    archive = package.archive
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": ref or package.ref,
        "supplier": {"name": "Debian"},
        "name": archive.name,
        "version": archive.version,
        "hashes": _hashes(archive.sha256),
        "purl": package.ref,
        "externalReferences": [
            {
                "type": "distribution",
                "url": quote(archive.path, safe="/~+:%"),
                "comment": f"below a mirror of {archive.pocket}",
                "hashes": _hashes(archive.sha256),
            }
        ],
        "properties": _properties({SIZE: str(archive.size)}),
    }
    source: dict[str, Any] = {"type": "library", "name": package.source}
    if package.source_version:
        source["version"] = package.source_version
    component["pedigree"] = {"ancestors": [source], "notes": "built by Debian from this source package"}
    if package.licence:
        component["licenses"] = [
            {"expression": package.licence.expression, "acknowledgement": "declared"},
        ]
    return component


def _formulation(inventory: Inventory) -> list[dict[str, Any]]:
    """What wrote bytes and is not necessarily in the image, under references of its own."""
    return [
        *(
            _package(package, ref=f"tool:{package.ref}") | {"scope": "excluded"}
            for package in inventory.packages
            if package.tool
        ),
        *(
            {
                "type": "library",
                "bom-ref": f"tool:{python_purl(name, version)}",
                "name": name,
                "version": version,
                "scope": "excluded",
                "purl": python_purl(name, version),
            }
            for name, version in inventory.python.items()
        ),
    ]


def python_purl(name: str, version: str) -> str:
    """Return the package URL of a Python distribution (Package URL specification, type "pypi")."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe=':')}"


def _dependencies(inventory: Inventory, inside: Iterable[Package]) -> list[dict[str, Any]]:
    """The graph: the image of its trees, a tree of the packages that the recipe lists, packages of packages."""
    graph: dict[str, tuple[str, ...]] = {
        IMAGE: (ROOT, UKI),
        ROOT: inventory.listed[ROOT],
        INITRD: inventory.listed[INITRD],
        UKI: (INITRD, *inventory.listed[UKI]),
    }
    graph |= {package.ref: inventory.depends.get(package.ref, ()) for package in inside}
    return [
        {"ref": ref, "dependsOn": list(needed)} if needed else {"ref": ref} for ref, needed in graph.items()
    ]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
