"""The kernel's package: its image, and the modules of the allowlist with everything they depend on."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import zstandard

from builder.artifacts import Archive
from builder.elf import module_info
from builder.errors import ComposeError
from builder.rootfs.findings import Findings
from builder.rootfs.merge import fill_parents, merged_path, node_of, package_origin
from builder.tar import Entry
from builder.tools import Tools
from builder.tree import Kind, Node, Origin, Tree
from measurements.errors import FormatError

MAX_MODULE = 512 << 20
_XZ_MEMORY = 256 << 20
_MODULES = "/usr/lib/modules"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_DECOMPRESSORS = {".xz": "liblzma.so.5", ".zst": "libzstd.so.1"}
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst")
#: depmod reads these beside the modules; all else it writes.
_DEPMOD_INPUTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_GENERATED = Origin(kind="generated", name="depmod")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModule:
    """A module that this build compiled.

    Attributes:
        name: with underscores.
        content: the file, signed where it is to be signed.
        origin: the package of its source.
    """

    name: str
    content: bytes
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPackage:
    """The linux-image package of a build, and the modules that are compiled for it.

    Attributes:
        archive: of the package.
        entries: what it ships.
        compiled: modules that no package ships; the allowlist names them like any other.
    """

    archive: Archive
    entries: Sequence[Entry]
    compiled: tuple[CompiledModule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelImage:
    """A kernel ready for a UKI.

    Attributes:
        release: what ``uname -r`` will say.
        image: the bytes of vmlinuz.
    """

    release: str
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """What installing modules gave.

    Attributes:
        names: the modules in the tree, with underscores.
        firmware: files below /usr/lib/firmware that they may ask for.
        notes: what was asked for and is built in or not there.
    """

    names: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    name: str
    entry: Entry
    path: str
    info: Mapping[str, tuple[str, ...]]
    origin: Origin

    @property
    def depends(self) -> tuple[str, ...]:
        return tuple(
            _normal(name) for value in self.info.get("depends", ()) for name in value.split(",") if name
        )

    @property
    def soft(self) -> tuple[str, ...]:
        words = (word for value in self.info.get("softdep", ()) for word in value.split())
        return tuple(_normal(word) for word in words if word not in ("pre:", "post:"))

    @property
    def weak(self) -> tuple[str, ...]:
        return tuple(_normal(word) for value in self.info.get("weakdep", ()) for word in value.split())


def kernel_image(entries: Iterable[Entry]) -> KernelImage:
    """Return the one kernel that a package ships as /boot/vmlinuz-RELEASE.

    Raises:
        ComposeError: it ships none, or several.
    """
    prefix = "/boot/vmlinuz-"
    found = [entry for entry in entries if entry.path.startswith(prefix) and entry.kind is Kind.FILE]
    if len(found) != 1:
        names = ", ".join(entry.path for entry in found) or "none"
        raise ComposeError(
            f"the kernel's package ships {len(found)} files {prefix}*; expected one, got {names}",
            hint="`kernel.package` names a linux-image package that depends on exactly one kernel",
        )
    return KernelImage(release=found[0].path.removeprefix(prefix), image=bytes(found[0].content))


def vermagic(entries: Iterable[Entry]) -> str:
    """Return the text that every module for this kernel carries (kernel/module/main.c compares it).

    Raises:
        ComposeError: the package ships no module, or a damaged one.
    """
    for entry in entries:
        if entry.kind is Kind.FILE and _module_name(entry.path):
            for key, value in module_info(_decompress(entry.content, entry.path)):
                if key == "vermagic":
                    return value
    raise ComposeError("the kernel's package ships no module, so nothing can be compiled for it")


def install_modules(
    tree: Tree, kernel: KernelPackage, wanted: Sequence[str], *, tools: Tools, workdir: Path
) -> Modules:
    """Add the wanted modules, what they depend on, and depmod's index of exactly these.

    Hard dependencies (``depends=``) must be there. Soft ones (``softdep=``) come along where the package
    ships them. Weak ones (``weakdep=``) are noted and left out.

    Raises:
        ComposeError: no module has a wanted name, a dependency is absent, or depmod's index disagrees.
        ToolError: depmod failed.
    """
    if not wanted:
        return Modules()
    release = kernel_image(kernel.entries).release
    folder = f"{_MODULES}/{release}"
    files = {merged_path(entry.path): entry for entry in kernel.entries if entry.kind is Kind.FILE}
    shipped = package_origin(kernel.archive)
    origins = {}
    for module in kernel.compiled:
        path = f"{folder}/updates/{module.name}.ko"
        files[path] = Entry(
            path=path, kind=Kind.FILE, mode=0o644, uid=0, gid=0, content=memoryview(module.content)
        )
        origins[path] = module.origin
    available = {
        name: path for path in files if path.startswith(f"{folder}/") and (name := _module_name(path))
    }
    builtin = _builtin(*(files.get(f"{folder}/{name}") for name in _DEPMOD_INPUTS[:2]))
    findings = Findings()
    chosen = _close(wanted, files, origins, shipped, available, builtin, findings)
    findings.raise_errors(f"kernel modules of {kernel.archive.name}")
    _check_compression(tree, chosen.values(), files.get(f"/boot/config-{release}"), findings)
    findings.raise_errors(f"kernel modules of {kernel.archive.name}")
    for chosen_module in chosen.values():
        tree.add(chosen_module.path, node_of(chosen_module.entry, chosen_module.origin))
    inputs = {name: files[path] for name in _DEPMOD_INPUTS if (path := f"{folder}/{name}") in files}
    index = _run_depmod(release, chosen.values(), inputs, tools=tools, workdir=workdir)
    check_index(index.get("modules.dep", b""), {m.path.removeprefix(f"{folder}/") for m in chosen.values()})
    for name, content in index.items():
        tree.add(f"{folder}/{name}", Node(kind=Kind.FILE, mode=0o644, origin=_GENERATED, content=content))
    for name in ("modules.builtin", "modules.order"):
        if name in inputs:
            tree.add(f"{folder}/{name}", node_of(inputs[name], shipped))
    fill_parents(tree, {}, findings)
    firmware = {name for module in chosen.values() for name in module.info.get("firmware", ())}
    return Modules(names=tuple(sorted(chosen)), firmware=tuple(sorted(firmware)), notes=findings.notes)


def check_index(dependencies: bytes, present: set[str]) -> None:
    """Hold modules.dep (modules.dep(5)) against the modules in the tree, paths relative to its folder.

    Raises:
        ComposeError: it names a module that is absent, or lacks one that is there.
    """
    findings = Findings()
    listed: set[str] = set()
    for line in dependencies.decode("utf-8", "replace").splitlines():
        name, _, needs = line.partition(":")
        listed.add(name)
        for path in (name, *needs.split()):
            if path not in present:
                findings.error(f"modules.dep: {name} needs {path}, which is not in the tree")
    for path in sorted(present - listed):
        findings.error(f"modules.dep has no line for {path}")
    findings.raise_errors("kernel modules do not close")


def _close(
    wanted: Sequence[str],
    files: Mapping[str, Entry],
    origins: Mapping[str, Origin],
    shipped: Origin,
    available: Mapping[str, str],
    builtin: frozenset[str],
    findings: Findings,
) -> dict[str, _Module]:
    chosen: dict[str, _Module] = {}
    pending = [(_normal(name), "") for name in wanted]
    while pending:
        name, cause = pending.pop()
        if name in chosen:
            continue
        path = available.get(name)
        if path is None:
            _absent(name, cause, available, builtin, findings)
            continue
        module = chosen[name] = _read(name, path, files[path], origins.get(path, shipped))
        pending += [(other, name) for other in module.depends]
        pending += [(other, name) for other in module.soft if other in available]
        for other in module.soft + module.weak:
            if other not in available and other not in builtin:
                findings.note(f"module {name} would load {other} if it were there")
        for other in module.weak:
            if other in available:
                findings.note(f"module {name} names {other} as a weak dependency, which is left out")
    return chosen


def _absent(
    name: str, cause: str, available: Mapping[str, str], builtin: frozenset[str], findings: Findings
) -> None:
    if name in builtin:
        if not cause:
            findings.note(f"module {name} is built into the kernel")
        return
    if cause:
        findings.error(f"module {cause} depends on {name}, which the package neither ships nor builds in")
        return
    near = get_close_matches(name, [*available, *builtin], n=3)
    findings.error(
        f"the recipe lists the module {name}, and the package has no such module",
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )


def _read(name: str, path: str, entry: Entry, origin: Origin) -> _Module:
    info: dict[str, tuple[str, ...]] = {}
    try:
        for key, value in module_info(_decompress(entry.content, path)):
            info[key] = (*info.get(key, ()), value)
    except FormatError as error:
        raise ComposeError(f"{path}: not a kernel module: {error}") from error
    return _Module(name=name, entry=entry, path=path, info=info, origin=origin)


def _decompress(data: memoryview, path: str) -> bytes | memoryview:
    decoders: dict[str, Callable[[], bytes]] = {
        ".xz": lambda: _unxz(data),
        ".zst": lambda: (
            zstandard.ZstdDecompressor(max_window_size=1 << 27)
            .stream_reader(bytes(data))
            .read(MAX_MODULE + 1)
        ),
    }
    decoder = decoders.get(Path(path).suffix)
    if decoder is None:
        return data
    try:
        content = decoder()
    except (lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        raise ComposeError(f"{path}: damaged or truncated: {error}") from error
    if len(content) > MAX_MODULE:
        raise ComposeError(f"{path}: a module of more than {MAX_MODULE} bytes")
    return content


def _unxz(data: memoryview) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    content = decoder.decompress(data, max_length=MAX_MODULE + 1)
    if len(content) <= MAX_MODULE and not decoder.eof:
        raise EOFError("the compressed data ends early")
    return content


def _check_compression(
    tree: Tree, modules: Iterable[_Module], config: Entry | None, findings: Findings
) -> None:
    """Find compressed modules that neither the kernel nor a library of the tree can decompress."""
    if config is not None and b"\nCONFIG_MODULE_DECOMPRESS=y\n" in bytes(config.content):
        return
    for module in modules:
        library = _DECOMPRESSORS.get(Path(module.path).suffix)
        if library and tree.resolve(f"{_LIBRARIES}/{library}") is None:
            findings.error(
                f"{module.path} is compressed, the kernel lacks CONFIG_MODULE_DECOMPRESS, and libkmod's {library} "
                "is not in the tree",
                hint=f"add the package of {library}, or keep it",
            )


def _run_depmod(
    release: str,
    modules: Iterable[_Module],
    inputs: Mapping[str, Entry],
    *,
    tools: Tools,
    workdir: Path,
) -> dict[str, bytes]:
    """Return the files that depmod writes for these modules: name -> content."""
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workdir, prefix="modules-") as scratch:
        base = Path(scratch)
        folder = base / _MODULES[1:] / release
        folder.mkdir(parents=True)
        (base / "lib").symlink_to("usr/lib")  # depmod looks in either, depending on how it was built
        for module in modules:
            target = base / module.path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(module.entry.content)
        for name, entry in inputs.items():
            (folder / name).write_bytes(entry.content)
        tools.run("depmod", "-b", base, release)
        written = sorted(path for path in folder.glob("modules.*") if path.name not in _DEPMOD_INPUTS)
        return {path.name: path.read_bytes() for path in written}


def _builtin(paths: Entry | None, modinfo: Entry | None) -> frozenset[str]:
    """Return the names of what is built in, aliases included (kbuild, "modules.builtin")."""
    names: set[str] = set()
    if paths is not None:
        names.update(map(_module_name, bytes(paths.content).decode("utf-8", "replace").splitlines()))
    if modinfo is not None:
        for record in bytes(modinfo.content).split(b"\0"):
            key, equals, value = record.partition(b"=")
            if equals and key.endswith(b".alias"):
                names.add(_normal(value.decode("utf-8", "replace")))
    return frozenset(names)


def _module_name(path: str) -> str:
    """Return the module's name, or an empty string for a file that is no module."""
    name = path.rpartition("/")[2]
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return _normal(name.removesuffix(suffix))
    return ""


def _normal(name: str) -> str:
    return name.replace("-", "_")
