"""Debian's OVMF builds out of the vault or the store; tests that need them are skipped where neither has them.

The integration tests, which run first, fill the store.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from pathlib import Path

import pytest

from builder.store import Store

#: SHA-256 of the packages ovmf 2025.02-8+deb13u1 and ovmf-generic 2026.08+ds-2.
_PACKAGES = {
    "2025.02": "78e0d54df11fc77406cb7a0bc9a39e5bca6d1cbe06556b91d9a73491c52decdf",
    "2026.08": "05c1593998ba58700ff86c062bde306321af1f5a2943ea9ceef6c2332f3f3374",
}
RELEASES = tuple(_PACKAGES)


def ovmf_code(release, variant=""):
    """Return ``OVMF_CODE_4M.fd``, or with a variant ("secboot") that build of it."""
    for place in (os.environ.get("GOLDSMITH_VAULT"), Store.default().root):
        archive = Path(place, "sha256", _PACKAGES[release]) if place else None
        if archive is not None and archive.exists():
            break
    else:
        pytest.skip(
            "no firmware: neither the vault (GOLDSMITH_VAULT) nor the store has Debian's ovmf packages"
        )
    return _unpack(archive, f"./usr/share/OVMF/OVMF_CODE_4M{variant and '.' + variant}.fd")


@functools.cache
def _unpack(archive, name):
    data = archive.read_bytes()
    offset = 8  # "!<arch>\n", then members behind headers of 60 bytes (deb(5), ar(5))
    while not data.startswith(b"data.tar", offset):
        offset += 60 + (int(data[offset + 48 : offset + 58]) + 1 & ~1)
    size = int(data[offset + 48 : offset + 58])
    with tarfile.open(fileobj=io.BytesIO(data[offset + 60 : offset + 60 + size])) as tar:
        return tar.extractfile(name).read()
