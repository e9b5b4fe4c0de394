"""What a compiled module must be before it goes into an image: for this kernel, and with its interfaces."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.elf import module_info, section
from builder.errors import ComposeError
from measurements.errors import FormatError

MAX_VERSIONS = 1 << 16
MAX_SYMBOLS = 1 << 20

#: include/linux/module.h, struct modversion_info of 64-bit kernels: unsigned long crc; char name[64 - 8].
_VERSION = struct.Struct("<Q56s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A compiled, unsigned module.

    Attributes:
        name: as in lsmod, with underscores.
        content: the ELF file.
        imports: symbol -> CRC of its interface, for every symbol that it takes from elsewhere.
    """

    name: str
    content: bytes
    imports: Mapping[str, int]


def check_module(name: str, content: bytes, *, vermagic: str, exported: Mapping[str, int]) -> Module:
    """Check what the kernel would check on loading, and some more that it could only find out later.

    Args:
        name: what the recipe calls it.
        content: the file.
        vermagic: of the kernel's own modules; kernel/module/main.c compares the whole text.
        exported: symbol -> CRC, of the kernel and of what is loaded before.

    Raises:
        ComposeError: another name or kernel, an import that nobody exports, an interface that changed.
    """
    try:
        info = dict(module_info(content))
        versions = section(content, "__versions")
    except FormatError as error:
        raise ComposeError(f"module {name}: what was compiled is no kernel module: {error}") from error
    found = info.get("name", "")
    if found.replace("-", "_") != name.replace("-", "_"):
        raise ComposeError(f"module {name}: what was compiled calls itself {found!r}")
    if info.get("vermagic") != vermagic:
        raise ComposeError(
            f"module {name} is compiled for {info.get('vermagic')!r}; the image's kernel is {vermagic!r}",
            hint="the compiler's linux-headers package must be of the kernel's version: goldsmith lock",
        )
    if versions is None:
        raise ComposeError(f"module {name} has no symbol versions; was it compiled without Module.symvers?")
    imports = dict(_versions(name, versions))
    problems = []
    for symbol, crc in imports.items():
        if symbol not in exported:
            problems.append(f"imports {symbol}, which neither the kernel nor a module before it exports")
        elif exported[symbol] != crc:
            problems.append(f"imports {symbol} with CRC {crc:#010x}; exported is {exported[symbol]:#010x}")
    if problems:
        raise ComposeError(f"module {name}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Module(name=name.replace("-", "_"), content=content, imports=imports)


def read_symvers(text: str, what: str) -> dict[str, int]:
    """Read a Module.symvers (Documentation/kbuild/modules.rst): symbol -> CRC.

    Raises:
        ComposeError: a line that is none, or too many.
    """
    lines = text.splitlines()
    if len(lines) > MAX_SYMBOLS:
        raise ComposeError(f"{what} has {len(lines)} lines; the limit is {MAX_SYMBOLS}")
    symbols = {}
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        try:
            symbols[fields[1]] = int(fields[0], 16)
        except (IndexError, ValueError):
            raise ComposeError(f"{what}, line {number}: expected CRC and symbol, got {line[:80]!r}") from None
    return symbols


def _versions(name: str, raw: memoryview) -> Iterator[tuple[str, int]]:
    if len(raw) % _VERSION.size or len(raw) > MAX_VERSIONS * _VERSION.size:
        raise ComposeError(f"module {name}: a table of symbol versions of {len(raw)} bytes")
    for crc, symbol in _VERSION.iter_unpack(raw):
        yield symbol.split(b"\0", 1)[0].decode("ascii", "replace"), crc
