"""What an audit is made of: the image, what its recipe declares, rules, findings, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from builder.audit.image import AuditedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOption:
    """One line of the kernel policy.

    Attributes:
        option: "CONFIG_…".
        value: what the kernel's configuration must say; "n" stands for off and for unknown.
        wanted: what the policy would rather have; None where ``value`` is that.
        reason: why, or what stands in for it.
    """

    option: str
    value: str
    wanted: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the recipe says about its image: exceptions with their reasons, and what only it can know.

    Attributes:
        name: of the image.
        version: of the image.
        command_line: the sealed words, without the root hash.
        debug_command_line: what a debug boot adds; empty where the image knows none.
        modules: tree ("root", "initrd") -> kernel modules asked for; what they depend on may follow.
        interpreters: tree -> path -> reason.
        setuid: tree -> path -> reason.
        ports: "tcp/8440" -> reason.
        kernel_policy: None where no part of the recipe has one.
        waivers: rule id -> reason.
        module_certificate: PEM of the certificate whose key signed modules beside the kernel's own; empty where none
            did.
    """

    name: str
    version: str
    command_line: tuple[str, ...]
    debug_command_line: str
    modules: Mapping[str, tuple[str, ...]]
    interpreters: Mapping[str, Mapping[str, str]]
    setuid: Mapping[str, Mapping[str, str]]
    ports: Mapping[str, str]
    kernel_policy: tuple[PolicyOption, ...] | None
    waivers: Mapping[str, str]
    module_certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the image is held against beside its recipe: the locked kernel package, and systemd's own judgement.

    Attributes:
        kernel_package: name and version of the kernel's package.
        kernel: its vmlinuz.
        kernel_config: text of its /boot/config-*.
        exposure: service -> exposure by `systemd-analyze security`, 0.0 to 10.0.
    """

    kernel_package: str
    kernel: bytes = field(repr=False)
    kernel_config: str = field(repr=False)
    exposure: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Everything that a rule sees."""

    image: AuditedImage
    declared: Declared
    references: References


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where the image is not as a rule asks.

    Attributes:
        place: "root:/usr/bin/mount", "initrd:/etc/…", "uki.efi:.cmdline", "disk.raw:esp".
        expected: what the rule asks for there.
        got: what is there.
    """

    place: str
    expected: str
    got: str


Check = Callable[[Subject], Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the profile.

    Attributes:
        id: stable; never used for anything else later.
        title: the rule as a short sentence.
        checks: what is looked at and held against what.
        section: the heading of docs/hardening.md that says why.
        remedy: what to do where it fails.
        check: returns the findings; none means that the rule holds.
    """

    id: str
    title: str
    checks: str
    section: str
    remedy: str
    check: Check = field(repr=False)


class Outcome(StrEnum):
    """What became of a rule."""

    PASS = "pass"
    FAIL = "fail"
    WAIVED = "waived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A rule applied to an image.

    Attributes:
        rule: the rule.
        outcome: what became of it.
        reason: of the waiver; empty for the others.
        findings: where it does not hold; also of a waived rule.
    """

    rule: Rule
    outcome: Outcome
    reason: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """An audited release.

    Attributes:
        declared: what the image was held against.
        kernel_package: the locked kernel package.
        files: file name -> SHA-256 (hex) of the bytes that were audited.
        exposure: service -> exposure.
        results: one for each rule, by id.
    """

    declared: Declared
    kernel_package: str
    files: Mapping[str, str]
    exposure: Mapping[str, float]
    results: tuple[Result, ...]

    def of(self, outcome: Outcome) -> tuple[Result, ...]:
        """Return the results with this outcome."""
        return tuple(result for result in self.results if result.outcome is outcome)

    @property
    def failed(self) -> tuple[Result, ...]:
        """Rules that neither hold nor are waived."""
        return self.of(Outcome.FAIL)
