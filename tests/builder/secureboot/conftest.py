"""A key set, recorded signatures of other tools, and these tools themselves where the host has them."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.image.secureboot import keyset

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "measurements" / "formats"))
VECTORS = ROOT / "vectors" / "secureboot"
DAY = datetime.date(2026, 11, 22)


@pytest.fixture(scope="session")
def keys():
    return keyset.make_key_set("Tests", size=2048, valid_from=DAY, years=3)


@pytest.fixture(scope="session")
def other_keys():
    return keyset.make_key_set("Others", size=2048, valid_from=DAY, years=3)


@pytest.fixture(scope="session")
def enrolment(keys):
    return keys.enrolment(forbidden=(b"\x55" * 32,), day=DAY)


@pytest.fixture(scope="session")
def vector():
    return lambda name: (VECTORS / name).read_bytes()


@pytest.fixture
def tool(tmp_path):
    """Run a tool of the host in an empty folder; skips where the host has none."""

    def run(program, *arguments, check=True):
        if shutil.which(program) is None:
            pytest.skip(f"the host has no {program}")
        return subprocess.run(
            [program, *map(str, arguments)], cwd=tmp_path, check=check, capture_output=True, timeout=60
        )

    return run
