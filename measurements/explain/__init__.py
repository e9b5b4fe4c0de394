"""Why a register is not what was predicted: the first event that differs, and the input that caused it."""

from __future__ import annotations

from measurements.explain.describe import describe
from measurements.explain.differences import Explanation, Kind, RegisterKind, explain
from measurements.explain.observed import Observation, ObservedEvent, observe, observe_ccel

__all__ = [
    "Explanation",
    "Kind",
    "Observation",
    "ObservedEvent",
    "RegisterKind",
    "describe",
    "explain",
    "observe",
    "observe_ccel",
]
