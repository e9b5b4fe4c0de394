"""Switch one mechanism of the hardening off at a time, and see which tests notice.

    .venv/bin/python tests/live/switched_off.py [--list] [--timeout SECONDS] [NAME...]

A test of a refusal proves something only if it fails once the refusal is gone. For each mechanism this builds a variant
of recipes/base without it, and without the line of the read-back that would stop such a machine; waives the rules by
which the audit refuses it; runs the live tests on it, or the integration tests of what the host injects where those are
meant; and prints what failed. It ends with 1 when a variant passes every test. pytest does not collect it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
HARDENING = "common/hardening"
READBACK = f"{HARDENING}/readback.py"
LIVE = ("tests/live", "--ignore=tests/live/test_channel.py", "--ignore=tests/live/test_foreign_companions.py")
FOREIGN = ("tests/live/test_foreign_companions.py",)
HOST = ("tests/integration/test_hardening.py",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of one file below recipes/: each line that matches ``pattern`` whole becomes ``new``."""

    file: str
    pattern: str
    new: str = ""

    def apply(self, recipes: Path) -> None:
        path = recipes / self.file
        lines = path.read_text().splitlines(keepends=True)
        changed = [self.new if re.fullmatch(self.pattern, line.strip()) else line for line in lines]
        if changed == lines:
            sys.exit(f"{self.file}: no line is {self.pattern!r} any more; bring this list up to date")
        path.write_text("".join(changed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """What is switched off, how, and which tests are asked."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...] = LIVE


def word(text: str, file: str) -> Edit:
    """Take a word off the command line."""
    return Edit(file=file, pattern=re.escape(f"- {text}"))


def setting(name: str) -> Edit:
    """Take a setting out; the read-back asks for what is left."""
    return Edit(file=f"{HARDENING}/sysctl.conf", pattern=rf"{re.escape(name)} = .*")


MECHANISMS = (
    Mechanism(
        name="lockdown",
        edits=(
            word("lockdown=confidentiality", "common/lockdown-early.yaml"),
            Edit(file=READBACK, pattern=r'"sys/kernel/security/lockdown": .*'),
        ),
    ),
    Mechanism(
        name="module-signatures",
        edits=(
            word("module.sig_enforce=1", "common/lockdown-early.yaml"),
            Edit(file=READBACK, pattern=r'"sys/module/module/parameters/sig_enforce": .*'),
        ),
    ),
    Mechanism(name="module-latch", edits=(setting("kernel.modules_disabled"),)),
    Mechanism(name="ptrace", edits=(setting("kernel.yama.ptrace_scope"),)),
    Mechanism(name="io-uring", edits=(setting("kernel.io_uring_disabled"),)),
    Mechanism(name="memory-files", edits=(setting("vm.memfd_noexec"),)),
    Mechanism(name="user-namespaces", edits=(setting("kernel.unprivileged_userns_clone"),)),
    Mechanism(name="kexec-latch", edits=(setting("kernel.kexec_load_disabled"),)),
    Mechanism(
        name="vsyscall-and-32-bit",
        edits=(
            word("vsyscall=none", "common/hardening.yaml"),
            word("ia32_emulation=0", "common/hardening.yaml"),
        ),
    ),
    Mechanism(name="debugfs", edits=(word("debugfs=off", "common/hardening.yaml"),)),
    Mechanism(
        name="packet-filter",
        edits=(
            Edit(file="common/hardening.yaml", pattern="- goldsmith-firewall.service"),
            Edit(
                file=f"{HARDENING}/goldsmith-readback.service",
                pattern="Wants=goldsmith-firewall.service.*",
                new="Wants=systemd-sysctl.service systemd-modules-load.service network-pre.target\n",
            ),
        ),
    ),
    Mechanism(
        name="mounts",
        edits=(
            Edit(file="common/hardening.yaml", pattern="- sysroot-(dev|dev-shm|run).mount"),
            Edit(
                file=READBACK, pattern=r"for line in mountinfo\.splitlines\(\):", new="    for line in ():\n"
            ),
        ),
    ),
    Mechanism(
        name="service-sandbox",
        edits=(
            Edit(
                file=f"{HARDENING}/services/networkd.conf", pattern="(CapabilityBoundingSet|NoExecPaths)=.*"
            ),
        ),
    ),
    Mechanism(
        name="private-tmp-noexec",
        edits=(
            Edit(file=f"{HARDENING}/services/journald.conf", pattern="NoExecPaths=.*", new="NoExecPaths=/\n"),
        ),
    ),
    Mechanism(
        name="command-line-rule",
        edits=(
            Edit(file="common/hardening.yaml", pattern=r"- \{path: /usr/lib/udev/rules.d/61-goldsmith.*"),
        ),
        tests=HOST,
    ),
    Mechanism(
        name="no-credentials",
        edits=(word("systemd.import_credentials=no", "common/kernel.yaml"),),
        tests=FOREIGN,
    ),
)


def build(mechanism: Mechanism, folder: Path) -> tuple[Path, list[str]]:
    """Build recipes/base without a mechanism; return the release, and the rules by which the audit refused it first."""
    recipes = folder / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    (recipes / "base/golden.json").unlink(missing_ok=True)
    for edit in mechanism.edits:
        edit.apply(recipes)
    code, said = build_recipe(recipes, folder / "out")
    refused = re.findall(r"^  (GS-[A-Z]+-[0-9]+):", said, re.MULTILINE) if code else []
    if refused:
        waivers = "".join(f"    {rule}: switched off to see which test notices\n" for rule in refused)
        with (recipes / "base/recipe.yaml").open("a") as recipe:
            recipe.write(f"audit:\n  waive:\n{waivers}")
        code, said = build_recipe(recipes, folder / "out")
    if code:
        sys.exit(f"{mechanism.name}: the variant does not build\n{said[-3000:]}")
    return folder / "out", refused


def build_recipe(recipes: Path, out: Path) -> tuple[int, str]:
    """Build; return how it ended and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "builder.cli", "build", recipes / "base/recipe.yaml", "--out", out],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stderr


def failing(mechanism: Mechanism, release: Path, folder: Path, timeout: float) -> tuple[list[str], int]:
    """Run the tests on a release; return those that failed, and how many ran."""
    report = folder / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x" if mechanism.tests is HOST else "-q", f"--junitxml={report}",
         *mechanism.tests],
        cwd=ROOT, env={**os.environ, "GOLDSMITH_TEST_RELEASE": str(release)},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
    )  # fmt: skip
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return failed, len(cases)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mechanisms (default: all)")
    parser.add_argument("--list", action="store_true", help="list the mechanisms")
    parser.add_argument(
        "--timeout", type=float, default=900.0, help="seconds that one variant's tests may take"
    )
    options = parser.parse_args(arguments)
    known = {mechanism.name: mechanism for mechanism in MECHANISMS}
    if unknown := set(options.names) - set(known):
        parser.error(f"no mechanism is called {', '.join(sorted(unknown))}; --list shows them")
    if options.list:
        print("\n".join(known))
        return 0
    unnoticed = 0
    for name in options.names or known:
        with tempfile.TemporaryDirectory(prefix="gs-off-") as folder:
            release, refused = build(known[name], Path(folder))
            failed, count = failing(known[name], release, Path(folder), options.timeout)
        audit = f"the audit refuses it ({', '.join(refused)})" if refused else "the audit lets it pass"
        print(f"{name}: {len(failed)} of {count} tests fail; {audit}", *failed, sep="\n  ", flush=True)
        unnoticed += not failed
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
