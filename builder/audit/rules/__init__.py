"""The rules of the hardening profile, grouped by subject. Ids are stable; docs/audit.md is made of them."""

from __future__ import annotations

from builder.audit.model import Rule
from builder.audit.rules import channels, disk, kernel, modules, network, services, userspace

#: Every rule, in the order of the report.
ALL: tuple[Rule, ...] = tuple(
    rule
    for group in (channels, kernel, modules, userspace, services, network, disk)
    for rule in group.RULES.rules
)


def catalogue() -> str:
    """Return the table of docs/audit.md: every rule with what it checks and the section that says why."""
    lines = ["| rule | what holds | how it is checked | why |", "|---|---|---|---|"]
    for rule in sorted(ALL, key=lambda each: each.id):
        anchor = rule.section.lower().replace(" ", "-")
        why = f"[{rule.section}](hardening.md#{anchor})"
        cells = (rule.id, rule.title, rule.checks.replace("|", "\\|"), why)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
