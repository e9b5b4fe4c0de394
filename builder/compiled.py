"""The modules that a recipe compiles, out of the store or made now."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.artifacts import Lock
from builder.errors import ComposeError
from builder.kbuild.check import Module, read_symvers
from builder.kbuild.compile import COMPILED_KIND, cache_key, check_modules, compile_modules
from builder.progress import SILENT, Reporter
from builder.recipe.merged import Recipe
from builder.recipe.model import ModuleSource
from builder.store import Store
from builder.tar import Entry
from builder.toolbox import open_members, unpack_compiler
from builder.tree import Kind

_LENGTH = 8


def compiled_modules(
    recipe: Recipe,
    lock: Lock,
    *,
    release: str,
    vermagic: str,
    store: Store,
    reporter: Reporter = SILENT,
    jobs: int | None = None,
) -> dict[str, tuple[Module, ...]]:
    """Return source name -> its checked, unsigned modules, sorted by name.

    Args:
        recipe: names the sources.
        lock: pins sources and compiler; their archives are in ``store``.
        release: the kernel's.
        vermagic: of the kernel's own modules.
        store: keeps what was compiled, by the digest of everything that decided it.
        reporter: hears of each source that has to be compiled.
        jobs: compilers at a time; default: one a processor.

    Raises:
        ComposeError: the headers are of another kernel, or a module does not fit the kernel.
        ToolError: a command of the source failed.
    """
    if not recipe.module_sources:
        return {}
    tools = unpack_compiler(lock, recipe.compiler.links, store)
    headers = f"usr/src/linux-headers-{release}/Module.symvers"
    symvers = (tools.path("usr") / headers.removeprefix("usr/")).resolve()
    if not symvers.is_file():
        raise ComposeError(
            f"the compiler has no headers of the kernel {release}",
            hint="compiler.packages names its linux-headers; goldsmith lock",
        )
    symbols = read_symvers(symvers.read_text(), headers)
    found = {}
    for source in recipe.module_sources:
        key = cache_key(
            # What the root holds beside a module decides no byte of it.
            source.model_dump(mode="json", exclude={"same_version"}),
            release=release,
            inputs=[
                *(archive.sha256 for archive in lock.members(f"modules/{source.name}")),
                *(hashlib.sha256(patch.content).hexdigest() for patch in recipe.patches[source.name]),
            ],
            tools=tools,
        )

        def make(put: Callable[[bytes], object], source: ModuleSource = source) -> None:
            with (
                reporter.phase(f"compile {source.name}"),
                tempfile.TemporaryDirectory(prefix="goldsmith-modules-") as work,
            ):
                written = compile_modules(
                    _source(source, lock, store),
                    folder=source.folder,
                    patches=[(patch.path[1:], patch.content) for patch in recipe.patches[source.name]],
                    prepare=source.prepare,
                    make=source.make,
                    modules=source.modules,
                    release=release,
                    tools=tools,
                    work=Path(work),
                    jobs=jobs or len(os.sched_getaffinity(0)),
                )
                for piece in _pack(written):
                    put(piece)

        packed = store.derived_bytes(COMPILED_KIND, key, make)
        found[source.name] = check_modules(_unpack(packed), vermagic=vermagic, kernel_symbols=symbols)
    return found


def _source(source: ModuleSource, lock: Lock, store: Store) -> Entry:
    for package in open_members(
        lock.members(f"modules/{source.name}"), store, recipe=lock.recipe, keep=False
    ):
        for entry in package.entries():
            if entry.path == source.source and entry.kind is Kind.FILE:
                return entry
    raise ComposeError(
        f"module_sources: {source.name}: {', '.join(source.packages)} {source.version} ship no {source.source}"
    )


def _pack(files: Mapping[str, bytes]) -> list[bytes]:
    names = sorted(files)
    index = json.dumps([[name, len(files[name])] for name in names]).encode()
    return [len(index).to_bytes(_LENGTH, "little"), index, *(files[name] for name in names)]


def _unpack(packed: memoryview) -> dict[str, bytes]:
    at = _LENGTH + int.from_bytes(packed[:_LENGTH], "little")
    files = {}
    for name, size in json.loads(bytes(packed[_LENGTH:at])):
        files[name] = bytes(packed[at : at + size])
        at += size
    return files
