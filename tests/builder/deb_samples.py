"""Debian archives made by the standard library's tarfile and the layout of deb(5), for tests."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile

import zstandard

CONTROL = "Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: a test\n two lines\n"


def tar_of(members, *, form=tarfile.GNU_FORMAT) -> bytes:
    """Make a tar of (name, content | None for a directory | dict of TarInfo fields)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                content = None
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return buffer.getvalue()


def ar_of(members) -> bytes:
    out = bytearray(b"!<arch>\n")
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + (b"\n" if len(content) % 2 else b"")
    return bytes(out)


COMPRESS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".xz": lambda data: lzma.compress(data, format=lzma.FORMAT_XZ),
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def deb_of(members, *, name="sample", version="1.0-1", suffix=".xz", form=tarfile.GNU_FORMAT) -> bytes:
    control = tar_of(
        [("./control", CONTROL.format(name=name, version=version).encode()), ("./postinst", b"#!")]
    )
    return ar_of(
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{suffix}", COMPRESS[suffix](control)),
            (f"data.tar{suffix}", COMPRESS[suffix](tar_of(members, form=form))),
        ]
    )
