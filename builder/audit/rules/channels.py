"""Channels from the host: credentials, command line, extensions, consoles, debug shells (docs/hardening.md)."""

from __future__ import annotations

from collections.abc import Iterator

from builder.audit import udev
from builder.audit.model import Finding, Subject
from builder.audit.rules.registry import (
    RuleSet,
    absent_names,
    needs_lockdown,
    needs_settings,
    needs_words,
)
from builder.audit.units import Unit, config_files, load_units, settings_of, values

RULES = RuleSet("Channels from the host")

_EXTENSIONS = frozenset(
    [
        "systemd-sysext", "systemd-confext", "systemd-dissect", "systemd-portabled", "portablectl",
        "systemd-nspawn", "systemd-vmspawn", "systemd-machined", "machinectl", "systemd-importd",
        "importctl", "systemd-pull", "systemd-homed", "homectl", "systemd-repart", "systemd-sysupdate",
        "systemd-mountfsd", "systemd-storagetm", "systemd-sysext.service", "systemd-confext.service",
        "systemd-sysext-initrd.service", "systemd-confext-initrd.service", "systemd-sysext-sysroot.service",
        "systemd-confext-sysroot.service", "systemd-portabled.service", "mount.ddi", "extension-release.d",
        "extensions", "confexts",
    ]
)  # fmt: skip
_REMOTE = frozenset(
    [
        "sshd", "ssh", "dropbear", "telnetd", "in.telnetd", "systemd-ssh-generator", "systemd-ssh-proxy",
        "systemd-ssh-issue", "sshd-vsock.socket", "sshd.service", "ssh.service", "ssh.socket", "login",
        "sulogin", "systemd-sulogin-shell", "getty", "agetty", "mingetty", "su", "sudo", "runuser", "run0",
        "pkexec", "doas", "systemd-getty-generator", "systemd-debug-generator", "systemd-run-generator",
        "systemd-import-generator", "systemd-run", "systemd-stdio-bridge", "systemd-ask-password",
        "systemd-tty-ask-password-agent", "console-getty.service", "getty@.service",
        "serial-getty@.service", "container-getty@.service", "autovt@.service", "getty.target",
        "debug-shell.service", "qemu-ga", "qemu-guest-agent.service", "cloud-init", "waagent",
        "google_guest_agent", "amazon-ssm-agent", "vmtoolsd",
    ]
)  # fmt: skip
_SLEEP = frozenset(
    [
        "kexec", "systemd-kexec.service", "kexec.target", "systemd-hibernate.service", "hibernate.target",
        "systemd-hybrid-sleep.service", "hybrid-sleep.target", "systemd-suspend.service", "suspend.target",
        "systemd-suspend-then-hibernate.service", "suspend-then-hibernate.target", "sleep.target",
        "systemd-sleep", "systemd-hibernate-resume", "systemd-hibernate-resume-generator",
        "systemd-hibernate-resume.service", "systemd-soft-reboot.service", "soft-reboot.target",
    ]
)  # fmt: skip
_COREDUMP = frozenset(
    ["systemd-coredump", "systemd-coredump.socket", "systemd-coredump@.service", "coredumpctl", "apport"]
)
_TERMINAL_INPUT = ("tty", "tty-force", "tty-fail")
#: Of the kernel, systemd and its generators: what gives a console, a shell, another init or root, or takes a defence.
_FORBIDDEN_WORDS = frozenset(
    [
        "console", "earlycon", "earlyprintk", "keep_bootcon", "debug", "init", "rdinit", "rd", "single",
        "s", "S", "1", "emergency", "rescue", "-b", "systemd.unit", "rd.systemd.unit",
        "systemd.debug-shell", "systemd.debug_shell", "rd.systemd.debug-shell", "systemd.default_debug_tty",
        "rd.systemd.default_debug_tty", "systemd.run", "systemd.wants", "rd.systemd.wants", "systemd.mask",
        "rd.systemd.mask", "systemd.confirm_spawn", "systemd.setenv", "systemd.set_credential",
        "systemd.set_credential_binary", "systemd.crash_shell", "systemd.crash_chvt", "systemd.volatile",
        "systemd.verity_root_data", "systemd.verity_root_hash", "systemd.hostname", "systemd.image_policy",
        "systemd.ssh_auto", "systemd.ssh_listen", "systemd.pull", "rd.systemd.pull", "systemd.extra-unit",
        "systemd.extra_unit", "mount.usr", "usrhash", "roothashsig", "rd.break", "rd.shell", "break", "ip",
        "netconsole", "nokaslr", "nosmep", "nosmap", "nopti", "pti", "norandmaps", "noexec", "noexec32",
        "nospectre_v1", "nospectre_v2", "spectre_v2", "spectre_v2_user", "spec_store_bypass_disable", "mds",
        "l1tf", "tsx_async_abort", "srbds", "retbleed", "gather_data_sampling", "reg_file_data_sampling",
        "mmio_stale_data", "kvm.nx_huge_pages", "nosgx", "kgdboc", "kgdbwait", "kgdbdbgp", "ftrace",
        "trace_event", "kprobe_event", "module_blacklist", "initcall_blacklist", "ima_policy", "acpi_rsdp",
        "acpi_override", "efivar_ssdt", "acpi_no_initrd_override", "acpi", "kexec_file", "crashkernel",
        "resume", "hibernate", "no_console_suspend", "noinitrd", "initrd", "memmap", "mem", "nr_cpus",
        "maxcpus", "fw_devlink", "security", "lsm", "apparmor", "selinux", "enforcing", "unprivileged_bpf",
        "slub_debug", "slab_merge", "vdso",
    ]
)  # fmt: skip
_DEBUGFS_UNITS = frozenset(["sys-kernel-debug.mount", "sys-kernel-tracing.mount"])


def _all_units(subject: Subject) -> Iterator[tuple[str, Unit]]:
    for tree, files in subject.image.trees.items():
        for unit in load_units(files).values():
            yield tree, unit


@RULES.rule(
    "GS-HOST-001", "System credentials from the host are refused",
    "put systemd.import_credentials=no into the recipe's command_line",
)  # fmt: skip
def credentials(subject: Subject) -> Iterator[Finding]:
    """The sealed command line has `systemd.import_credentials=no`, once."""
    yield from needs_words(subject, ["systemd.import_credentials=no"])


@RULES.rule(
    "GS-HOST-002", "Nothing reads what systemd-stub leaves for user space",
    "take the line or the unit out; what the host puts on the ESP must stay unread",
)  # fmt: skip
def stub_files(subject: Subject) -> Iterator[Finding]:
    """No tmpfiles.d line takes a credential (`^`), no unit loads one by name, and none of them names
    `/.extra`."""
    for tree, files in subject.image.trees.items():
        for path in config_files(files, "tmpfiles.d"):
            for line in (files.text(path) or "").splitlines():
                words = line.split()
                if words and not words[0].startswith("#") and ("^" in words[0] or "/.extra" in line):
                    yield Finding(
                        place=f"{tree}:{path}", expected="no line that takes what the host gives", got=line
                    )
    for tree, unit in _all_units(subject):
        for section, key, value in unit.settings:
            if (
                key in ("LoadCredential", "LoadCredentialEncrypted") and "/" not in value
            ) or "/.extra" in value:
                yield Finding(
                    place=f"{tree}:{unit.path}",
                    expected="no credential of the host",
                    got=f"[{section}] {key}={value}",
                )


@RULES.rule(
    "GS-HOST-003", "No tool that merges or runs further images",
    "exclude the program and its units in the recipe",
)  # fmt: skip
def extensions(subject: Subject) -> Iterator[Finding]:
    """Neither tree has systemd-sysext, confext, dissect, portable, nspawn, machine, import or repart
    tools or units."""
    yield from absent_names(subject, _EXTENSIONS, "tool for further images")


@RULES.rule(
    "GS-HOST-004", "The initrd stops a machine whose command line was extended",
    "include common/hardening: its udev rule reads PCR 12 before a root is mounted",
)  # fmt: skip
def pcr_12(subject: Subject) -> Iterator[Finding]:
    """The initrd's udev rules, parsed, power off for every PCR 12 but zero and that of the declared debug
    console, in both banks, and no later rule takes the command away."""
    initrd = subject.image.initrd
    place = "initrd:/usr/lib/udev/rules.d"
    rules = [
        rule
        for path in config_files(initrd, "udev/rules.d", ".rules")
        for rule in udev.parse_rules(path, initrd.text(path) or "")
    ]
    banks = ("sha256", "sha384")
    for bank in banks:
        wanted = udev.accepted_pcr_12(bank, subject.declared.debug_command_line)
        guards = [rule for rule in rules if udev.guards_pcr_12(rule, bank)]
        if not guards:
            yield Finding(
                place=place, expected=f"a rule that powers off by pcr-{bank}/12", got="no such rule"
            )
        for rule in guards:
            accepted = rule.refused(f"pcr-{bank}/12")
            if accepted != wanted:
                yield Finding(
                    place=f"initrd:{rule.where}", expected=f"exactly {', '.join(sorted(wanted))} accepted",
                    got=", ".join(sorted(accepted)),
                )  # fmt: skip
    guarded = {
        rule.where.rpartition(":")[0] for rule in rules for bank in banks if udev.guards_pcr_12(rule, bank)
    }
    for rule in rules:
        jumps = rule.where.rpartition(":")[0] in guarded and any(key == "GOTO" for key, *_ in rule.pairs)
        if jumps or udev.takes_commands_away(rule):
            yield Finding(
                place=f"initrd:{rule.where}",
                expected="no rule that empties RUN or jumps past the guard",
                got=rule.text[:120],
            )
    if (found := initrd.follow("/usr/bin/systemctl")) is None or not found.is_program:
        yield Finding(
            place="initrd:/usr/bin/systemctl", expected="the program that powers off", got="it is not there"
        )


@RULES.rule(
    "GS-HOST-005", "The sealed command line is the one that the image knows",
    "render /usr/lib/goldsmith/hardening/command-line from the recipe's command_line; build again",
)  # fmt: skip
def sealed_command_line(subject: Subject) -> Iterator[Finding]:
    """The UKI's `.cmdline` is the recipe's words and one root hash; the file that the read-back compares
    with says the same words, and as its second line the declared debug console."""
    words = list(subject.declared.command_line)
    root_hash = f"roothash={subject.image.hash_tree.root_hash}"
    found = list(subject.image.command_line)
    if found != [*words, root_hash]:
        differs = [word for word in found if word not in [*words, root_hash]] or [
            "what is missing, repeated or in another order"
        ]
        yield Finding(
            place="uki.efi:.cmdline", expected="the recipe's words, then the root hash", got=" ".join(differs)
        )
    place = "/usr/lib/goldsmith/hardening/command-line"
    text = subject.image.root.text(place)
    expected = [words, subject.declared.debug_command_line.split()]
    if text is None or [line.split() for line in text.splitlines()] != expected:
        yield Finding(
            place=f"root:{place}", expected="the sealed words, and the debug console's on a second line",
            got="no such file" if text is None else text[:200],
        )  # fmt: skip


@RULES.rule(
    "GS-HOST-006", "Rescue, emergency and debug shells stop the machine",
    "put a unit with SuccessAction=poweroff-force in its place, or mask it",
)  # fmt: skip
def emergency(subject: Subject) -> Iterator[Finding]:
    """In both trees emergency.service and rescue.service start nothing and power off, or are masked;
    rescue.target is masked; there is no debug-shell.service."""
    for tree, files in subject.image.trees.items():
        units = load_units(files)
        for name in ("emergency.service", "rescue.service"):
            unit = units.get(name)
            if unit is None or unit.masked:
                continue
            action = unit.value("Unit", "SuccessAction")
            starts = [value for _, value in unit.programs()]
            if starts or action not in (
                "poweroff-force",
                "poweroff-immediate",
                "halt-force",
                "halt-immediate",
            ):
                yield Finding(
                    place=f"{tree}:{unit.path}", expected="SuccessAction=poweroff-force and no program",
                    got=f"SuccessAction={action}; {'; '.join(starts) or 'no program'}",
                )  # fmt: skip
        for name in ("rescue.target", "debug-shell.service"):
            unit = units.get(name)
            if unit is not None and not unit.masked:
                yield Finding(
                    place=f"{tree}:{unit.path}", expected="masked or absent", got="a unit that starts"
                )
        if values(settings_of(files, "system.conf"), "Manager", "CrashShell")[-1:] not in ((), ("no",)):
            yield Finding(
                place=f"{tree}:/etc/systemd/system.conf",
                expected="CrashShell=no",
                got="a shell after a crash",
            )


@RULES.rule(
    "GS-HOST-007", "No unit reads a terminal",
    "take the unit out, or its StandardInput=",
)  # fmt: skip
def terminals(subject: Subject) -> Iterator[Finding]:
    """No unit of either tree has `StandardInput=tty`, `tty-force` or `tty-fail`."""
    for tree, unit in _all_units(subject):
        if (given := unit.value("Service", "StandardInput")) in _TERMINAL_INPUT:
            yield Finding(
                place=f"{tree}:{unit.path}",
                expected="no input from a terminal",
                got=f"StandardInput={given}",
            )


@RULES.rule(
    "GS-HOST-008", "No login, no remote shell, no guest agent, and no generator for one",
    "exclude it in the recipe",
)  # fmt: skip
def logins(subject: Subject) -> Iterator[Finding]:
    """Neither tree has a getty, login, sshd, guest agent or password prompt, nor systemd's generators for
    gettys, SSH over vsock, debug shells and command line units."""
    yield from absent_names(subject, _REMOTE, "way to log in")


@RULES.rule(
    "GS-HOST-009", "Ctrl-Alt-Del and SysRq do nothing",
    "exclude ctrl-alt-del.target; CtrlAltDelBurstAction=none; kernel.sysrq = 0 and kernel.ctrl-alt-del = 0",
)  # fmt: skip
def key_combinations(subject: Subject) -> Iterator[Finding]:
    """`kernel.sysrq` and `kernel.ctrl-alt-del` are 0; both trees have `CtrlAltDelBurstAction=none` and no
    unit for it."""
    yield from needs_settings(subject, [("kernel.sysrq", "0"), ("kernel.ctrl-alt-del", "0")])
    for tree, files in subject.image.trees.items():
        unit = load_units(files).get("ctrl-alt-del.target")
        if unit is not None and not unit.masked:
            yield Finding(place=f"{tree}:{unit.path}", expected="absent or masked", got="a unit that starts")
        yield from _manager(subject, tree, "CtrlAltDelBurstAction", "none")


@RULES.rule(
    "GS-HOST-010", "No other kernel is started, and memory is never written to a disk",
    "nohibernate and kernel.kexec_load_disabled = 1; exclude the units of sleep and kexec",
)  # fmt: skip
def kexec_and_sleep(subject: Subject) -> Iterator[Finding]:
    """`nohibernate` is sealed, `kernel.kexec_load_disabled` is 1, and no program or unit for kexec, sleep
    or soft reboot is there."""
    yield from needs_words(subject, ["nohibernate"])
    yield from needs_settings(subject, [("kernel.kexec_load_disabled", "1")])
    yield from absent_names(subject, _SLEEP, "unit or program for it")


@RULES.rule(
    "GS-HOST-011", "Nobody's memory becomes a core dump",
    "include common/hardening; take LimitCORE= out of the unit",
)  # fmt: skip
def core_dumps(subject: Subject) -> Iterator[Finding]:
    """`kernel.core_pattern` is /dev/null and no pipe, `fs.suid_dumpable` 0, the root's default limit 0
    and raised by no unit; PID 1 leaves no core; no systemd-coredump."""
    wanted = [
        ("kernel.core_pattern", "/dev/null"),
        ("kernel.core_pipe_limit", "1"),
        ("fs.suid_dumpable", "0"),
    ]
    yield from needs_settings(subject, wanted)
    yield from _manager(subject, "root", "DefaultLimitCORE", "0")
    for tree in subject.image.trees:
        yield from _manager(subject, tree, "DumpCore", "no")
    for tree, unit in _all_units(subject):
        if (limit := unit.value("Service", "LimitCORE")) not in ("", "0", "0:0"):
            yield Finding(place=f"{tree}:{unit.path}", expected="LimitCORE=0", got=f"LimitCORE={limit}")
    yield from absent_names(subject, _COREDUMP, "handler of core dumps")


@RULES.rule(
    "GS-HOST-012", "ACPI tables are not replaced from inside",
    "lockdown=confidentiality in command_line; take the tables out of the initrd",
)  # fmt: skip
def acpi_override(subject: Subject) -> Iterator[Finding]:
    """The kernel is locked down, and the initrd has no `/kernel/firmware/acpi`, from which the kernel would take
    tables."""
    yield from needs_lockdown(subject, "lockdown=confidentiality")
    for path, file in subject.image.initrd.items():
        if path.startswith("/kernel/") and file.is_file:
            yield Finding(
                place=f"initrd:{path}", expected="no ACPI table or microcode below /kernel", got="it is there"
            )


@RULES.rule(
    "GS-HOST-013", "debugfs and tracefs are closed",
    "debugfs=off in command_line; exclude sys-kernel-debug.mount and sys-kernel-tracing.mount",
)  # fmt: skip
def debugfs(subject: Subject) -> Iterator[Finding]:
    """`debugfs=off` is sealed, and no unit mounts debugfs or tracefs."""
    yield from needs_words(subject, ["debugfs=off"])
    yield from absent_names(subject, _DEBUGFS_UNITS, "mount unit of it")
    for tree, unit in _all_units(subject):
        if (kind := unit.value("Mount", "Type")) in ("debugfs", "tracefs"):
            yield Finding(place=f"{tree}:{unit.path}", expected="no mount of debugfs or tracefs", got=kind)


@RULES.rule(
    "GS-HOST-014", "No word of the command line opens a way in or takes a defence away",
    "take the word out of command_line",
)  # fmt: skip
def forbidden_words(subject: Subject) -> Iterator[Finding]:
    """The sealed command line has no console, no other init, unit or root, no debug shell, no switch that
    turns a protection off, and no word twice."""
    names = [word.partition("=")[0] for word in subject.image.command_line]
    for name, word in zip(names, subject.image.command_line, strict=True):
        if name in _FORBIDDEN_WORDS or name.startswith(
            ("rd.", "systemd.log", "acpi_", "dyndbg", "earlyprintk")
        ):
            yield Finding(place="uki.efi:.cmdline", expected=f"no {name}", got=word)
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Finding(place="uki.efi:.cmdline", expected=f"{name} once", got=f"{names.count(name)} times")


@RULES.rule(
    "GS-HOST-015", "Entropy that the host hands over counts for nothing",
    "random.trust_bootloader=off and random.trust_cpu=on in command_line",
)  # fmt: skip
def entropy(subject: Subject) -> Iterator[Finding]:
    """The seed of firmware and ESP is not credited, and no seed file lies in the root."""
    yield from needs_words(subject, ["random.trust_bootloader=off", "random.trust_cpu=on"])
    for tree, files in subject.image.trees.items():
        for path in ("/var/lib/systemd/random-seed", "/etc/machine-id"):
            file = files.follow(path)
            if file is not None and file.content:
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="nothing that all machines would share",
                    got=file.text[:60],
                )


@RULES.rule(
    "GS-HOST-016", "Keyboard and mouse have no driver",
    "i8042.nokbd and i8042.noaux in command_line",
)  # fmt: skip
def keyboard(subject: Subject) -> Iterator[Finding]:
    """`i8042.nokbd` and `i8042.noaux` are sealed."""
    yield from needs_words(subject, ["i8042.nokbd", "i8042.noaux"])


def _manager(subject: Subject, tree: str, key: str, value: str) -> Iterator[Finding]:
    got = "".join(values(settings_of(subject.image.trees[tree], "system.conf"), "Manager", key)[-1:])
    if got != value:
        yield Finding(
            place=f"{tree}:/etc/systemd/system.conf", expected=f"{key}={value}", got=got or "not set"
        )
