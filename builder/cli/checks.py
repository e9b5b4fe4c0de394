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


def print_conclusion(verdict: Verdict) -> None:
    """Print the verdict, and which checks it fails by."""
    console.out("")
    wrong = ", ".join(str(item.number) for item in verdict.checks if item.status is Status.FAILED)
    console.out(f"verdict: {'pass' if verdict.passed else f'FAIL (check {wrong})'}")
