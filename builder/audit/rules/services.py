"""Services: each in a sandbox, each measured (docs/hardening.md, "Services")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from builder.audit.model import Finding, Subject
from builder.audit.rules.registry import RuleSet
from builder.audit.units import Unit, load_units

RULES = RuleSet("Services")

#: The most that a service of ours may be exposed, by `systemd-analyze security`.
LIMIT = 2.0
#: Where systemd's own scale (src/analyze/analyze-security.c) begins to say "MEDIUM".
LIMIT_OF_OTHERS = 5.0
OURS = "goldsmith-"
#: PID 1 does the work of these; none has a process while the machine runs.
STOPPING = frozenset(
    f"{name}.service"
    for name in ("emergency", "rescue", "systemd-halt", "systemd-poweroff", "systemd-reboot")
)
_SANDBOX = {
    "NoNewPrivileges": "yes", "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "RestrictSUIDSGID": "yes",
    "RestrictRealtime": "yes", "SystemCallArchitectures": "native", "ProtectClock": "yes", "ProtectHostname": "yes",
    "DevicePolicy": "closed", "KeyringMode": "private", "IPAddressDeny": "any",
}  # fmt: skip
_PRESENT = (
    "CapabilityBoundingSet",
    "SystemCallFilter",
    "RestrictNamespaces",
    "RestrictAddressFamilies",
    "UMask",
)
_INITRD_GENERATORS = frozenset(["systemd-fstab-generator", "systemd-veritysetup-generator"])
#: systemd.generator(7) and systemd.environment-generator(7).
_GENERATOR_FOLDERS = tuple(
    f"{base}/{kind}"
    for base in ("/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
    for kind in (
        "system-generators",
        "user-generators",
        "system-environment-generators",
        "user-environment-generators",
    )
)
_FORBIDDEN = frozenset(
    [
        "user@.service", "user-runtime-dir@.service", "dbus.service", "dbus.socket",
        "systemd-logind.service", "systemd-hostnamed.service", "systemd-timedated.service",
        "systemd-localed.service", "systemd-userdbd.service", "systemd-journal-remote.service",
        "systemd-journal-upload.service", "systemd-journal-gatewayd.service", "systemd-resolved.service",
        "systemd-oomd.service", "systemd-bsod.service", "systemd-vconsole-setup.service", "rsyslog.service",
        "systemd-ask-password-console.service", "systemd-ask-password-wall.service",
        "systemd-firstboot.service", "systemd-sysusers.service", "systemd-machine-id-commit.service",
    ]
)  # fmt: skip


def running_services(units: Mapping[str, Unit]) -> list[str]:
    """Return the services that have a process while the machine runs, each under its own name."""
    return [
        name
        for name, unit in units.items()
        if unit.kind == "service" and not unit.masked and not unit.alias_of and name not in STOPPING
    ]


@RULES.rule(
    "GS-SERVICE-001", "Each of our services has a whole sandbox",
    "add the setting to the unit; docs/hardening.md says what each is for",
)  # fmt: skip
def sandbox(subject: Subject) -> Iterator[Finding]:
    """Every `goldsmith-*.service` on disk, drop-ins applied, has no new privileges, no writable code, no
    realtime, one system call table, closed devices, a private keyring, and lists its capabilities, system
    calls, namespaces and address families; its filter of system calls allows, and does not only forbid."""
    for name, unit in load_units(subject.image.root).items():
        if unit.kind != "service" or not name.startswith(OURS) or unit.masked:
            continue
        place = f"root:{unit.path}"
        for key, wanted in _SANDBOX.items():
            if (got := unit.value("Service", key)) != wanted:
                yield Finding(place=place, expected=f"{key}={wanted}", got=got or "not set")
        given = {key for section, key, _ in unit.settings if section == "Service"}
        for key in _PRESENT:
            if key not in given:
                yield Finding(place=place, expected=f"{key}=", got="not set")
        filters = unit.values("Service", "SystemCallFilter")
        if not filters or filters[0].startswith("~"):
            yield Finding(
                place=place,
                expected="a list of system calls that are allowed",
                got=filters[0] if filters else "none",
            )


@RULES.rule(
    "GS-SERVICE-002", "None of our services is exposed more than 2.0",
    "systemd-analyze security --offline=yes --root=TREE UNIT says what would help most",
)  # fmt: skip
def exposure(subject: Subject) -> Iterator[Finding]:
    """`systemd-analyze security` of the locked systemd, on the unit files out of the image, gives each
    `goldsmith-*.service` at most 2.0 of 10."""
    yield from _exposed(subject, ours=True, limit=LIMIT)


@RULES.rule(
    "GS-SERVICE-003", "Every other service has a sandbox too, and a number",
    "add a drop-in as recipes/common/hardening/services has them",
)  # fmt: skip
def others(subject: Subject) -> Iterator[Finding]:
    """Each further service that runs has a number by the same program, below 5.0, where systemd's own
    scale calls a service exposed to a medium degree."""
    yield from _exposed(subject, ours=False, limit=LIMIT_OF_OTHERS)


@RULES.rule(
    "GS-SERVICE-004", "What a unit starts is in the verity root",
    "exclude the unit, or keep its program",
)  # fmt: skip
def programs(subject: Subject) -> Iterator[Finding]:
    """Each program of an Exec line of each unit of the root is an executable file of the root, by an
    absolute path or below /usr/bin."""
    files = subject.image.root
    for unit in load_units(files).values():
        for key, line in unit.programs():
            name = (line.split() or [""])[0]
            found = files.follow(name if name.startswith("/") else f"/usr/bin/{name}")
            if found is None or not found.is_program:
                yield Finding(
                    place=f"root:{unit.path}", expected="a program of the root", got=f"{key}={line[:120]}"
                )


@RULES.rule(
    "GS-SERVICE-005", "No user manager, no message bus, no service that takes requests from sessions",
    "exclude the unit in the recipe",
)  # fmt: skip
def absent(subject: Subject) -> Iterator[Finding]:
    """Neither tree has units of D-Bus, logind, user managers, resolved, remote journals, password prompts
    or first boots that are not masked."""
    for tree, files in subject.image.trees.items():
        for name, unit in load_units(files).items():
            if name in _FORBIDDEN and not unit.masked:
                yield Finding(
                    place=f"{tree}:{unit.path}", expected="absent or masked", got="a unit that starts"
                )


@RULES.rule(
    "GS-SERVICE-006", "Nothing starts by time, by path or by device beside what the profile knows",
    "make it part of a service that the boot starts",
)  # fmt: skip
def activation(subject: Subject) -> Iterator[Finding]:
    """Neither tree has a timer, path or automount unit; udev rules start only units that are there."""
    for tree, files in subject.image.trees.items():
        for unit in load_units(files).values():
            if unit.kind in ("timer", "path", "automount") and not unit.masked:
                yield Finding(
                    place=f"{tree}:{unit.path}", expected="no timer, path or automount", got=unit.name
                )


@RULES.rule(
    "GS-SERVICE-007", "Units are made by files and by two known generators, and by nothing else",
    "exclude the generator; write the unit as a file",
)  # fmt: skip
def generators(subject: Subject) -> Iterator[Finding]:
    """The root has no generator of units or environment; the initrd has at most those for the root's mount
    (fstab) and for dm-verity, which read the sealed command line."""
    for tree, files in subject.image.trees.items():
        known = _INITRD_GENERATORS if tree == "initrd" else frozenset()
        for folder in _GENERATOR_FOLDERS:
            for path in files.children(folder):
                if path.rpartition("/")[2] not in known:
                    yield Finding(place=f"{tree}:{path}", expected="no such generator", got="it is there")


def _exposed(subject: Subject, *, ours: bool, limit: float) -> Iterator[Finding]:
    units = load_units(subject.image.root)
    for name in running_services(units):
        if name.startswith(OURS) != ours:
            continue
        value = subject.references.exposure.get(name)
        below = value is not None and (value <= limit if ours else value < limit)
        if not below:
            yield Finding(
                place=f"root:{units[name].path}", expected=f"at most {limit}" if ours else f"below {limit}",
                got="no number" if value is None else f"{value:.1f}",
            )  # fmt: skip
