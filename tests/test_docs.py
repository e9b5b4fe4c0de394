"""The documentation names what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder.cli import VERBS
from builder.cli.arguments import DEFAULT_RELEASE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_contract(verb):
    assert f"`goldsmith {verb}" in (ROOT / "docs/cli.md").read_text()


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named and named <= targets


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("gpu-cc", r"fetches the (\d+) locked Debian archives \((\d+) MiB;"),
        ("base", r"`RECIPE=base` \((\d+) archives, (\d+) MiB\)"),
    ],
)
def test_readme_says_how_much_is_fetched(image, words):
    archives = json.loads((ROOT / "recipes" / image / "lock.json").read_bytes())["archives"]
    told = re.findall(words, (ROOT / "README.md").read_text())
    assert told == [(str(len(archives)), str(round(sum(item["size"] for item in archives) / 2**20)))]


def test_the_default_image_is_one_and_the_same():
    """What `make image` builds, what verbs look at, what is timed, and what the contract says."""
    named = re.findall(r"^RECIPE \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named == [DEFAULT_RELEASE.name]
    assert f"`make image [RECIPE={DEFAULT_RELEASE.name}]`" in (ROOT / "docs/cli.md").read_text()
    assert f'"recipe", nargs="?", default="{DEFAULT_RELEASE.name}"' in (ROOT / "bench/build.py").read_text()
    assert (ROOT / "recipes" / DEFAULT_RELEASE.name / "recipe.yaml").is_file()


def test_no_two_test_files_share_a_name():
    """pytest imports test files by their bare names, and collects nothing at all where two are the same."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_decisions_have_distinct_numbers():
    numbers = [path.name[:4] for path in (ROOT / "docs/adr").glob("*.md")]
    assert len(numbers) == len(set(numbers)) and all(re.fullmatch(r"\d{4}", number) for number in numbers)


def test_the_threat_models_proofs_are_there():
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/threat-model.md").read_text()))
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 40
    for file, test in sorted(named):
        assert f"def {test}(" in files.get(file, ""), f"docs/threat-model.md names {file}::{test}"
