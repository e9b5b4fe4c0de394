from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import RecipeError, UsageError
from builder.recipe import find_recipe, load_recipe
from builder.recipe.schema import recipe_schema, recipe_schema_text
from builder.recipe.yaml import read_yaml

ROOT = Path(__file__).parents[3]

HEAD = """\
name: img
version: "1.2"
svn: 3
summary: an image
distribution: {suite: trixie}
kernel: {package: linux-image-cloud-amd64, command_line: [ro]}
"""


@pytest.fixture
def make(tmp_path):
    """Write files below a recipes/ folder; return the loader of recipes/img."""

    def build(recipe: str, **files: str):
        root = tmp_path / "recipes"
        for name, text in {"img/recipe.yaml": recipe, **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return load_recipe(root / "img" / "recipe.yaml")

    return build


def problems(make, recipe, **files):
    with pytest.raises(RecipeError) as caught:
        make(recipe, **files)
    return str(caught.value)


def test_fragments_are_merged_in_order_and_the_recipe_is_last(make):
    recipe = make(
        HEAD + "include: [common/a, common/b]\ncommand_line: [last]\nroot: {packages: [zlib1g, a1]}\n",
        **{
            "common/a.yaml": "command_line: [first]\nroot: {packages: [a1], drop: {dpkg: not needed here}}\n",
            "common/b.yaml": "include: [common/a]\nkernel: {package: linux-image-cloud-amd64}\n"
            "root: {packages: [b1], drop: {perl: not needed here}}\n",
        },
    )
    assert recipe.command_line == ("ro", "first", "last")
    assert recipe.root.packages == ("a1", "b1", "zlib1g")
    assert set(recipe.root.drop) == {"dpkg", "perl"}
    assert [path.name for path in recipe.sources] == ["a.yaml", "b.yaml", "recipe.yaml"]


def test_all_problems_of_a_file_are_told_at_once_with_line_and_key(make):
    text = problems(
        make,
        "name: img\nversion: 1.0\nsvn: -1\nsummary: x\nroot:\n  packges: [a1]\n  packages:\n    - ok1\n    - 3\n"
        "  files:\n    - {path: /x, mode: 0644, content: a}\n",
    )
    assert "recipes/img/recipe.yaml:2: version: expected text, got 1.0 (quote it)" in text
    assert "recipes/img/recipe.yaml:3: svn: expected at least 0, got -1" in text
    assert "recipes/img/recipe.yaml:6: root.packges: unknown key; did you mean 'packages'?" in text
    assert "recipes/img/recipe.yaml:9: root.packages[1]: expected text, got 3 (quote it)" in text
    assert "recipes/img/recipe.yaml:11: root.files[0].mode: expected text, got 420 (quote it)" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "recipes/x.yaml:2: a: the key is already there, in line 1"),
        ("a: &x [1]\nb: *x\n", "recipes/x.yaml:1: anchors and aliases"),
        ("<<: {a: 1}\n", "recipes/x.yaml:1"),
        ("a: !!python/object/apply:os.system [ls]\n", "recipes/x.yaml:1: a: a value of YAML type"),
        ("a: 2024-01-01\n", "a value of YAML type 'timestamp'"),
        ("a: !!binary aGk=\n", "'binary'"),
        ("1: x\n", "expected text as key, got 1"),
        ("- a\n", "expected a mapping of keys at the top level"),
        ("", "expected a mapping"),
        ("a: [1\n", "recipes/x.yaml:2:"),
        ('a: "\\ud800"', "recipes/x.yaml:1: a: "),
        ("a: 0b_", "recipes/x.yaml:1: a: "),
        ("a: " + "9" * 5000, "recipes/x.yaml:1: a: "),
        ("a: 1\n---\nb: 2\n", "recipes/x.yaml:2:"),
        ("a: \x07\n", "recipes/x.yaml:1:"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
        ("a: " + "[" * 5000, "nested deeper"),
        ("a: [" + "1," * 60_000 + "]", "more than 50000 values"),
        ("a: '" + "x" * (1 << 20) + "'", "larger than"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path, "recipes/x.yaml")
    assert expected in str(caught.value)


def test_yaml_that_is_no_utf8(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RecipeError, match=r"x\.yaml:2: not UTF-8"):
        read_yaml(path, "x.yaml")


def test_missing_fragment_names_the_line_and_what_there_is(make):
    with pytest.raises(RecipeError) as caught:
        make(HEAD + "include:\n  - common/nope\n", **{"common/yes.yaml": "{}"})
    assert str(caught.value).startswith("recipes/img/recipe.yaml:8: include[0]: there is no fragment")
    assert "common/yes" in caught.value.hint


def test_include_loop_shows_the_way_round(make):
    text = problems(
        make,
        HEAD + "include: [common/a]\n",
        **{"common/a.yaml": "include: [common/b]\n", "common/b.yaml": "include: [common/a]\n"},
    )
    assert "recipes/common/b.yaml:1: include[0]: includes itself" in text
    assert "recipes/common/a.yaml -> recipes/common/b.yaml -> recipes/common/a.yaml" in text


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "common/../../x", "''"])
def test_include_outside_the_recipes_is_refused(make, name):
    assert "include[0]: expected the name of a fragment" in problems(make, HEAD + f"include: [{name}]\n")


def test_contradictions_name_both_places(make):
    text = problems(
        make,
        HEAD + "include: [common/a]\nroot:\n  links: {/a: b}\n  users: [{name: x, uid: 5}]\n",
        **{"common/a.yaml": "kernel: {package: linux-image-amd64}\nroot:\n  links: {/a: c}\n"
           "  users: [{name: x, uid: 6}]\n"},
    )  # fmt: skip
    assert (
        "recipes/img/recipe.yaml:6: kernel.package: 'linux-image-cloud-amd64' contradicts 'linux-image-amd64' "
        "in recipes/common/a.yaml:1: kernel.package" in text
    )
    assert (
        "recipes/img/recipe.yaml:9: root.links./a" in text
        and "recipes/common/a.yaml:3: root.links./a" in text
    )
    assert "recipes/img/recipe.yaml:10: root.users[0]: x is also in recipes/common/a.yaml:4" in text


def test_two_users_with_one_id_name_both_places(make):
    text = problems(
        make,
        HEAD + "include: [common/a]\nroot: {users: [{name: x, uid: 5}]}\n",
        **{"common/a.yaml": "root: {users: [{name: y, uid: 5}]}\n"},
    )
    assert (
        text
        == "recipes/img/recipe.yaml:8: root.users[0]: the id 5 is taken in recipes/common/a.yaml:1: root.users[0]"
    )


def test_files_are_found_beside_their_yaml(make):
    recipe = make(
        HEAD + "include: [common/net]\nroot: {files: [{path: /b, source: b.conf, mode: '0600'}]}\n",
        **{
            "img/files/b.conf": "of the image",
            "common/net.yaml": "root: {files: [{path: /a, source: sub/a.conf}]}\n",
            "common/net/sub/a.conf": "of the fragment",
        },
    )
    assert [(file.path, file.content, file.mode, file.origin) for file in recipe.files["root"]] == [
        ("/a", b"of the fragment", 0o644, "recipes/common/net/sub/a.conf"),
        ("/b", b"of the image", 0o600, "recipes/img/files/b.conf"),
    ]


@pytest.mark.parametrize("source", ["../recipe.yaml", "/etc/passwd", "a/../../recipe.yaml", "absent", "dir"])
def test_unsafe_or_absent_sources(make, source):
    text = problems(
        make, HEAD + f"root:\n  files:\n    - {{path: /x, source: {source}}}\n", **{"img/files/dir/x": ""}
    )
    assert text.startswith(f"recipes/img/recipe.yaml:9: root.files[0]: source '{source}'")


def test_source_through_a_symbolic_link_is_refused(make, tmp_path):
    (tmp_path / "recipes/img/files").mkdir(parents=True)
    (tmp_path / "recipes/img/files/l").symlink_to("/etc")
    text = problems(make, HEAD + "root: {files: [{path: /x, source: l/hostname}]}\n")
    assert "goes through a symbolic link" in text


@pytest.mark.parametrize("fields", ["", "source: a, content: b, "])
def test_a_file_has_one_content(make, fields):
    text = problems(make, HEAD + f"root: {{files: [{{{fields}path: /x}}]}}\n", **{"img/files/a": ""})
    assert "expected either source or content" in text


def template(text):
    return {"img/files/t": text}


TEMPLATE = HEAD + "variables: {port: 80}\nroot: {files: [{path: /x, source: t, template: true}]}\n"


def test_templates_see_the_command_line(make):
    """As the UKI will carry it, without the root hash, which is not known before the files are."""
    recipe = make(TEMPLATE + "command_line: [last]\n", **template("{{ command_line }}\n"))
    assert recipe.files["root"][0].content == b"ro last\n"
    assert "command_line" not in recipe.variables
    taken = HEAD + "variables: {command_line: x}\n"
    assert "this name is the image's own" in problems(make, taken)


def test_templates_see_the_variables(make):
    recipe = make(TEMPLATE, **template("{{ name }} {{ version }} {{ svn }} {{ port }}\n"))
    assert recipe.files["root"][0].content == b"img 1.2 3 80\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n{{ prot }}\n", "recipes/img/files/t:2: template: 'prot' is undefined"),
        ("a\n\n{% if %}\n", "recipes/img/files/t:3:"),
        ("{{ ''.__class__.__mro__ }}", "recipes/img/files/t:1: template:"),
        ("{{ 'a' * 99999999999 }}", "recipes/img/files/t:1: template: * is not allowed"),
        ("{{ 9 ** 9 ** 9 }}", "recipes/img/files/t:1: template: ** is not allowed"),
        ("{{ 1 / 0 }}", "recipes/img/files/t:1: template:"),
        ("{% for x in range(10) %}{% endfor %}", "recipes/img/files/t:1: template:"),
        ("{% include '/etc/passwd' %}", "recipes/img/files/t:1: template:"),
    ],
)
def test_bad_templates(make, text, expected):
    assert expected in problems(make, TEMPLATE, **template(text))


def test_a_variable_may_not_hide_the_images_own(make):
    assert "variables.name: this name is the image's own" in problems(make, HEAD + "variables: {name: x}\n")


def test_digest_follows_content_and_not_layout(make):
    body = "root: {files: [{path: /x, source: t}], packages: [a1]}\n"
    first = make(HEAD + body, **template("1"))
    same = make("# a comment\n" + HEAD + "\n" + body, **template("1"))
    content = make(HEAD + body, **template("2"))
    packages = make(HEAD + body.replace("a1", "a2"), **template("1"))
    assert first.digest == same.digest
    assert len({first.digest, content.digest, packages.digest}) == 3
    assert first.resolution_digest == same.resolution_digest == content.resolution_digest
    assert packages.resolution_digest != first.resolution_digest


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ("root: {packages: [a1], drop: {dpkg: another reason}}\n", False),
        ("root: {packages: [a1], drop: {perl: not needed here}}\n", True),
        ("toolbox: {packages: [mtools]}\nroot: {packages: [a1], drop: {dpkg: not needed here}}\n", True),
        ("root: {packages: [a1], drop: {dpkg: not needed here}, links: {/a: b}}\n", False),
        ("command_line: [quiet]\nroot: {packages: [a1], drop: {dpkg: not needed here}}\n", False),
    ],
)
def test_what_stales_a_lock(make, change, moves):
    before = make(HEAD + "root: {packages: [a1], drop: {dpkg: not needed here}}\n")
    assert (make(HEAD + change).resolution_digest != before.resolution_digest) is moves


def test_platforms_name_known_firmware(make):
    text = problems(
        make,
        HEAD
        + "platforms:\n  - {name: qemu-vtpm, machine: pc-q35-10.0, firmware: [nope], memory_mib: [64], vcpus: [1]}\n",
    )
    assert "recipes/img/recipe.yaml:8: platforms[0].firmware[0]: there is no firmware 'nope'" in text
    text = problems(
        make,
        HEAD
        + "platforms:\n  - {name: qemu-vtpm, machine: pc-q35-10.0, firmware: [], secure_boot: [nope], "
        + "memory_mib: [64], vcpus: [1]}\n",
    )
    assert "platforms[0].secure_boot[0]: there is no firmware 'nope'" in text


def test_distribution_and_kernel_are_needed(make):
    text = problems(make, "name: img\nversion: '1'\nsvn: 1\nsummary: x\n")
    assert "distribution: neither the recipe nor a fragment says it" in text and "kernel:" in text


def test_recipes_are_found_by_name_and_path(make, tmp_path):
    make(HEAD)
    inside = tmp_path / "recipes" / "img"
    for name, base in (
        ("img", tmp_path),
        ("img", inside),
        ("recipes/img", tmp_path),
        (str(inside), Path("/")),
    ):
        assert find_recipe(name, base=base) == inside / "recipe.yaml"
    with pytest.raises(UsageError) as caught:
        find_recipe("nope", base=tmp_path)
    assert caught.value.hint == "recipes here: img"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(RecipeError):
        read_yaml(path, "fuzz.yaml")


SAMPLE = yaml.safe_load(HEAD) | {"root": {"packages": ["a1"], "units": {"enable": ["a.service"]}}}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SAMPLE)), JUNK)
def test_any_value_in_any_place_is_taken_or_refused(tmp_path_factory, key, junk):
    folder = tmp_path_factory.getbasetemp() / "recipes" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(SAMPLE | {key: junk}))
    with contextlib.suppress(RecipeError):
        assert len(load_recipe(path).digest) == 64


def test_committed_schema_is_current_and_valid():
    jsonschema.Draft202012Validator.check_schema(recipe_schema())
    assert (ROOT / "recipes/recipe.schema.json").read_text(encoding="utf-8") == recipe_schema_text(), (
        "run: goldsmith schema"
    )


def test_schema_and_loader_agree_on_committed_recipes():
    validator = jsonschema.Draft202012Validator(recipe_schema())
    recipes = sorted((ROOT / "recipes").glob("*/*.yaml"))
    assert recipes
    for path in recipes:
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in (ROOT / "recipes").glob("*/recipe.yaml"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        (
            "platforms:\n  - {name: qemu-vtpm, machine: pc-q35-10.0, firmware: [one], memory_mib: [64], vcpus: [1]}\n",
            "one is not of the kind that platforms start from: two files, code and variables",
        ),
        (
            "sev_snp:\n  - {name: qemu-snp, firmware: [two], vcpus: [1]}\n",
            "two is not of the kind that sev_snp start from: one file",
        ),
        (
            "tdx:\n  - {name: qemu-tdx, firmware: [none], memory_mib: [64], vcpus: [1]}\n",
            "there is no firmware 'none'; known: one, two",
        ),
    ],
)
def test_platforms_start_from_firmware_of_their_kind(make, platforms, message):
    builds = (
        "firmware:\n"
        "  - {name: one, suite: forky, packages: [ovmf-amdsev], code: /OVMF.amdsev.fd}\n"
        "  - {name: two, suite: trixie, packages: [ovmf], code: /CODE.fd, variables: /VARS.fd}\n"
    )
    assert message in problems(make, HEAD + builds + platforms)
