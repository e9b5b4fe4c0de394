"""How a verdict is told to people."""

from __future__ import annotations

from builder.cli import console
from measurements.verify.verdict import Status, Verdict


def print_checks(verdict: Verdict) -> None:
    """Print a line for each check."""
    console.table(
        "",
        ["", "check", "", "why"],
        [[str(item.number), item.name, item.status.value, item.detail] for item in verdict.checks],
    )


def print_gpus(verdict: Verdict) -> None:
    """Print what the machine's gate says, and each check of its GPUs, where the evidence has a GPU part."""
    if verdict.gpu is None:
        return
    gate = verdict.gpu.evidence.gate
    console.out("")
    console.out(f"the machine's GPU gate: {'ready' if gate.ready else f'refused: {gate.reason}'}")
    if verdict.gpu.appraisal is not None:
        rows = [
            [str(number), item.name, "ok" if item.ok else "FAILED", item.detail]
            for number, item in enumerate(verdict.gpu.appraisal.checks, 1)
        ]
        console.table("", ["", "GPU check", "", "why"], rows)


def print_conclusion(verdict: Verdict) -> None:
    """Print the verdict, and which checks it fails by."""
    console.out("")
    wrong = ", ".join(str(item.number) for item in verdict.checks if item.status is Status.FAILED)
    console.out(f"verdict: {'pass' if verdict.passed else f'FAIL (check {wrong})'}")
