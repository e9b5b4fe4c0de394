"""Every rule over one image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from builder.audit.model import AuditReport, Finding, Outcome, Result, Rule, Subject
from builder.audit.rules import ALL
from builder.errors import AuditError, RecipeError
from measurements.errors import FormatError

#: How many findings of one rule a report keeps.
MAX_FINDINGS = 1000
#: How many rules and findings an error lists; the rest is counted.
_LISTED = 8


def apply_rules(subject: Subject, rules: Sequence[Rule] = ALL) -> AuditReport:
    """Apply every rule; nothing is raised for one that fails."""
    return AuditReport(
        declared=subject.declared,
        kernel_package=subject.references.kernel_package,
        files=dict(subject.image.digests),
        exposure=dict(sorted(subject.references.exposure.items())),
        results=tuple(sorted((_apply(rule, subject) for rule in rules), key=lambda result: result.rule.id)),
    )


def check_report(report: AuditReport) -> None:
    """Check that no rule fails and every waiver is needed.

    Raises:
        AuditError: a rule fails; the message names rule, place, expected and got.
        RecipeError: a waived rule does not fail.
    """
    if report.failed:
        lines = []
        for result in report.failed[:_LISTED]:
            lines.append(f"  {result.rule.id}: {result.rule.title}")
            lines += [
                f"    {finding.place}: expected {finding.expected}, got {finding.got}"
                for finding in result.findings[:_LISTED]
            ]
            if len(result.findings) > _LISTED:
                lines.append(f"    … and {len(result.findings) - _LISTED} more places")
            lines.append(f"    {result.rule.remedy}")
        if len(report.failed) > _LISTED:
            lines.append(f"  … and {len(report.failed) - _LISTED} more rules")
        raise AuditError(
            f"the audit of {report.declared.name} has {len(report.failed)} failing rules:\n"
            + "\n".join(lines),
            hint="mend the image, or waive the rule in the recipe with a reason (audit.waive, docs/audit.md)",
        )
    check_used(report)


def check_used(report: AuditReport) -> None:
    """Check that every waiver is needed.

    Raises:
        RecipeError: a waived rule does not fail.
    """
    waived = {result.rule.id for result in report.of(Outcome.WAIVED)}
    if unused := sorted(report.declared.waivers.keys() - waived):
        raise RecipeError(
            f"audit.waive: {', '.join(unused)} holds; the waiver is not used",
            hint="take it out of the recipe: it would hide the next failure",
        )


def _apply(rule: Rule, subject: Subject) -> Result:
    try:
        findings = tuple(islice(rule.check(subject), MAX_FINDINGS))
    except FormatError as error:
        # A file that cannot be read holds nothing: the rule fails, and says which.
        findings = (Finding(place="image", expected="files that parse", got=str(error)),)
    reason = subject.declared.waivers.get(rule.id)
    if not findings:
        return Result(rule=rule, outcome=Outcome.PASS)
    if reason is not None:
        return Result(rule=rule, outcome=Outcome.WAIVED, reason=reason, findings=findings)
    return Result(rule=rule, outcome=Outcome.FAIL, findings=findings)
