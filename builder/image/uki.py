"""The unified kernel image (UAPI group specification), through ukify and the stub of the toolbox."""

from __future__ import annotations

from pathlib import Path

from builder.errors import ImageError
from builder.tools import Tools
from measurements.formats import pe

#: systemd-boot-efi's stub for x86-64, below the toolbox's root.
STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
#: The longest command line the x86 kernel takes (COMMAND_LINE_SIZE, with the terminating NUL).
MAX_COMMAND_LINE = 2048
#: measured-boot 1.5: firmware and signing tools hash an unaligned image differently.
ALIGNMENT = 8

# UAPI group, "Unified Kernel Image", SBAT; what ukify 257 would add by itself, said here so that another
# release of it cannot change PCR 11.
_SBAT = (
    "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"
    "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n"
)
#: Sections that carry what this module was given, in the order in which ukify writes them.
_PAYLOAD = (".osrel", ".cmdline", ".uname", ".linux", ".initrd")


def build_uki(
    kernel: bytes | memoryview,
    initrd: bytes,
    *,
    command_line: str,
    os_release: str,
    uname: str,
    root_hash: str,
    tools: Tools,
    workdir: Path,
) -> Path:
    """Write ``workdir/uki.efi``.

    Args:
        kernel: bzImage with an EFI stub.
        initrd: one archive, compressed or not.
        command_line: without line breaks; must carry ``roothash=`` and ``root_hash``.
        os_release: text of the image's os-release.
        uname: kernel release, as ``uname -r`` prints it.
        root_hash: dm-verity root hash of the root this UKI boots, hex.

    Returns:
        The unsigned UKI, a multiple of 8 bytes, whose sections hold exactly what was given.

    Raises:
        ImageError: a bad command line, or the result is not what was asked for.
        FormatError: the result is no PE image.
        ToolError: ukify failed.
    """
    _check_command_line(command_line, root_hash)
    sections = {
        ".osrel": os_release.encode(),
        ".cmdline": command_line.encode(),
        ".uname": uname.encode(),
        ".linux": kernel,
        ".initrd": initrd,
    }
    files = {name: workdir / f"uki{name}" for name in (*sections, ".sbat")}
    for name, content in {**sections, ".sbat": _SBAT.encode()}.items():
        files[name].write_bytes(content)
    output = workdir / "uki.efi"
    output.unlink(missing_ok=True)
    tools.run(
        "ukify", "build",
        "--config=/dev/null",  # none of the host's
        "--efi-arch=x64", f"--stub={tools.path(STUB)}",
        f"--linux={files['.linux']}", f"--initrd={files['.initrd']}", f"--cmdline=@{files['.cmdline']}",
        f"--os-release=@{files['.osrel']}", f"--uname={uname}", f"--sbat=@{files['.sbat']}",
        "--no-measure", f"--output={output}",
        cwd=workdir, env={"TMPDIR": str(workdir)},
    )  # fmt: skip
    for path in files.values():
        path.unlink()
    _check(output, sections)
    return output


def _check_command_line(command_line: str, root_hash: str) -> None:
    if f"roothash={root_hash}" not in command_line.split():
        raise ImageError(
            f"the kernel command line {command_line!r} does not carry roothash={root_hash}: "
            "the kernel would mount a root that nobody measured"
        )
    if not command_line.isascii() or not command_line.isprintable():
        raise ImageError(f"kernel command line {command_line!r}: expected printable ASCII on one line")
    if len(command_line) >= MAX_COMMAND_LINE:
        raise ImageError(
            f"the kernel command line has {len(command_line)} characters; the kernel takes "
            f"{MAX_COMMAND_LINE - 1} and ignores the rest"
        )


def _check(output: Path, sections: dict[str, bytes | memoryview]) -> None:
    data = output.read_bytes()
    if len(data) % ALIGNMENT:
        raise ImageError(f"{output}: {len(data)} bytes, expected a multiple of {ALIGNMENT}")
    image = pe.parse(data)
    names = [section.name for section in image.sections]
    if tuple(name for name in names if name in sections) != _PAYLOAD or names.count(".sbat") != 1:
        raise ImageError(f"{output}: expected each of {', '.join(_PAYLOAD)} and .sbat once, got {names}")
    view = memoryview(data)
    for section in image.sections:
        if section.name not in sections:
            continue
        found = view[section.raw_offset : section.raw_offset + section.virtual_size]
        if found != sections[section.name]:
            raise ImageError(f"{output}: ukify changed the content of section {section.name}")
