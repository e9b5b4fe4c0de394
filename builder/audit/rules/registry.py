"""How a rule is written: a function with a line that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from builder.audit.model import Check, Finding, Rule, Subject

#: What lies at ``place`` is written ``tree:path`` or ``file:part``.
_CMDLINE = "uki.efi:.cmdline"


class RuleSet:
    """The rules of one subject, in the order in which they stand in its module."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.rules: list[Rule] = []

    def rule(self, id_: str, title: str, remedy: str) -> Callable[[Check], Check]:
        """Make a rule of a function; the first paragraph of its docstring says what is checked."""

        def add(check: Check) -> Check:
            checks = " ".join((check.__doc__ or "").split("\n\n")[0].split())
            self.rules.append(
                Rule(id=id_, title=title, checks=checks, section=self.section, remedy=remedy, check=check)
            )
            return check

        return add


def needs_words(subject: Subject, wanted: Sequence[str]) -> Iterator[Finding]:
    """Find words that the sealed command line lacks, or gives another value."""
    words = subject.image.command_line
    for word in wanted:
        name, equals, _ = word.partition("=")
        found = [other for other in words if other == name or other.startswith(f"{name}=")]
        if found != [word]:
            yield Finding(
                place=_CMDLINE, expected=word if equals else f"the word {word}",
                got=" ".join(found) or "no such word",
            )  # fmt: skip


def needs_settings(subject: Subject, wanted: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Find kernel settings that the root does not ask for, or with another value."""
    from builder.audit.units import sysctl_settings

    found = sysctl_settings(subject.image.root)
    for name, value in wanted:
        got, place = found.get(name, ("no such setting", "/usr/lib/sysctl.d"))
        if got != value:
            yield Finding(place=f"root:{place}", expected=f"{name} = {value}", got=got)


def absent_names(subject: Subject, names: frozenset[str], what: str) -> Iterator[Finding]:
    """Find paths of either tree whose last component is one of ``names``."""
    for tree, files in subject.image.trees.items():
        for path, _ in files.items():  # noqa: PERF102 - no dict
            if path.rpartition("/")[2] in names:
                yield Finding(place=f"{tree}:{path}", expected=f"no {what}", got="it is there")
