"""What an SBOM says, in no format yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.artifacts import Archive, Output
from builder.release.sbom.licences import Licence
from builder.tree import Kind

#: The trees of an image; "uki" holds what became sections of the unified kernel image, the initrd apart.
ROOT, INITRD, UKI = "root", "initrd", "uki"
TREES = (ROOT, INITRD, UKI)
#: Reference of what the recipe declares without a file of its own: links, directories, units.
RECIPE = "recipe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A binary package as it was locked.

    Attributes:
        ref: its package URL; no two packages share one.
        archive: the locked archive.
        source: the source package it was built from.
        source_version: of the source package; empty where only its name is known.
        licence: what its copyright file lists; None where that cannot be told.
        trees: the trees it is part of, in the order of `TREES`; none for what is a build tool only.
        tool: its programs wrote bytes of the image.
    """

    ref: str
    archive: Archive
    source: str
    source_version: str
    licence: Licence | None
    trees: tuple[str, ...]
    tool: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a signed module is made of: two files that are published beside the image, and nothing else.

    Attributes:
        unsigned: name of the module without the signature.
        unsigned_sha256: 64 hex digits.
        file: name of the detached signature.
        sha256: of the signature, 64 hex digits.
        signer: subject of the certificate that it verifies with (RFC 4514).
    """

    unsigned: str
    unsigned_sha256: str
    file: str
    sha256: str
    signer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One path of a tree.

    Attributes:
        tree: "root", "initrd" or "uki".
        path: absolute, below the tree's root.
        kind: file, directory, symlink or character device.
        origin: reference of the package, recipe file or step it came from.
        size: bytes of a file; 0 for the other kinds.
        sha1: of a file's bytes, 40 hex digits; empty for the other kinds. SPDX 2.3, 8.4, asks for it.
        sha256: of a file's bytes, 64 hex digits; empty for the other kinds.
        target: of a symlink.
        signature: of a module that the build signed; None for every other file.
    """

    tree: str
    path: str
    kind: Kind
    origin: str
    size: int = 0
    sha1: str = ""
    sha256: str = ""
    target: str = ""
    signature: Signature | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that an SBOM of an image says.

    Attributes:
        name: of the image.
        version: of the image.
        summary: of the image.
        source_date_epoch: seconds since 1970; the time in both documents.
        recipe: SHA-256 of the merged recipe.
        lock: SHA-256 of lock.json.
        root_hash: dm-verity root hash, hex.
        disk: disk.raw.
        uki: uki.efi.
        packages: of the image and of the toolbox, sorted by reference.
        python: Python distribution -> version, for those whose code wrote bytes; sorted.
        recipe_files: reference -> path of a recipe file ("recipes/common/system/os-release"); sorted.
        steps: reference -> name of a step of the build that wrote files of its own; sorted.
        files: every path of every tree, sorted by tree and path.
        listed: tree -> references of the packages that the recipe itself asks for, sorted.
        depends: reference -> references of the packages of the image that it depends on, sorted.
    """

    name: str
    version: str
    summary: str
    source_date_epoch: int
    recipe: str
    lock: str
    root_hash: str
    disk: Output
    uki: Output
    packages: tuple[Package, ...]
    python: Mapping[str, str]
    recipe_files: Mapping[str, str]
    steps: Mapping[str, str]
    files: tuple[File, ...]
    listed: Mapping[str, tuple[str, ...]]
    depends: Mapping[str, tuple[str, ...]]
