"""Puts the helpers beside the tests of ``measurements`` on the import path, and gives every test a bare user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from builder.store import Store

sys.path.insert(0, str(Path(__file__).parents[2] / "measurements"))


@pytest.fixture(autouse=True)
def bare_user(tmp_path, monkeypatch):
    """An empty home, an empty current folder, and nothing of this machine's settings but where its inputs are."""
    for name in ("KEY", "KEY_PASSPHRASE"):
        monkeypatch.delenv(f"GOLDSMITH_SIGNING_{name}", raising=False)
    for name in ("GOLDSMITH_MIRROR", "GOLDSMITH_SNAPSHOT", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOLDSMITH_STORE", str(Store.default().root))  # tests take firmware from it
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
