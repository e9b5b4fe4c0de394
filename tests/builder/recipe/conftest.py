"""Puts the helpers beside the tests of ``measurements`` on the import path: manifests of GPUs, signed by a test."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "measurements"))
