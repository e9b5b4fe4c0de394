"""The verbs lock, fetch, vault and schema as a user runs them, without a network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from deb_samples import deb_of
from test_lockfile import GOOD, raw

from builder.artifacts import Archive
from builder.cli import run
from builder.lockfile import parse_lock, write_lock
from builder.recipe import load_recipe

RECIPE = """\
name: img
version: "1"
svn: 1
summary: x
distribution: {suite: trixie}
kernel: {package: linux-image-cloud-amd64}
root: {packages: [sample]}
"""
DEB = deb_of([("./usr/bin/x", b"x")])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with one recipe, its lock, a vault that holds its archive, and an unreachable mirror."""
    path = tmp_path / "recipes/img/recipe.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    archive = Archive(
        name="sample",
        version="1.0-1",
        architecture="amd64",
        path="pool/main/s/sample_1.0-1_amd64.deb",
        pocket="trixie",
        size=len(DEB),
        sha256=hashlib.sha256(DEB).hexdigest(),
    )
    lock = replace(
        parse_lock(raw(GOOD)),
        recipe="img",
        resolution=recipe.resolution_digest,
        archives=(archive,),
        sets={"root": ("sample=1.0-1",)},
    )
    write_lock(lock, recipe.lock_path)
    held = tmp_path / "vault/sha256" / archive.sha256
    held.parent.mkdir(parents=True)
    held.write_bytes(DEB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLDSMITH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("GOLDSMITH_VAULT", str(tmp_path / "vault"))
    monkeypatch.setenv("GOLDSMITH_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.delenv("GOLDSMITH_SNAPSHOT", raising=False)
    return tmp_path


def test_check_says_whether_recipe_and_lock_agree(checkout, capfd):
    assert run(["lock", "img", "--check"]) == 0
    assert "recipe and lock agree" in capfd.readouterr().out
    assert run(["lock", "img", "--check", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["fresh"] is True
    (checkout / "recipes/img/recipe.yaml").write_text(RECIPE.replace("[sample]", "[sample, more]"))
    before = (checkout / "recipes/img/lock.json").read_bytes()
    assert run(["lock", "img", "--check"]) == 3
    message = capfd.readouterr().err
    assert "is stale" in message and "goldsmith lock img" in message
    assert (checkout / "recipes/img/lock.json").read_bytes() == before


def test_fetch_from_a_vault(checkout, capfd):
    assert run(["fetch", "img", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["fetched"] == 1
    assert run(["fetch", "img", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["fetched"] == 0


def test_vault_verb_fills_another(checkout, capfd):
    assert run(["vault", "other", "img"]) == 0
    assert (checkout / "other/index").read_text().endswith("  pool/main/s/sample_1.0-1_amd64.deb\n")


def test_corrupt_lock_and_bad_recipe_have_their_codes(checkout, capfd):
    (checkout / "recipes/img/lock.json").write_text("{")
    assert run(["fetch", "img"]) == 3
    assert "goldsmith lock img" in capfd.readouterr().err
    (checkout / "recipes/img/recipe.yaml").write_text("nme: x\n")
    assert run(["fetch", "img"]) == 2
    assert "recipes/img/recipe.yaml:1: nme: unknown key" in capfd.readouterr().err
    assert run(["fetch", "nothing"]) == 2
    assert "recipes here: img" in capfd.readouterr().err


def test_schema_is_written_where_editors_look(checkout, capfd):
    assert run(["schema"]) == 0
    assert "Fragment" in (checkout / "recipes/recipe.schema.json").read_text()
