"""The recipe as the steps of a build see it: fragments merged, files read and rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import rfc8785

from builder.recipe.model import (
    Audit,
    Compiler,
    Distribution,
    EmulatorSource,
    FirmwareSource,
    KernelPolicy,
    Layer,
    ModuleSource,
    Toolbox,
)
from builder.recipe.platforms import Platform, SevSnpPlatform, TdxPlatform
from measurements.gpu.expectations import GpuExpectations, to_value


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFile:
    """One file the recipe adds to a layer, ready to be placed.

    Attributes:
        path: absolute path in the layer.
        content: final bytes, templates rendered.
        mode: permission bits.
        owner: account name.
        group: group name.
        replaces: why it replaces a package's file; None when it must not.
        origin: the recipe file the content came from ("recipes/base/files/hosts").
    """

    path: str
    content: bytes
    mode: int
    owner: str
    group: str
    replaces: str | None
    origin: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: of the image.
        version: dotted numbers.
        svn: security version number, 0 to 2^32 - 1.
        summary: one line for people.
        validity_days: how long a golden document of it is valid.
        distribution: where packages come from.
        root: the root file system's layer.
        initrd: the initrd's layer.
        files: layer name ("root", "initrd") -> the files the recipe adds, sorted by path.
        kernel_package: a linux-image package or the metapackage that depends on one.
        command_line: the kernel command line of the recipe and its fragments, one parameter an element,
            in order.
        toolbox: packages whose programs write bytes.
        compiler: packages that compile kernel modules.
        module_sources: kernel modules that are compiled, by their source packages.
        patches: name of a module source -> its patches, in their order.
        firmware: firmware builds by their source packages.
        emulators: further QEMU releases, asked for tables alone.
        platforms: virtual machines with a TPM that are predicted.
        sev_snp: SEV-SNP guests that are predicted.
        tdx: trust domains that are predicted.
        variables: what templates see, with ``name``, ``version`` and ``svn`` of the image.
        path: the recipe.yaml.
        sources: every YAML file that took part, in merge order.
        audit: what the audit of the final image needs to know.
        kernel_policy: the file that ``audit.kernel_policy`` names.
        gpu: what must hold of GPUs, with the manifests imported beside the recipe; ``None`` without a GPU.
        rims: the bytes of these manifests, by id.
    """

    name: str
    version: str
    svn: int
    summary: str
    validity_days: int
    distribution: Distribution
    root: Layer
    initrd: Layer
    files: Mapping[str, tuple[RecipeFile, ...]]
    kernel_package: str
    command_line: tuple[str, ...]
    toolbox: Toolbox
    compiler: Compiler
    module_sources: tuple[ModuleSource, ...]
    patches: Mapping[str, tuple[RecipeFile, ...]]
    firmware: tuple[FirmwareSource, ...]
    emulators: tuple[EmulatorSource, ...]
    platforms: tuple[Platform, ...]
    sev_snp: tuple[SevSnpPlatform, ...]
    tdx: tuple[TdxPlatform, ...]
    variables: Mapping[str, str | int | bool]
    path: Path
    sources: tuple[Path, ...]
    audit: Audit = field(default_factory=Audit)
    kernel_policy: KernelPolicy | None = None
    gpu: GpuExpectations | None = None
    rims: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def directory(self) -> Path:
        """The folder of the image: recipe.yaml, lock.json, golden.json."""
        return self.path.parent

    @property
    def lock_path(self) -> Path:
        """Where the committed lock is."""
        return self.directory / "lock.json"

    @property
    def golden_path(self) -> Path:
        """Where the committed golden document is."""
        return self.directory / "golden.json"

    def layer(self, name: str) -> Layer:
        """Return the layer called "root" or "initrd"."""
        return {"root": self.root, "initrd": self.initrd}[name]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the merged recipe and every file's content; comments and layout do not count."""
        document = {
            "name": self.name,
            "version": self.version,
            "svn": self.svn,
            "summary": self.summary,
            "validity_days": self.validity_days,
            "distribution": _dump(self.distribution),
            "layers": {name: _dump(self.layer(name)) for name in ("root", "initrd")},
            "files": {
                name: {
                    file.path: {
                        "sha256": hashlib.sha256(file.content).hexdigest(),
                        "mode": file.mode,
                        "owner": file.owner,
                        "group": file.group,
                    }
                    for file in files
                }
                for name, files in self.files.items()
            },
            "kernel_package": self.kernel_package,
            "command_line": list(self.command_line),
            "toolbox": _dump(self.toolbox),
            "firmware": [_dump(source) for source in self.firmware],
            "platforms": [_platform(platform) for platform in self.platforms],
            "variables": dict(self.variables),
            "audit": _dump(self.audit),
            "kernel_policy": _dump(self.kernel_policy) if self.kernel_policy else None,
        }
        for name, declared in (("sev_snp", self.sev_snp), ("tdx", self.tdx)):
            if declared:
                document[name] = [_platform(platform) for platform in declared]
        if self.gpu is not None:
            document["gpu"] = to_value(self.gpu)
        if self.emulators:
            document["emulators"] = [_dump(source) for source in self.emulators]
        if self.module_sources:
            document["compiler"] = _dump(self.compiler)
            document["module_sources"] = [
                _dump(source)
                | {
                    "patches": [
                        hashlib.sha256(file.content).hexdigest() for file in self.patches[source.name]
                    ]
                }
                for source in self.module_sources
            ]
        return _sha256(document)

    @cached_property
    def resolution_digest(self) -> str:
        """SHA-256 (hex) of what decides which archives are locked, and of nothing else."""
        document = {
            "distribution": _dump(self.distribution),
            "layers": {
                name: {"packages": sorted(layer.packages), "drop": sorted(layer.drop)}
                for name, layer in (("root", self.root), ("initrd", self.initrd), ("toolbox", self.toolbox))
            },
            "kernel_package": self.kernel_package,
            "firmware": {
                source.name: {
                    "suite": source.suite,
                    "packages": sorted(source.packages),
                    "version": source.version,
                }
                for source in self.firmware
            },
        }
        if self.emulators:
            document["emulators"] = {
                source.name: {"suite": source.suite, "package": source.package, "version": source.version}
                for source in self.emulators
            }
        if self.module_sources:
            document["compiler"] = {
                "packages": sorted(self.compiler.packages),
                "drop": sorted(self.compiler.drop),
            }
            document["module_sources"] = {
                source.name: {"packages": sorted(source.packages), "version": source.version}
                for source in self.module_sources
            }
        return _sha256(document)


def _platform(model: Any) -> Any:
    """Return a platform; what passes no GPU through has the digest of recipes from before there was that key."""
    value = _dump(model)
    if value.get("gpus", "") is None:
        del value["gpus"]
    return value


def _dump(model: Any) -> Any:
    return model.model_dump(mode="json")


def _sha256(document: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
