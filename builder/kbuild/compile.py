"""Compile the modules of a source: locked source and compiler in, checked modules out."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.errors import ArchiveError, ComposeError, ToolError
from builder.kbuild.check import Module, check_module, read_symvers
from builder.kbuild.sandbox import Sandbox
from builder.tar import Entry, read_tar
from builder.tools import Tools
from builder.tree import Kind

#: Part of every cache key; raise it when this step would write other bytes from the same inputs.
COMPILED_KIND = "modules-2"
MAX_SOURCE = 2 << 30
_SYMVERS = "Module.symvers"
#: No fuzz: a patch either means this very source, or fails.
_PATCH = ("patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--input=/dev/stdin")


def cache_key(recipe: Mapping[str, object], *, release: str, inputs: Sequence[str], tools: Tools) -> str:
    """Return the SHA-256 (hex) over everything that decides the modules' bytes.

    Args:
        recipe: the source's description.
        release: the kernel's.
        inputs: digests of source archives and patches, in their order.
        tools: the compiler's archives.
    """
    value = {
        "recipe": recipe,
        "release": release,
        "inputs": list(inputs),
        "compiler": tools.digest,
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def compile_modules(
    source: Entry,
    *,
    folder: str,
    patches: Sequence[tuple[str, bytes]],
    prepare: Sequence[Sequence[str]],
    make: Sequence[str],
    modules: Mapping[str, str],
    release: str,
    tools: Tools,
    work: Path,
    jobs: int,
) -> dict[str, bytes]:
    """Unpack, patch and compile; nothing is checked yet.

    Args:
        source: the tar with the source.
        folder: folder of the tar in which commands run.
        patches: (name, unified diff), applied in their order with ``-p1`` and no fuzz.
        prepare: commands before make.
        make: arguments of make.
        modules: module -> file below ``folder``.
        release: the kernel's, for ``{release}`` in commands.
        tools: the compiler's archives, unpacked.
        work: an empty folder of this step.
        jobs: compilers at a time; no byte depends on it.

    Returns:
        Each module's bytes by its name, and the symbols that they export as ``Module.symvers``.

    Raises:
        ArchiveError: the source is no tar, or leaves its folder.
        ComposeError: a file that make was to write is not there.
        ToolError: a command failed.
    """
    unpack_source(source, work)
    if not (work / folder).is_dir():
        raise ComposeError(f"{source.path} has no folder {folder}")
    sandbox = Sandbox(tools=tools, work=work)
    for name, diff in patches:
        try:
            sandbox.run(_PATCH, folder=folder, feed=diff)
        except ToolError as error:
            raise ToolError(
                f"{name} does not apply to {source.path}\n{error}",
                hint="the patch's header says for which versions it is",
            ) from error
    for command in prepare:
        sandbox.run([_fill(word, release) for word in command], folder=folder)
    sandbox.run(["make", f"-j{jobs}", *(_fill(word, release) for word in make)], folder=folder)
    written = {}
    for name, path in {**modules, _SYMVERS: _SYMVERS}.items():
        place = work / folder / path
        try:
            if not place.resolve().is_relative_to(work.resolve()):
                raise ComposeError(f"module {name}: {path} is a link out of the sandbox")
            written[name] = place.read_bytes()
        except OSError as error:
            raise ComposeError(f"make did not write {path} (module {name}): {error.strerror}") from error
    return written


def check_modules(
    written: Mapping[str, bytes], *, vermagic: str, kernel_symbols: Mapping[str, int]
) -> tuple[Module, ...]:
    """Check what `compile_modules` returned; the modules may use each other's symbols.

    Args:
        written: its result.
        vermagic: of the kernel's own modules.
        kernel_symbols: symbol -> CRC of the kernel and its modules.

    Raises:
        ComposeError: a module is not for this kernel.
    """
    own = read_symvers(written[_SYMVERS].decode("utf-8", "replace"), f"{_SYMVERS} of the compiled modules")
    exported = {**kernel_symbols, **own}
    return tuple(
        check_module(name, content, vermagic=vermagic, exported=exported)
        for name, content in sorted(written.items())
        if name != _SYMVERS
    )


def unpack_source(source: Entry, target: Path) -> None:
    """Write a tar's files and links below ``target``; no owner, no time of the archive.

    Raises:
        ArchiveError: malformed, larger than `MAX_SOURCE`, or with what has no place in a source.
    """
    data = _decompress(source)
    links: dict[Path, str] = {}
    for entry in read_tar(memoryview(data), name=source.path):
        place = target / entry.path[1:]
        if entry.kind is Kind.DIRECTORY:
            place.mkdir(parents=True, exist_ok=True)
        elif entry.kind is Kind.FILE:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as handle:
                handle.write(entry.content)
                os.fchmod(handle.fileno(), 0o755 if entry.mode & 0o111 else 0o644)
        elif entry.kind is Kind.SYMLINK:
            links[place] = entry.target
        else:
            raise ArchiveError(f"{source.path}: {entry.path} is a device")
    # Links last, so that no file is written through one. Where they lead is seen from inside the sandbox alone.
    root = target.resolve()
    for place, link in links.items():
        if not place.parent.resolve().is_relative_to(root):
            raise ArchiveError(f"{source.path}: {place.relative_to(target)} lies below a link")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(link)


def _decompress(source: Entry) -> bytes:
    raw = io.BytesIO(bytes(source.content))
    try:
        if source.path.endswith(".xz"):
            with lzma.open(raw) as xz:
                data = xz.read(MAX_SOURCE + 1)
        elif source.path.endswith(".gz"):
            with gzip.open(raw) as gz:
                data = gz.read(MAX_SOURCE + 1)
        else:
            data = raw.read(MAX_SOURCE + 1)
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise ArchiveError(f"{source.path}: damaged or truncated: {error}") from error
    if len(data) > MAX_SOURCE:
        raise ArchiveError(f"{source.path}: more than {MAX_SOURCE} bytes of source")
    return data


def _fill(word: str, release: str) -> str:
    return word.replace("{release}", release)
