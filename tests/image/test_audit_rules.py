"""Each rule of the audit holds for the base image, and notices each way in which it is broken here."""

from __future__ import annotations

import pytest
from audit_breaking import BREAKING
from audit_changes import setting

from builder.audit import open_image
from builder.audit.declare import declared_by
from builder.audit.model import Outcome, Subject
from builder.audit.references import references_of
from builder.audit.rules import ALL
from builder.audit.run import apply_rules
from builder.lockfile import read_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store

pytestmark = pytest.mark.integration

BY_ID = {rule.id: rule for rule in ALL}
CASES = [
    pytest.param(rule, change, id=f"{rule}-{number}")
    for rule, changes in BREAKING.items()
    for number, change in enumerate(changes, 1)
]


#: Kernel Self Protection Project, "Recommended Settings", sysctls, as of Linux 6.12; test_audit_rules_documented.py has
#: those that are left out.
RECOMMENDED = [
    "dev.tty.ldisc_autoload = 0",
    "dev.tty.legacy_tiocsti = 0",
    "fs.protected_fifos = 2",
    "fs.protected_hardlinks = 1",
    "fs.protected_regular = 2",
    "fs.protected_symlinks = 1",
    "fs.suid_dumpable = 0",
    "kernel.dmesg_restrict = 1",
    "kernel.io_uring_disabled = 2",
    "kernel.kexec_load_disabled = 1",
    "kernel.kptr_restrict = 2",
    "kernel.modules_disabled = 1",
    "kernel.oops_limit = 1",
    "kernel.perf_event_paranoid = 3",
    "kernel.randomize_va_space = 2",
    "kernel.unprivileged_bpf_disabled = 1",
    "kernel.yama.ptrace_scope = 3",
    "net.core.bpf_jit_harden = 2",
    "vm.mmap_min_addr = 65536",
    "vm.unprivileged_userfaultfd = 0",
]


@pytest.fixture(scope="module")
def subject(image) -> Subject:
    audited = open_image(image.release / "disk.raw", image.release / "uki.efi")
    lock = read_lock(image.release / "lock.json", recipe="base")
    return Subject(
        image=audited,
        declared=declared_by(load_recipe(find_recipe("base"))),
        references=references_of(audited.root, lock, Store.default()),
    )


def test_every_rule_is_broken_here():
    assert BREAKING.keys() == BY_ID.keys()
    assert all(BREAKING.values())


def test_the_base_image_breaks_none_and_needs_few_waivers(subject):
    report = apply_rules(subject)
    assert [(result.rule.id, result.findings) for result in report.failed] == []
    assert len(report.of(Outcome.WAIVED)) == len(subject.declared.waivers) <= 5


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_a_broken_image_is_noticed(subject, rule, change):
    broken = change(subject)
    report = apply_rules(broken, [BY_ID[rule]])
    assert [result.rule.id for result in report.failed] == [rule]
    for finding in report.failed[0].findings:
        assert finding.place and finding.expected and finding.got


@pytest.mark.parametrize("line", RECOMMENDED)
def test_every_recommended_setting_is_asked_for_by_exactly_one_rule(subject, line):
    report = apply_rules(setting(f"{line}\n")(subject))
    assert len(report.failed) == 1
    assert report.failed[0].findings[0].expected == line
