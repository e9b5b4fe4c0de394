"""Small packages, ELF files and kernel modules, laid out byte by byte as their specifications say."""

from __future__ import annotations

import struct

from builder.artifacts import Archive
from builder.recipe.merged import RecipeFile
from builder.recipe.model import Layer
from builder.tar import Entry
from builder.tree import Kind

BASE = 0x400000


def package(name, content, *, version="1.0"):
    """Return an archive; values are bytes (0644), (bytes, mode[, uid, gid]), "-> target" or None (directory)."""
    archive = Archive(
        name=name, version=version, architecture="amd64", path=f"pool/{name}.deb", pocket="trixie", size=1,
        sha256="0" * 64,
    )  # fmt: skip
    entries = []
    for path, value in content.items():
        if value is None:
            entries.append(Entry(path=path, kind=Kind.DIRECTORY, mode=0o755, uid=0, gid=0))
        elif isinstance(value, str):
            target = value.removeprefix("-> ")
            entries.append(Entry(path=path, kind=Kind.SYMLINK, mode=0o777, uid=0, gid=0, target=target))
        else:
            data, mode, uid, gid = (*value, 0, 0)[:4] if isinstance(value, tuple) else (value, 0o644, 0, 0)
            entries.append(
                Entry(path=path, kind=Kind.FILE, mode=mode, uid=uid, gid=gid, content=memoryview(data))
            )
    return archive, entries


def layer(**settings):
    return Layer.model_validate(settings, strict=False)


def recipe_file(path, content=b"", *, mode=0o644, owner="root", group="root", replaces=None):
    return RecipeFile(
        path=path, content=content, mode=mode, owner=owner, group=group, replaces=replaces,
        origin=f"recipes/base/files{path}",
    )  # fmt: skip


def elf(*, needed=(), runpath="", rpath="", soname="", interpreter="", notes=(), kind=3, machine=62):
    """Return an ELF64 file with program headers only, one PT_LOAD mapping the whole file at BASE."""
    strings = bytearray(b"\0")

    def text(value):
        offset = len(strings)
        strings.extend(value.encode() + b"\0")
        return offset

    dynamic = [(1, text(name)) for name in needed]
    dynamic += [(tag, text(value)) for tag, value in ((14, soname), (15, rpath), (29, runpath)) if value]
    loader = interpreter.encode() + b"\0" if interpreter else b""
    note = b"".join(
        struct.pack("<III", 4, len(raw), 0x407C0C0A) + b"FDO\0" + raw + bytes(-len(raw) % 4) for raw in notes
    )
    count = 2 + bool(loader) + bool(note)
    at = 64 + 56 * count
    strings_at = at
    loader_at = strings_at + len(strings)
    note_at = (loader_at + len(loader) + 3) // 4 * 4
    dynamic_at = (note_at + len(note) + 7) // 8 * 8
    dynamic += [(5, BASE + strings_at), (10, len(strings)), (0, 0)]
    table = b"".join(struct.pack("<qQ", tag, value) for tag, value in dynamic)
    size = dynamic_at + len(table)

    def segment(type_, offset, length):
        return struct.pack("<IIQQQQQQ", type_, 4, offset, BASE + offset, BASE + offset, length, length, 1)

    headers = segment(1, 0, size) + segment(2, dynamic_at, len(table))
    headers += segment(3, loader_at, len(loader)) if loader else b""
    headers += segment(4, note_at, len(note)) if note else b""
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head = struct.pack("<16sHHIQQQIHHHHHH", identity, kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    body = (head + headers + strings + loader).ljust(note_at, b"\0") + note
    return body.ljust(dynamic_at, b"\0") + table


def module(**info):
    """Return a relocatable ELF64 file with a .modinfo section; list values repeat their key."""
    records = [
        f"{key}={item}"
        for key, value in info.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    modinfo = "".join(f"{record}\0" for record in records).encode()
    names = b"\0.modinfo\0.shstrtab\0"
    names_at = 64 + len(modinfo)
    table_at = (names_at + len(names) + 7) // 8 * 8

    def section(name, type_, offset, size):
        return struct.pack("<IIQQQQIIQQ", name, type_, 0, 0, offset, size, 0, 0, 1, 0)

    table = section(0, 0, 0, 0) + section(1, 1, 64, len(modinfo)) + section(10, 3, names_at, len(names))
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head = struct.pack("<16sHHIQQQIHHHHHH", identity, 1, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2)
    return (head + modinfo + names).ljust(table_at, b"\0") + table


LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"
#: What every composed tree below has: the loader and a C library.
LIBC = package(
    "libc6",
    {
        f"{LIBRARIES}/ld-linux-x86-64.so.2": (elf(soname="ld-linux-x86-64.so.2"), 0o755),
        "/usr/lib64/ld-linux-x86-64.so.2": "-> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        f"{LIBRARIES}/libc.so.6": (elf(soname="libc.so.6", needed=["ld-linux-x86-64.so.2"]), 0o755),
    },
)
PROGRAM = (elf(interpreter=LOADER, needed=["libc.so.6"]), 0o755)
