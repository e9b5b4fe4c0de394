"""Why a register is not what was predicted: the first event that differs, and the input that caused it."""

from __future__ import annotations

from measurements.explain.describe import describe
from measurements.explain.differences import Explanation, Kind, explain
from measurements.explain.observed import Observation, ObservedEvent, observe

__all__ = ["Explanation", "Kind", "Observation", "ObservedEvent", "describe", "explain", "observe"]
