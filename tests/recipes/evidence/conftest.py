"""Puts the programs of the guest on the import path of the tests here, and gives them the logs of a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "recipes/common/evidence"))


@pytest.fixture
def logs(tmp_path):
    descriptors = {}
    for name in ("eventlog", "userspacelog"):
        (tmp_path / name).write_bytes(name.encode() * 100)
        descriptors[name] = os.open(tmp_path / name, os.O_RDONLY)
    yield descriptors
    for descriptor in descriptors.values():
        os.close(descriptor)
