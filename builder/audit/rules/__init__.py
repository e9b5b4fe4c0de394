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
