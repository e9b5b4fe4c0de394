"""Debian's OVMF builds out of the vault or the store; tests that need them are skipped where neither has them.

The integration tests, which run first, fill the store.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest

from builder.store import Store

#: SHA-256 of the packages ovmf 2025.02-8+deb13u1, and ovmf-generic, -amdsev and -inteltdx 2026.08+ds-2.
_PACKAGES = {
    "2025.02": "78e0d54df11fc77406cb7a0bc9a39e5bca6d1cbe06556b91d9a73491c52decdf",
    "2026.08": "05c1593998ba58700ff86c062bde306321af1f5a2943ea9ceef6c2332f3f3374",
}
RELEASES = tuple(_PACKAGES)
_INTELTDX = "87123a9bf4dc1af7bbc48257a9b3db5933ff695167476d4fa48b705da1011fb1"
_AMDSEV = "92c9b6d15e4eeb371938c3f99080c1a8fc057dfd6bc0509d37f8b615e9edebfb"


def ovmf_code(release, variant=""):
    """Return ``OVMF_CODE_4M.fd``, or with a variant ("secboot") that build of it."""
    return _file(_PACKAGES[release], f"./usr/share/OVMF/OVMF_CODE_4M{variant and '.' + variant}.fd")


def ovmf(release):
    """Return ``OVMF.fd``: variables and code in one file, as SEV guests load it."""
    return _file(_PACKAGES[release], "./usr/share/ovmf/OVMF.fd")


def ovmf_inteltdx():
    """Return ``OVMF.inteltdx.ms.fd`` 2026.08+ds-2, a build without PEI phase, with Microsoft's keys enrolled."""
    return _file(_INTELTDX, "./usr/share/ovmf/OVMF.inteltdx.ms.fd")


def ovmf_amdsev():
    """Return ``OVMF.amdsev.fd`` 2026.08+ds-2, the build that verifies kernel hashes."""
    return _file(_AMDSEV, "./usr/share/ovmf/OVMF.amdsev.fd")


@contextlib.contextmanager
def as_file(data):
    """Lend ``data`` as a file, to tools that take paths only."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name


def _file(package, name):
    for place in (os.environ.get("GOLDSMITH_VAULT"), Store.default().root):
        archive = Path(place, "sha256", package) if place else None
        if archive is not None and archive.exists():
            break
    else:
        pytest.skip(
            "no firmware: neither the vault (GOLDSMITH_VAULT) nor the store has Debian's ovmf packages"
        )
    return _unpack(archive, name)


@functools.cache
def _unpack(archive, name):
    data = archive.read_bytes()
    offset = 8  # "!<arch>\n", then members behind headers of 60 bytes (deb(5), ar(5))
    while not data.startswith(b"data.tar", offset):
        offset += 60 + (int(data[offset + 48 : offset + 58]) + 1 & ~1)
    size = int(data[offset + 48 : offset + 58])
    with tarfile.open(fileobj=io.BytesIO(data[offset + 60 : offset + 60 + size])) as tar:
        return tar.extractfile(name).read()
