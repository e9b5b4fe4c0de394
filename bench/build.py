"""Time every phase of a build, as CPU and wall seconds: python bench/build.py [RECIPE] [--runs N].

Three cases, each in a fresh interpreter and each from a store that holds every archive:
  cold     nothing is unpacked or compiled yet: the first build of a machine after `goldsmith fetch`
  warm     the store keeps what earlier builds unpacked
  changed  warm, and one file of the recipe has another content than in the build before

The CPU time of what is compiled in a sandbox is not seen; its wall time is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CASES = ("cold", "warm", "changed")
#: Seconds of a run that is not repeated.
LONG = 60.0


def cpu() -> float:
    """CPU seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


class Stopwatch:
    """A reporter that keeps (name, CPU, wall) of each phase."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float, float]] = []

    @contextlib.contextmanager
    def phase(self, name: str, **_: object) -> Iterator[Stopwatch]:
        before, started = cpu(), time.monotonic()
        yield self
        self.phases.append((name, cpu() - before, time.monotonic() - started))

    def advance(self, amount: int) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def build_once(recipe: str, store: str, out: str) -> None:
    """Build in this process and print the phases as JSON; the rest is interpreter start and imports."""
    from builder.lock import load_lock
    from builder.pipeline import build
    from builder.recipe import find_recipe, load_recipe
    from builder.store import Store

    watch = Stopwatch()
    started = cpu()
    loaded = load_recipe(find_recipe(recipe))
    lock = load_lock(loaded)
    watch.phases.append(("interpreter, imports", started, time.monotonic() - START))
    watch.phases.append(("recipe and lock", cpu() - started, 0.0))
    # A recipe in a folder of its own has no committed golden document, so the values are not compared.
    build(loaded, lock, store=Store(Path(store)), out=Path(out), reporter=watch)
    phases = {name: used for name, *used in watch.phases}
    print(json.dumps({"phases": phases, "cpu": cpu(), "wall": time.monotonic() - START}))


def run_case(case: str, recipe: str, scratch: Path, number: int) -> dict:
    """Prepare one case and build it in a fresh interpreter."""
    from builder.store import Store

    store = scratch / "store"
    if case == "cold" or not store.exists():
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(Store.default().root / "sha256", store / "sha256", copy_function=link_or_copy)
    folder = scratch / "recipes" / recipe
    if case == "changed":
        target = scratch / "recipes" / "common" / "system" / "tmpfiles.conf"
        target.write_text(target.read_text() + f"# {number}\n")
    command = [sys.executable, __file__, "--child", str(folder), str(store), str(scratch / "out")]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    return json.loads(answer.stdout)


def run_all(case: str, recipe: str, scratch: Path, runs: int) -> list[dict]:
    """Run a case as often as asked; one that takes long, since it compiles kernel modules, once."""
    found = [run_case(case, recipe, scratch, 0)]
    while len(found) < runs and found[0]["wall"] < LONG:
        found.append(run_case(case, recipe, scratch, len(found)))
    return found


def link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="gpu-cc")
    parser.add_argument(
        "--runs",
        type=int,
        default=3,
        help=f"runs of a case; one that takes {LONG:.0f} s runs once; medians are printed",
    )
    arguments = parser.parse_args()
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "builder.cli", "fetch", arguments.recipe], check=True, cwd=root)
    with tempfile.TemporaryDirectory(prefix="goldsmith-bench-") as name:
        scratch = Path(name)
        shutil.copytree(root / "recipes", scratch / "recipes", ignore=shutil.ignore_patterns("golden.json"))
        shutil.copy(root / "requirements.txt", scratch)
        results = {case: run_all(case, arguments.recipe, scratch, arguments.runs) for case in CASES}
    phases = list(dict.fromkeys(name for case in CASES for name in results[case][0]["phases"]))
    print(f"{'CPU seconds (wall)':<24}" + "".join(f"{case:>16}" for case in CASES))
    for phase in phases:
        cells = [
            tuple(
                statistics.median(run["phases"].get(phase, (0, 0))[index] for run in results[case])
                for index in (0, 1)
            )
            for case in CASES
        ]
        print(f"{phase:<24}" + "".join(f"{used:>8.2f} ({wall:>4.2f})" for used, wall in cells))
    totals = {
        case: (
            statistics.median(run["cpu"] for run in results[case]),
            statistics.median(run["wall"] for run in results[case]),
        )
        for case in CASES
    }
    print(f"{'total':<24}" + "".join(f"{used:>8.2f} ({wall:>4.2f})" for used, wall in totals.values()))
    print(f"cold / warm CPU: {totals['cold'][0] / totals['warm'][0]:.1f}")


START = time.monotonic()
if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        build_once(*sys.argv[2:])
    else:
        main()
