"""The packet filter as a value: tables, sets of ports, chains, rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One condition of a rule.

    Attributes:
        field: "tcp dport", "ip6 saddr", "iif", "tcp flags".
        values: what the field may be, sorted; for flags the text of the whole condition.
        set: name of the set that holds the values; empty where they stand in the rule.
    """

    field: str
    values: tuple[str, ...] = ()
    set: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRule:
    """Conditions that must all hold, and the verdict."""

    matches: tuple[Match, ...]
    verdict: str
    where: str

    def match(self, name: str) -> Match | None:
        """Return the condition on a field."""
        return next((match for match in self.matches if match.field == name), None)


@dataclass(slots=True, kw_only=True)
class Chain:
    """A base chain; policy is empty for a chain without a hook."""

    name: str
    hook: str = ""
    priority: str = ""
    policy: str = ""
    rules: list[FilterRule] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Table:
    """A table: sets of ports, and chains."""

    family: str
    name: str
    sets: dict[str, set[str]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Ruleset:
    """What one transaction leaves in the kernel.

    Attributes:
        flushes: the transaction begins with "flush ruleset", so nothing older stays.
        tables: in order.
    """

    flushes: bool = False
    tables: list[Table] = field(default_factory=list)

    def elements(self, table: Table, match: Match) -> frozenset[str]:
        """Return the values of a match, its set looked up."""
        return frozenset(table.sets[match.set]) if match.set else frozenset(match.values)


def base_chains(ruleset: Ruleset) -> Iterator[tuple[Table, Chain]]:
    """Yield every chain that a hook calls, with its table."""
    for table in ruleset.tables:
        for chain in table.chains.values():
            if chain.hook:
                yield table, chain
