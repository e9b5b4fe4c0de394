"""What verification says: one status per check, one line per register, and nothing passes by silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from measurements.events import HashAlgorithm
from measurements.gpu.appraise import Appraisal
from measurements.gpu.evidence import GpuEvidence


class Status(StrEnum):
    """Outcome of one check."""

    OK = "ok"
    FAILED = "failed"
    UNPROVEN = "unproven"  # the policy said so; passes with a warning
    SKIPPED = "skipped"  # an earlier check failed, so this one has nothing to look at; never passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One numbered check: what it looked at, how it ended, and why."""

    number: int
    name: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterVerdict:
    """One register in one bank.

    Attributes:
        bank: the bank.
        index: PCR index.
        predicted: every acceptable value in hex, the usual one first; empty where there is none.
        observed: the quoted value in hex; ``None`` where the quote does not cover the register.
        equal: whether the observed value is an acceptable one.
        pinned: whether the verdict depends on it.
        reason: why it differs, or why it is not pinned; ``None`` when there is nothing to say.
    """

    bank: HashAlgorithm
    index: int
    predicted: tuple[str, ...]
    observed: str | None
    equal: bool
    pinned: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuVerdict:
    """What came of GPUs.

    Attributes:
        evidence: what the machine says of them.
        appraisal: what was made of it; ``None`` where the policy leaves GPUs unproven.
    """

    evidence: GpuEvidence
    appraisal: Appraisal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result.

    Attributes:
        checks: all of them, ascending.
        registers: banks in order, then indexes ascending; empty when document or evidence did not parse.
        shape: name of the launch shape that was compared with, or ``None``.
        gpu: what came of GPUs; ``None`` where the evidence has no GPU part that parses.
    """

    checks: tuple[Check, ...]
    registers: tuple[RegisterVerdict, ...]
    shape: str | None
    gpu: GpuVerdict | None = None

    @property
    def passed(self) -> bool:
        """Whether every check is ok, or unproven because the policy says so."""
        return bool(self.checks) and all(
            check.status in (Status.OK, Status.UNPROVEN) for check in self.checks
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that the policy leaves unproven."""
        return tuple(
            f"{check.name}: {check.detail}" for check in self.checks if check.status is Status.UNPROVEN
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that failed."""
        return tuple(
            f"{check.number}. {check.name}: {check.detail}"
            for check in self.checks
            if check.status is Status.FAILED
        )


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Return the object that ``goldsmith verify --json`` prints.

    ``predicted`` is one hex string, a list of them where several are acceptable, or null.
    """
    registers: dict[str, dict[str, Any]] = {}
    for item in verdict.registers:
        registers.setdefault(item.bank.value, {})[str(item.index)] = {
            "predicted": predicted_to_json(item.predicted),
            "observed": item.observed,
            "equal": item.equal,
            "pinned": item.pinned,
            "reason": item.reason,
        }
    checks: list[Mapping[str, Any]] = [
        {"number": check.number, "name": check.name, "status": check.status.value, "detail": check.detail}
        for check in verdict.checks
    ]
    return {
        "verdict": "pass" if verdict.passed else "fail",
        "shape": verdict.shape,
        "checks": checks,
        "registers": registers,
    }


def predicted_to_json(values: tuple[str, ...]) -> str | list[str] | None:
    """Return acceptable values as JSON: one text, a list of several, or null."""
    if not values:
        return None
    return values[0] if len(values) == 1 else list(values)
