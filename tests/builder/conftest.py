"""A PKCS #11 token in software, for the tests of every verb that signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

MODULES = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/softhsm/libsofthsm2.so"))
PIN = "314 & 15;92%"


@dataclass(frozen=True)
class SoftToken:
    """SoftHSM with tokens of its own."""

    folder: Path
    module: Path
    pin: str = PIN

    def init(self, label):
        self.util("--init-token", "--free", "--label", label, "--pin", self.pin, "--so-pin", "87654321")

    def put(self, key, label, identifier="01", token="goldsmith"):
        """Bring a private key of `cryptography` in, by SoftHSM's own tool."""
        path = self.folder / "import.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        arguments = ("--token", token, "--label", label, "--id", identifier, "--pin", self.pin)
        self.util("--import", str(path), *arguments)

    def util(self, *arguments):
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, timeout=60)

    def uri(self, *attributes, token="goldsmith", pin=True):
        source = self.folder / "pin"
        source.write_text(f"{self.pin}\n")
        query = f"module-path={self.module}" + (f"&pin-source={source}" if pin else "")
        return f"pkcs11:{';'.join((f'token={token}', *attributes))}?{query}"


@pytest.fixture
def soft_token(tmp_path, monkeypatch):
    module = next((path for path in MODULES if path.exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("the host has no SoftHSM (Debian: softhsm2)")
    folder = tmp_path / "softhsm"
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    monkeypatch.delenv("GOLDSMITH_PKCS11_PIN", raising=False)
    token = SoftToken(folder, module)
    token.init("goldsmith")
    return token
