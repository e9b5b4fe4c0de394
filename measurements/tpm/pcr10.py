"""PCR 10: the kernel's integrity measurement architecture."""

from __future__ import annotations

from measurements.events import RegisterPrediction
from measurements.tpm.boot import Boot, not_pinned


def predict(_boot: Boot) -> RegisterPrediction:
    """Linux security/integrity/ima: extends it for files in the order in which they are read."""
    return not_pinned(10, "IMA extends it in the order in which files are opened, which no image decides")
