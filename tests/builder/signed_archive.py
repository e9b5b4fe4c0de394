"""A Debian archive in a folder, signed with a key of its own: what the real apt resolves against, without a network."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.mirror import Mirrors

needs_apt = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("apt-get", "gpg")), reason="needs apt-get and gpg"
)

DATES = {
    "trixie": "Sat, 12 Sep 2026 08:15:41 UTC",
    "trixie-updates": "Sat, 12 Sep 2026 08:15:41 UTC",
    "trixie-security": "Sat, 21 Nov 2026 02:10:00 UTC",
    "forky": "Sun, 22 Nov 2026 02:10:00 UTC",
}


def package(name, version="1.0-1", *, depends="", recommends="", architecture="amd64", pool="main"):
    lines = [
        f"Package: {name}",
        f"Version: {version}",
        f"Architecture: {architecture}",
        "Maintainer: x <x@example.org>",
        *([f"Depends: {depends}"] if depends else []),
        *([f"Recommends: {recommends}"] if recommends else []),
        f"Filename: pool/{pool}/{name[0]}/{name}/{name}_{version}_{architecture}.deb",
        f"Size: {1000 + len(name)}",
        f"SHA256: {hashlib.sha256(f'{name} {version}'.encode()).hexdigest()}",
        "Description: x",
    ]
    return "\n".join(lines) + "\n"


class SignedArchive:
    """A signed archive in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "gnupg"
        self.home.mkdir(mode=0o700)
        self.keyring = root / "key.gpg"
        self.gpg("--quick-gen-key", "--passphrase", "", "test@example.org", "ed25519", "sign", "never")
        self.gpg("--export", "--output", str(self.keyring))

    @property
    def mirrors(self) -> Mirrors:
        return Mirrors(archive=f"file:{self.root}/debian", security=f"file:{self.root}/debian-security")

    def gpg(self, *arguments):
        subprocess.run(
            [
                "gpg",
                "--homedir",
                str(self.home),
                "--batch",
                "--yes",
                "--pinentry-mode",
                "loopback",
                *arguments,
            ],
            check=True,
            capture_output=True,
        )

    def close(self):
        """End the agent that gpg started."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False, capture_output=True)

    def write(self, archive, suite, packages, *, empty=()):
        """Write and sign a suite's index; packages are in `main`, unless that is among the ``empty`` components."""
        dists = self.root / archive / "dists" / suite
        listed = []
        components = {"main": packages} | dict.fromkeys(empty, ())
        for component, members in components.items():
            index = dists / component / "binary-amd64" / "Packages"
            index.parent.mkdir(parents=True, exist_ok=True)
            raw = "\n".join(members).encode()
            index.write_bytes(raw)
            path = index.relative_to(dists)
            listed.append(f" {hashlib.sha256(raw).hexdigest()} {len(raw)} {path}\n")
        release = dists / "Release"
        release.write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {DATES[suite]}\nArchitectures: amd64\n"
            f"Components: {' '.join(components)}\nSHA256:\n{''.join(listed)}"
        )
        self.gpg("--clearsign", "--output", str(dists / "InRelease"), str(release))
