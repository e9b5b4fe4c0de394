"""How a rule is written: a function with a line that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from builder.audit.model import Check, Finding, Rule, Subject
from builder.audit.units import load_units, pulled_in, sysctl_settings

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


#: What common/lockdown-late does in place of these words, once the last module is loaded.
LOCKDOWN_WORDS = ("lockdown=confidentiality", "module.sig_enforce=1")
LOCKDOWN = "goldsmith-lockdown.service"


def needs_lockdown(subject: Subject, word: str) -> Iterator[Finding]:
    """Find a lockdown that neither the sealed command line nor goldsmith-lockdown.service brings."""
    root = subject.image.root
    unit = load_units(root).get(LOCKDOWN)
    if unit is None or unit.masked:
        yield from needs_words(subject, [word])
        return
    place = f"root:{unit.path}"
    after, before = unit.words("Unit", "After"), unit.words("Unit", "Before")
    opened = {value.rpartition(":")[0] for value in unit.values("Service", "OpenFile")}
    held = {
        "RequiredBy=sysinit.target": ("sysinit.target", "requires") in pulled_in(root).get(LOCKDOWN, ()),
        "FailureAction=poweroff-force": unit.value("Unit", "FailureAction") == "poweroff-force",
        "After=systemd-modules-load.service": "systemd-modules-load.service" in after,
        "Before= settings, read-back and network": {
            "systemd-sysctl.service", "goldsmith-readback.service", "network-pre.target"
        } <= set(before),
        "OpenFile= of both files": opened
        == {"/sys/kernel/security/lockdown", "/sys/module/module/parameters/sig_enforce"},
    }  # fmt: skip
    for wanted, holds in held.items():
        if not holds:
            yield Finding(
                place=place, expected=f"{wanted}, or {word} on the sealed command line", got="neither"
            )
    others = [other for other in subject.image.command_line if other.startswith(f"{word.partition('=')[0]}=")]
    if others not in ([], [word]):
        yield Finding(place=_CMDLINE, expected=f"{word}, or nothing", got=" ".join(others))


def needs_settings(subject: Subject, wanted: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Find kernel settings that the root does not ask for, or with another value."""
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
