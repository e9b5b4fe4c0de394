"""The kernel: its identity, its command line, its configuration, its settings (docs/hardening.md, "Kernel")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from builder.audit.model import Finding, Subject
from builder.audit.rules.registry import (
    LOCKDOWN,
    LOCKDOWN_WORDS,
    RuleSet,
    needs_lockdown,
    needs_settings,
    needs_words,
)
from builder.audit.units import load_units, pulled_in, sysctl_settings

RULES = RuleSet("Kernel")

_OPTION = re.compile(r"^(CONFIG_[A-Z0-9_]+)=(.*)$", re.MULTILINE)
_SEALED = re.compile(r"(\S+) on the sealed command line")
_MEMORY = [
    "init_on_alloc=1", "init_on_free=1", "slab_nomerge", "page_alloc.shuffle=1", "kfence.sample_interval=100",
    "randomize_kstack_offset=on",
]  # fmt: skip
_LATCH = [("kernel.modules_disabled", "1"), ("kernel.modprobe", "")]
_HELPERS = [("kernel.usermodehelper.bset", "0 0"), ("kernel.usermodehelper.inheritable", "0 0")]
_FAILURES = [
    ("kernel.panic_on_oops", "1"), ("kernel.panic", "1"), ("kernel.oops_limit", "1"),
    ("kernel.panic_on_unrecovered_nmi", "1"), ("kernel.panic_on_io_nmi", "1"),
]  # fmt: skip
_PROGRAMS = [
    ("kernel.unprivileged_bpf_disabled", "1"), ("net.core.bpf_jit_harden", "2"),
    ("kernel.unprivileged_userns_clone", "0"), ("kernel.io_uring_disabled", "2"), ("kernel.yama.ptrace_scope", "3"),
    ("kernel.perf_event_paranoid", "3"), ("vm.unprivileged_userfaultfd", "0"), ("dev.tty.ldisc_autoload", "0"),
    ("dev.tty.legacy_tiocsti", "0"), ("vm.memfd_noexec", "2"),
]  # fmt: skip
_SECRETS = [
    ("kernel.dmesg_restrict", "1"), ("kernel.kptr_restrict", "2"), ("kernel.randomize_va_space", "2"),
    ("vm.mmap_min_addr", "65536"), ("vm.mmap_rnd_bits", "32"), ("kernel.ftrace_enabled", "0"),
    ("kernel.tracepoint_printk", "0"),
]  # fmt: skip
_FILES = [
    ("fs.protected_fifos", "2"), ("fs.protected_hardlinks", "1"), ("fs.protected_regular", "2"),
    ("fs.protected_symlinks", "1"),
]  # fmt: skip
_READBACK = "goldsmith-readback.service"


@RULES.rule(
    "GS-KERNEL-001", "Lockdown closes the kernel to root too",
    "put lockdown=confidentiality into command_line",
)  # fmt: skip
def lockdown(subject: Subject) -> Iterator[Finding]:
    """`lockdown=confidentiality` is sealed, once; or goldsmith-lockdown.service, required by sysinit.target, locks
    down after the last module, before the read-back and the network, and powers off when it fails."""
    yield from needs_lockdown(subject, "lockdown=confidentiality")


@RULES.rule(
    "GS-KERNEL-002", "Only signed modules are loaded",
    "put module.sig_enforce=1 into command_line",
)  # fmt: skip
def signatures_enforced(subject: Subject) -> Iterator[Finding]:
    """`module.sig_enforce=1` is sealed, once; or goldsmith-lockdown.service switches it on, as above."""
    yield from needs_lockdown(subject, "module.sig_enforce=1")


@RULES.rule(
    "GS-KERNEL-003", "Memory is wiped and its layout hidden",
    "include common/hardening",
)  # fmt: skip
def memory(subject: Subject) -> Iterator[Finding]:
    """`init_on_alloc=1`, `init_on_free=1`, `slab_nomerge`, `page_alloc.shuffle=1`,
    `kfence.sample_interval=100` and `randomize_kstack_offset=on` are sealed."""
    yield from needs_words(subject, _MEMORY)


@RULES.rule(
    "GS-KERNEL-004", "Interfaces that nothing here uses are off",
    "include common/hardening",
)  # fmt: skip
def surface(subject: Subject) -> Iterator[Finding]:
    """`vsyscall=none`, `ia32_emulation=0` and `proc_mem.force_override=never` are sealed."""
    yield from needs_words(subject, ["vsyscall=none", "ia32_emulation=0", "proc_mem.force_override=never"])


@RULES.rule(
    "GS-KERNEL-005", "Every CPU weakness gets its remedy",
    "put mitigations=auto (or auto,nosmt) into command_line",
)  # fmt: skip
def mitigations(subject: Subject) -> Iterator[Finding]:
    """`mitigations=` is `auto` or `auto,nosmt`."""
    if "mitigations=auto,nosmt" not in subject.image.command_line:
        yield from needs_words(subject, ["mitigations=auto"])


@RULES.rule(
    "GS-KERNEL-006", "A kernel that fails stops",
    "include common/kernel and common/hardening",
)  # fmt: skip
def failures(subject: Subject) -> Iterator[Finding]:
    """`panic=1` and `oops=panic` are sealed; the settings for oopses and interrupts of hardware errors
    ask for a panic."""
    yield from needs_words(subject, ["panic=1", "oops=panic"])
    yield from needs_settings(subject, _FAILURES)


@RULES.rule(
    "GS-KERNEL-007", "Device memory access goes through the IOMMU",
    "include common/hardening",
)  # fmt: skip
def iommu(subject: Subject) -> Iterator[Finding]:
    """`iommu.passthrough=0` and `iommu.strict=1` are sealed."""
    yield from needs_words(subject, ["iommu.passthrough=0", "iommu.strict=1"])


@RULES.rule(
    "GS-KERNEL-008", "The kernel is the locked one",
    "build from the lock; a kernel of another origin has another configuration and other module keys",
)  # fmt: skip
def identity(subject: Subject) -> Iterator[Finding]:
    """The UKI's `.linux` is byte for byte the vmlinuz of the locked kernel package, and `.uname` its
    release."""
    found, wanted = (
        hashlib.sha256(each).hexdigest()
        for each in (subject.image.section(".linux"), subject.references.kernel)
    )
    if found != wanted:
        yield Finding(
            place="uki.efi:.linux", expected=f"{subject.references.kernel_package}: {wanted}", got=found
        )
    release = subject.image.section(".uname").decode("utf-8", "replace").rstrip("\0\n")
    folders = {
        path.rpartition("/")[2]
        for tree in subject.image.trees.values()
        for path in tree.children("/usr/lib/modules")
    }
    if folders - {release} or not release:
        yield Finding(
            place="uki.efi:.uname",
            expected=f"the release of the modules: {', '.join(sorted(folders))}",
            got=release or "nothing",
        )


@RULES.rule(
    "GS-KERNEL-009", "The kernel's configuration has what the policy requires",
    "decide in the kernel policy: a reason and what stands in for it, or another kernel",
)  # fmt: skip
def configuration(subject: Subject) -> Iterator[Finding]:
    """Each option that the recipe's kernel policy requires has its value in the locked kernel's
    configuration; the policy is not empty."""
    policy = subject.declared.kernel_policy
    config = {name: value.strip('"') for name, value in _OPTION.findall(subject.references.kernel_config)}
    if not policy or len(config) < 1000:
        yield Finding(
            place=subject.references.kernel_package,
            expected="a kernel policy and a configuration of 1000 options or more",
            got=f"{len(policy or ())} lines of policy, {len(config)} options",
        )  # fmt: skip
    for item in policy or ():
        if item.wanted is None and (got := config.get(item.option, "n")) != item.value:
            yield Finding(
                place=f"{subject.references.kernel_package}:{item.option}", expected=item.value, got=got
            )


@RULES.rule(
    "GS-KERNEL-010",
    "What the kernel does not offer is as the policy says, and what stands in for it is there",
    "update the kernel policy: the kernel changed, or a word that it relies on is gone",
)  # fmt: skip
def accepted_configuration(subject: Subject) -> Iterator[Finding]:
    """Each option that the policy accepts otherwise than wanted is as described, and each word that it
    names as the stand-in is on the sealed command line."""
    config = {name: value.strip('"') for name, value in _OPTION.findall(subject.references.kernel_config)}
    there = set(subject.image.command_line)
    if LOCKDOWN in load_units(subject.image.root):  # GS-KERNEL-001 and -002 hold it to the same
        there |= set(LOCKDOWN_WORDS)
    for item in subject.declared.kernel_policy or ():
        if item.wanted is None:
            continue
        if (got := config.get(item.option, "n")) != item.value:
            yield Finding(
                place=f"{subject.references.kernel_package}:{item.option}", expected=item.value, got=got
            )
        for word in _SEALED.findall(item.reason):
            if word not in there:
                yield Finding(
                    place="uki.efi:.cmdline",
                    expected=f"{word}, which the policy relies on for {item.option}",
                    got="no such word",
                )


@RULES.rule(
    "GS-KERNEL-011",
    "No module is loaded after the last needed one, and the kernel starts no helper of its own",
    "kernel.modules_disabled = 1 and kernel.modprobe empty in sysctl.d",
)  # fmt: skip
def latch(subject: Subject) -> Iterator[Finding]:
    """`kernel.modules_disabled` is 1 and `kernel.modprobe` empty; helpers get no capability; systemd-
    sysctl, which sets them, starts at every boot after systemd-modules-load."""
    yield from needs_settings(subject, _LATCH + _HELPERS)
    units, links = load_units(subject.image.root), pulled_in(subject.image.root)
    for name in ("systemd-sysctl.service", "systemd-modules-load.service"):
        if name not in units or units[name].masked or ("sysinit.target", "wants") not in links.get(name, ()):
            yield Finding(
                place=f"root:{name}",
                expected="a unit that sysinit.target wants",
                got="absent, masked or not wanted",
            )
    if "systemd-sysctl.service" in units:
        unit = units["systemd-sysctl.service"]
        if "systemd-modules-load.service" not in unit.words("Unit", "After"):
            yield Finding(
                place=f"root:{unit.path}", expected="After=systemd-modules-load.service", got="another order"
            )


@RULES.rule(
    "GS-KERNEL-012", "Programs reach little of the kernel",
    "include common/hardening",
)  # fmt: skip
def programs(subject: Subject) -> Iterator[Finding]:
    """Unprivileged BPF, user namespaces, io_uring, ptrace, perf events, userfaultfd, line disciplines,
    TIOCSTI and executable anonymous files are off."""
    yield from needs_settings(subject, _PROGRAMS)


@RULES.rule(
    "GS-KERNEL-013", "Addresses and logs of the kernel stay in the kernel",
    "include common/hardening",
)  # fmt: skip
def secrets(subject: Subject) -> Iterator[Finding]:
    """The log, pointers and tracing are closed, and addresses of programs are random over the largest
    range."""
    yield from needs_settings(subject, _SECRETS)


@RULES.rule(
    "GS-KERNEL-014", "Links and files in shared folders do not mislead",
    "include common/hardening",
)  # fmt: skip
def files(subject: Subject) -> Iterator[Finding]:
    """`fs.protected_fifos`, `hardlinks`, `regular` and `symlinks` have their strictest values."""
    yield from needs_settings(subject, _FILES)


@RULES.rule(
    "GS-KERNEL-015", "No setting may fail, and only one place makes settings",
    "move it to /usr/lib/sysctl.d, and take the minus sign away",
)  # fmt: skip
def strict_settings(subject: Subject) -> Iterator[Finding]:
    """Every line of sysctl.d is `name = value`, none begins with a minus sign, and all lie in
    /usr/lib/sysctl.d, where the read-back looks; the initrd has none."""
    for name, (value, place) in sysctl_settings(subject.image.root).items():
        if name.startswith("-") or value.startswith("\0"):
            yield Finding(place=f"root:{place}", expected="a setting that must take", got=name)
        if not place.startswith("/usr/lib/sysctl.d/"):
            yield Finding(place=f"root:{place}", expected="a file in /usr/lib/sysctl.d", got=place)
    for name, (_, place) in sysctl_settings(subject.image.initrd).items():
        yield Finding(place=f"initrd:{place}", expected="no settings in the initrd", got=name)


@RULES.rule(
    "GS-KERNEL-016", "What was asked of the kernel is read back at every boot",
    "include common/hardening; enable goldsmith-readback.service",
)  # fmt: skip
def read_back(subject: Subject) -> Iterator[Finding]:
    """goldsmith-readback.service is required by sysinit.target, runs after settings, modules and packet
    filter and before the network, powers off when it fails, and its script is there."""
    root = subject.image.root
    unit = load_units(root).get(_READBACK)
    if unit is None or unit.masked:
        yield Finding(place=f"root:{_READBACK}", expected="the unit", got="absent or masked")
        return
    place = f"root:{unit.path}"
    if ("sysinit.target", "requires") not in pulled_in(root).get(_READBACK, ()):
        yield Finding(place=place, expected="required by sysinit.target", got="not required")
    if (got := unit.value("Unit", "FailureAction")) != "poweroff-force":
        yield Finding(place=place, expected="FailureAction=poweroff-force", got=got or "none")
    after, before = set(unit.words("Unit", "After")), set(unit.words("Unit", "Before"))
    for name in (
        "systemd-sysctl.service",
        "systemd-modules-load.service",
        "goldsmith-firewall.service",
        "local-fs.target",
    ):
        if name not in after:
            yield Finding(place=place, expected=f"After={name}", got="another order")
    for name in ("network-pre.target", "sysinit.target"):
        if name not in before:
            yield Finding(place=place, expected=f"Before={name}", got="another order")
    scripts = [word for _, line in unit.programs() for word in line.split() if word.endswith(".py")]
    if not scripts or any(root.text(script) is None for script in scripts):
        yield Finding(place=place, expected="the read-back's script", got=", ".join(scripts) or "none")
