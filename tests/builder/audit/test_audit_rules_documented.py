"""docs/audit.md, the recipes' waivers, and the rules themselves agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.audit.declare import check_waivers, declared_by
from builder.audit.report import read_declared
from builder.audit.rules import ALL, catalogue
from builder.errors import RecipeError
from builder.recipe import find_recipe, load_recipe
from measurements.errors import FormatError

ROOT = Path(__file__).parents[3]


def test_the_documents_table_is_made_from_the_rules():
    text = (ROOT / "docs/audit.md").read_text()
    assert text.endswith(f"\n{catalogue()}"), "write the table anew: builder.audit.rules.catalogue()"


def test_ids_are_unique_and_every_rule_says_what_it_is():
    assert len({rule.id for rule in ALL}) == len(ALL)
    headings = set(re.findall(r"^## (.+)$", (ROOT / "docs/hardening.md").read_text(), re.MULTILINE))
    for rule in ALL:
        assert re.fullmatch(r"GS-[A-Z]+-\d{3}", rule.id)
        assert rule.title and rule.checks and rule.remedy
        assert rule.section in headings, rule.id


def test_readme_counts_the_rules():
    readme = (ROOT / "README.md").read_text()
    assert f"against {len(ALL)} rules" in readme and "`base` has no waiver" in readme
    assert not load_recipe(find_recipe("base", base=ROOT)).audit.waive


#: What the Kernel Self Protection Project recommends of sysctls and the profile does not have.
@pytest.mark.parametrize("setting", ["kernel.panic_on_warn", "user.max_user_namespaces"])
def test_recommendations_left_out_have_a_reason(setting):
    text = (ROOT / "docs/hardening.md").read_text()
    assert re.search(rf"^\| `{re.escape(setting)}[^|]*\| .+ \|$", text, re.MULTILINE)


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in ROOT.glob("recipes/*/recipe.yaml")))
def test_recipes_waive_few_rules_with_reasons(recipe):
    declared = declared_by(load_recipe(find_recipe(recipe, base=ROOT)))
    assert len(declared.waivers) <= 5
    assert all(len(reason.split()) > 5 for reason in declared.waivers.values())
    assert declared.kernel_policy


def test_an_unknown_rule_cannot_be_waived():
    with pytest.raises(RecipeError, match="GS-NONE-001"):
        check_waivers({"GS-NONE-001": "no such rule", ALL[0].id: "a known one"})


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b'{"format": "goldsmith-audit/2"}',
        b'{"format": "goldsmith-audit/1", "image": {}}',
        b"[" * 50,
    ],
)
def test_reports_that_are_none(document):
    with pytest.raises(FormatError):
        read_declared(document)
