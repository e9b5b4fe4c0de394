"""The frozen values that pass between the steps of a build. Steps know these, and not each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One locked package archive (.deb).

    Attributes:
        name: package name.
        version: full Debian version.
        architecture: "amd64" or "all".
        path: pool path below any mirror of its suite ("pool/main/s/systemd/systemd_257…_amd64.deb").
        pocket: the suite that offered it ("trixie", "trixie-security"); decides which mirror path applies.
        size: bytes.
        sha256: 64 lower-case hex digits; the name of the object in stores and vaults.
    """

    name: str
    version: str
    architecture: str
    path: str
    pocket: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteIndex:
    """The signed index a lock was resolved from.

    Attributes:
        pocket: suite name.
        date: its Date field, seconds since 1970.
        sha256: of the InRelease file as it was verified.
    """

    pocket: str
    date: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPin:
    """A Python distribution whose code writes output bytes.

    Attributes:
        version: exact version that must be installed at build time.
        sha256: of every file of that version that requirements.txt allows, 64 hex digits each, sorted.
    """

    version: str
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Every input of a build, by hash.

    Attributes:
        recipe: name of the recipe it belongs to.
        resolution: SHA-256 (hex) of the part of the recipe that decides what is resolved.
        source_date_epoch: the build's only clock, seconds since 1970.
        indexes: the signed indexes it was resolved from.
        archives: all archives, sorted by name and version.
        sets: set name ("root", "initrd", "kernel", "toolbox", "firmware/<name>", "emulator/<name>") -> sorted
            "package=version".
        python: Python distribution -> its pin, for those whose code writes output bytes.
        digest: SHA-256 (hex) of the lock file's bytes.
        scratch: resolved for this run because the committed lock's archives are gone; never published.
    """

    recipe: str
    resolution: str
    source_date_epoch: int
    indexes: tuple[SuiteIndex, ...]
    archives: tuple[Archive, ...]
    sets: Mapping[str, tuple[str, ...]]
    python: Mapping[str, PythonPin]
    digest: str = ""
    scratch: bool = False

    def members(self, name: str) -> tuple[Archive, ...]:
        """Return the archives of a set, in the set's order.

        Raises:
            KeyError: the lock has no such set.
        """
        wanted = self.sets[name]
        by_name = {f"{archive.name}={archive.version}": archive for archive in self.archives}
        return tuple(by_name[item] for item in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """A dm-verity hash tree over a data image (veritysetup format 1, SHA-256, 4096-byte blocks).

    Attributes:
        data: the file system image.
        hash_tree: superblock and tree.
        root_hash: 64 hex digits; what the kernel command line carries.
        salt: hex digits.
        uuid: of the verity superblock.
    """

    data: Path
    hash_tree: Path
    root_hash: str
    salt: str
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A UEFI firmware build ready to boot: its code volume and the variable store it starts with."""

    name: str
    package: str
    version: str
    code: Path
    variables: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One published file: its name in the output folder, size in bytes and SHA-256 (hex)."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What `boot` needs to know about the virtual machine (also decides PCR 1).

    Attributes:
        type: QEMU's versioned machine type ("pc-q35-10.0").
        cpu: QEMU CPU model.
        memory_mib: RAM in MiB.
        vcpus: number of virtual CPUs.
        devices: what else is on the bus, beyond the boot medium, in `-device` order (QEMU's syntax).
        smm: with system management mode, the only one that may write the flash then. Firmware that verifies
            needs it (OVMF's builds "secboot"), and its ACPI tables differ.
        gpus: for each GPU that the host passes through, the sizes in bytes of its 64-bit memory BARs, by index. A
            machine that is started here has stand-ins in their place.
    """

    type: str
    cpu: str
    memory_mib: int
    vcpus: int
    devices: tuple[str, ...] = field(default=())
    smm: bool = False
    gpus: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageShare:
    """What one origin brought: its name, version (empty unless a package), files and their bytes."""

    name: str
    version: str
    files: int
    size: int
