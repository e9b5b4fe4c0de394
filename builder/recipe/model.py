"""The recipe: its model, which is also the source of its JSON Schema.

A recipe and its fragments share these keys. Fragments are merged in the order of ``include``, the recipe
last: lists are joined, mappings united; two different values for one key are an error that names both files.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from builder.recipe.base import (
    AbsolutePath,
    AccountName,
    Command,
    DebianVersion,
    Glob,
    Mode,
    Model,
    ModuleName,
    Name,
    PackageName,
    PackagePattern,
    PythonModule,
    Reason,
    RelativePath,
    SafeInteger,
    UnitName,
    VariableName,
)
from builder.recipe.platforms import Platform, SevSnpPlatform, TdxPlatform


class Distribution(Model):
    """Where packages are resolved from; the mirror is never part of a recipe."""

    name: Literal["debian"] = "debian"
    suite: Name = Field(description="release name, as in trixie")
    pockets: tuple[Literal["release", "updates", "security"], ...] = Field(
        default=("release", "updates", "security"), description="which archives of the suite are used"
    )
    components: tuple[Literal["main", "contrib", "non-free", "non-free-firmware"], ...] = ("main",)
    architecture: Literal["amd64"] = "amd64"


class Exclude(Model):
    """Paths of packages that are left out of the tree."""

    paths: tuple[Glob, ...] = Field(description="globs: * within a component, ** across components")
    keep: tuple[Glob, ...] = Field(
        default=(), description="globs that stay, whichever exclusion matches them"
    )
    reason: Reason


class File(Model):
    """A file that the recipe adds or puts in place of a package's."""

    path: AbsolutePath
    source: str | None = Field(
        default=None,
        max_length=512,
        description="file below recipes/<image>/files/, or recipes/common/<fragment>/ for a fragment",
    )
    content: str | None = Field(default=None, description="the content itself")
    template: bool = Field(default=False, description="render with jinja2, with the recipe's variables")
    mode: Mode = "0644"
    owner: AccountName = "root"
    group: AccountName = "root"
    replaces: Reason | None = Field(
        default=None, description="why it replaces a package's file; without it, a taken path is an error"
    )


class Directory(Model):
    """A directory no package ships."""

    path: AbsolutePath
    mode: Mode = "0755"
    owner: AccountName = "root"
    group: AccountName = "root"


class User(Model):
    """A system user with a fixed id."""

    name: AccountName
    uid: int = Field(ge=0, le=65533)
    group: AccountName | None = Field(
        default=None, description="primary group; a group of the same name if absent"
    )
    home: AbsolutePath = "/nonexistent"
    description: str = ""


class Group(Model):
    """A system group with a fixed id."""

    name: AccountName
    gid: int = Field(ge=0, le=65533)
    members: tuple[AccountName, ...] = ()


class Units(Model):
    """systemd units: links that `systemctl enable` and `mask` would have made."""

    enable: tuple[UnitName, ...] = ()
    mask: dict[UnitName, Reason] = Field(default_factory=dict)
    default_target: UnitName | None = None


class Layer(Model):
    """One file tree: the root file system or the initrd."""

    packages: tuple[PackageName, ...] = ()
    drop: dict[PackagePattern, Reason] = Field(
        default_factory=dict,
        description="packages of the dependency closure that are left out, each with a reason; * is any part of a name",
    )
    exclude: tuple[Exclude, ...] = ()
    files: tuple[File, ...] = ()
    python: dict[AbsolutePath, tuple[PythonModule, ...]] = Field(
        default_factory=dict,
        description="modules of the package `measurements` that the image's own programs import, with those that "
        "these import: folder of the image -> modules",
    )
    directories: tuple[Directory, ...] = ()
    links: dict[AbsolutePath, str] = Field(default_factory=dict, description="symbolic links: path -> target")
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    units: Units = Units()
    modules: tuple[ModuleName, ...] = Field(
        default=(), description="kernel modules; their dependencies follow"
    )
    setuid: dict[AbsolutePath, Reason] = Field(
        default_factory=dict,
        description="files that keep their setuid or setgid bit; all others lose the build",
    )
    strip_setuid: dict[AbsolutePath, Reason] = Field(
        default_factory=dict, description="files whose setuid or setgid bit is taken away"
    )
    interpreters: dict[AbsolutePath, Reason] = Field(
        default_factory=dict, description="script interpreters and shells the image may hold"
    )
    missing: dict[str, Reason] = Field(
        default_factory=dict,
        description="libraries, link targets or unit programs that may be absent, each with a reason",
    )


class Kernel(Model):
    """The kernel and the command line sealed into the UKI."""

    package: PackageName = Field(description="a linux-image package or the metapackage that depends on one")
    command_line: tuple[str, ...] = ()


class Toolbox(Model):
    """Packages whose programs write bytes or boot machines."""

    packages: tuple[PackageName, ...] = ()
    drop: dict[PackagePattern, Reason] = Field(
        default_factory=dict,
        description="packages of the dependency closure that are not unpacked, each with a reason; * as in a layer",
    )


class Compiler(Toolbox):
    """Packages that compile kernel modules, in a sandbox of their own; nothing of them is in an image."""

    links: dict[AbsolutePath, str] = Field(
        default_factory=dict, description="links that a maintainer script would make: path -> target"
    )


class ModuleSource(Model):
    """Kernel modules that are compiled from a package's source, against the headers of the image's kernel."""

    name: Name
    packages: tuple[PackageName, ...] = Field(
        min_length=1, description="archives that ship the source, without their dependencies"
    )
    version: DebianVersion = Field(description="exact version of these packages")
    source: AbsolutePath = Field(description="the tar among their files: .tar, .tar.gz or .tar.xz")
    folder: RelativePath = Field(description="folder of the tar in which commands run")
    patches: tuple[RelativePath, ...] = Field(
        default=(), description="files of the fragment's folder, applied in order with patch -p1"
    )
    prepare: tuple[Command, ...] = Field(
        default=(), description="commands before make, with their arguments; {release} is the kernel's"
    )
    make: tuple[str, ...] = Field(description="arguments of make; {release} is the kernel's release")
    modules: dict[ModuleName, RelativePath] = Field(
        min_length=1, description="module -> the file below folder that make writes"
    )
    same_version: tuple[PackageName, ...] = Field(
        default=(),
        description="packages of the root that work with this very version alone, Debian's revision aside",
    )


class FirmwareSource(Model):
    """A UEFI firmware build out of a distribution package."""

    name: Name
    suite: Name
    packages: tuple[PackageName, ...] = Field(
        min_length=1, description="archives to unpack, without their dependencies"
    )
    version: DebianVersion | None = Field(
        default=None, description="exact version wanted; absent: the suite's newest"
    )
    code: AbsolutePath
    variables: AbsolutePath | None = Field(
        default=None,
        description="the variable store it starts with; absent where code and variables are one file",
    )


class EmulatorSource(Model):
    """A QEMU of another release than the toolbox's, which says what tables its machines have and boots none."""

    name: Name
    suite: Name
    package: PackageName = Field(
        description="archive with qemu-system-x86_64, which runs on the toolbox's libraries"
    )
    version: DebianVersion = Field(description="exact version: tables are a release's own")


DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}(\.[0-9]{1,4}){1,3}$")]
VbiosVersion = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{2}(\.[0-9A-F]{2}){4}$")]
RuleId = Annotated[str, StringConstraints(pattern=r"^GS-[A-Z]+-\d{3}$")]
PortName = Annotated[str, StringConstraints(pattern=r"^(tcp|udp)/[1-9]\d{0,4}$")]
ConfigOption = Annotated[str, StringConstraints(pattern=r"^CONFIG_[A-Z0-9_]+$", max_length=128)]


class Audit(Model):
    """What the audit of the final image needs to know, beside what the layers say."""

    ports: dict[PortName, Reason] = Field(
        default_factory=dict, description="ports that are open to the network: tcp/8440 -> what answers there"
    )
    kernel_policy: str | None = Field(
        default=None,
        max_length=512,
        description="file with the kernel policy, looked up as a file's source is",
    )
    waive: dict[RuleId, Reason] = Field(
        default_factory=dict,
        description="rules that may fail, each with a reason; one that is unknown or does not fail is an error",
    )


class RequiredOption(Model):
    """An option that the kernel's configuration must have."""

    option: ConfigOption
    value: str = Field(description="n stands for off, and for unknown to this kernel")
    reason: Reason


class AcceptedOption(Model):
    """An option that is otherwise than wanted, and what stands in for it."""

    option: ConfigOption
    wanted: str
    kernel: str
    instead: Reason


class KernelPolicy(Model):
    """The written policy of the kernel's configuration."""

    required: tuple[RequiredOption, ...]
    accepted: tuple[AcceptedOption, ...]


class Vbios(Model):
    """Which firmware GPUs may run."""

    allow: tuple[VbiosVersion, ...] = Field(
        default=(),
        max_length=64,
        description="versions that are allowed; absent: each that an imported RIM is about",
    )


class Gpu(Model):
    """What must hold of the machine's GPUs, which the gate judges by before any work begins.

    Reference values (RIMs) are imported beside the recipe with `goldsmith rim add`.
    """

    architecture: Literal["hopper", "blackwell"]
    driver: DriverVersion = Field(description="version of the driver in the image, as NVIDIA writes it")
    count: int = Field(default=1, ge=1, le=16, description="how many GPUs there are")
    nvswitches: int = Field(default=0, ge=0, le=16, description="how many NVSwitches there are")
    vbios: Vbios = Vbios()


class Fragment(Model):
    """What a fragment may say; every key is optional."""

    include: tuple[str, ...] = Field(
        default=(), description="fragments, as common/base for recipes/common/base.yaml"
    )
    root: Layer = Layer()
    initrd: Layer = Layer()
    kernel: Kernel | None = None
    distribution: Distribution | None = None
    toolbox: Toolbox = Toolbox()
    compiler: Compiler = Compiler()
    module_sources: tuple[ModuleSource, ...] = ()
    firmware: tuple[FirmwareSource, ...] = ()
    emulators: tuple[EmulatorSource, ...] = ()
    platforms: tuple[Platform, ...] = ()
    sev_snp: tuple[SevSnpPlatform, ...] = ()
    tdx: tuple[TdxPlatform, ...] = ()
    gpu: Gpu | None = None
    variables: dict[VariableName, str | SafeInteger | bool] = Field(
        default_factory=dict, description="for templates"
    )
    command_line: tuple[str, ...] = Field(default=(), description="joined to the kernel's command line")
    audit: Audit = Audit()


class RecipeDocument(Fragment):
    """What a recipe says, before its fragments are merged in."""

    name: Name
    version: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)*$")]
    svn: int = Field(ge=0, le=2**32 - 1, description="security version: verifiers refuse lower ones")
    summary: str
    validity_days: int = Field(default=365, ge=1, le=3650)
