"""goldsmith why: packages, recipe files, steps, links, patterns, names that are not there, documents from strangers."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from attester import document
from test_cli_verbs import run_as_verifier

from builder.cli import run
from builder.cli.arguments import DEFAULT_RELEASE
from builder.release.sbom.write import write_sboms
from measurements import golden

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))

from sbom_samples import LIBC, MOUNT, inventory, signature


@pytest.fixture(autouse=True)
def release(tmp_path) -> Path:
    folder = tmp_path / DEFAULT_RELEASE
    folder.mkdir(parents=True)
    write_sboms(inventory(), folder)
    return folder


def why(capfd, *arguments: str, code: int = 0) -> str:
    assert run(["why", *arguments]) == code
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    return told.out if code == 0 else told.err


def answer(capfd, *arguments: str, code: int = 0):
    assert run(["why", *arguments, "--json"]) == code
    return json.loads(capfd.readouterr().out)


def test_a_package_is_named_with_its_archive_and_the_reason(capfd):
    told = why(capfd, "/usr/bin/mount")
    assert told.startswith("root: /usr/bin/mount\n") and "initrd" not in told
    assert f"package mount {MOUNT.version} (source util-linux" in told
    assert MOUNT.path in told and MOUNT.sha256 in told
    assert "because the recipe lists mount\n" in told
    told = why(capfd, "/usr/lib/libc.so.6")
    assert told.count(f"package libc6 {LIBC.version}") == 2
    assert "because the recipe lists mount, which needs libc6\n" in told, "in the root"
    assert "because the recipe lists libc6\n" in told, "in the initrd"


def test_recipe_files_declarations_and_steps_are_named(capfd):
    assert "from recipe file recipes/small/files/os-release" in why(capfd, "/etc/os-release")
    assert "from recipe of small" in why(capfd, "/dev/null")
    assert "from build step: users and groups of the recipe" in why(capfd, "/etc/passwd")


def test_links_are_told_and_followed(capfd):
    told = why(capfd, "/usr/bin/größe")
    assert "link to mount" in told and "/usr/bin/mount (where /usr/bin/größe leads)" in told
    assert "root: /usr/lib/libc.so.6 (where lib/libc.so.6 leads)" in why(capfd, "lib/libc.so.6")


def test_a_directory_that_several_ship_says_so(capfd):
    assert "the first of those that ship this directory" in why(capfd, "/usr/bin/")


def test_patterns_give_a_table(capfd):
    told = why(capfd, "/usr/lib/*")
    assert [line.split()[:2] for line in told.splitlines()[2:]] == [
        ["root", "/usr/lib/empty"],
        ["root", "/usr/lib/libc.so.6"],
        ["initrd", "/usr/lib/libc.so.6"],
        ["uki", "/usr/lib/stub"],
    ]
    found = {(item["tree"], item["path"]) for item in answer(capfd, "/**/*.ko")["paths"]}
    assert found == {("root", "/usr/lib/modules/x.ko"), ("initrd", "/usr/lib/modules/x.ko")}


def test_json_has_one_object_a_path(capfd):
    value = answer(capfd, "/usr/bin/mount", "/usr/bin/größe")
    assert value["image"] == {"name": "small", "version": "1.0"} and value["unknown"] == []
    mount, link, behind = value["paths"]
    assert mount["origin"].pop("purl").startswith("pkg:deb/debian/mount@")
    # printf program | sha256sum
    assert mount == behind | {"origin": mount["origin"]} == {
        "tree": "root", "path": "/usr/bin/mount", "kind": "file", "size": 7,
        "sha256": "1310ca2c8932dbd118668bd97442558a3e1f546b5e15c69699dfbd6024f548d8",
        "origin": {"kind": "package", "name": "mount", "version": MOUNT.version, "archive": MOUNT.path,
                   "sha256": MOUNT.sha256, "source": f"util-linux {MOUNT.version}", "chain": ["mount"]},
    }  # fmt: skip
    assert (link["kind"], link["target"]) == ("symlink", "mount")
    assert link["origin"] == {"kind": "declaration", "name": "recipe of small"}


def test_a_signed_module_is_told_with_its_parts(capfd, release):
    write_sboms(inventory(signatures=signature()), release)
    told = why(capfd, "/usr/lib/modules/x.ko")
    assert f"x.ko, sha256 {'a' * 64}, with the signature\n" in told
    assert f"x.ko.p7s, sha256 {'b' * 64}, of CN=Somebody\n" in told
    places = answer(capfd, "/usr/lib/modules/x.ko", "/usr/bin/mount")["paths"]
    assert [place.get("signature") for place in places] == [
        {"unsigned": "x.ko", "unsigned_sha256": "a" * 64, "file": "x.ko.p7s", "sha256": "b" * 64,
         "signer": "CN=Somebody"},
    ] * 2 + [None]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [("b" * 64, "b" * 63), ('"CN=Somebody"', '""')])
def test_half_a_signature_is_an_error(capfd, release, old, new):
    write_sboms(inventory(signatures=signature()), release)
    path = release / "sbom.cdx.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert "a signature without" in why(capfd, "/usr/lib/modules/x.ko", code=3)


def test_an_unknown_path_gets_the_nearest_names(capfd):
    told = why(capfd, "/usr/bin/mont", code=2)
    assert "/usr/bin/mont: not in small 1.0" in told and "try: /usr/bin/mount" in told
    told = why(capfd, "/opt/libc.so.6", code=2)
    assert "try: /usr/lib/libc.so.6" in told, "the same name elsewhere comes first"
    assert "try: goldsmith why '/**'" in why(capfd, "/*.qqqq", code=2)
    value = answer(capfd, "/etc/passwd", "/usr/bin/mont", code=2)
    assert [item["path"] for item in value["paths"]] == ["/etc/passwd"]
    assert value["unknown"][0]["path"] == "/usr/bin/mont"
    assert value["unknown"][0]["nearest"][0] == "/usr/bin/mount"


def test_what_is_known_is_told_beside_what_is_not(capfd):
    assert run(["why", "/etc/passwd", "/none"]) == 2
    told = capfd.readouterr()
    assert "build step" in told.out and "/none: not in small 1.0" in told.err


def test_a_folder_that_is_no_release(capfd, tmp_path):
    assert "cannot read" in why(capfd, "/x", "--release", str(tmp_path), code=2)


def test_an_sbom_that_the_golden_document_does_not_list_is_refused(capfd, release):
    path = release / "sbom.cdx.json"
    output = golden.Output(
        name=path.name, size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    (release / "golden.json").write_bytes(golden.to_pretty(replace(document(), outputs=(output,))))
    assert "package mount" in why(capfd, "/usr/bin/mount")
    path.write_bytes(path.read_bytes().replace(b"util-linux", b"until-linux"))
    told = why(capfd, "/usr/bin/mount", code=3)
    assert output.sha256 in told and "somebody changed one of them" in told
    (release / "golden.json").write_bytes(b"{}")
    assert "golden.json" in why(capfd, "/usr/bin/mount", code=3)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b'{"bomFormat": 1}', b"\xff"])
def test_hostile_documents_are_an_error_and_no_traceback(capfd, release, raw):
    (release / "sbom.cdx.json").write_bytes(raw)
    told = why(capfd, "/etc/passwd", code=3)
    assert "sbom.cdx.json" in told and "try: goldsmith build" in told


def test_control_characters_of_a_document_reach_no_terminal(capfd, release):
    path = release / "sbom.cdx.json"
    path.write_text(path.read_text().replace('"value":"mount"', '"value":"\\u001b[31m\\u009b\\u202e"'))
    told = why(capfd, "/usr/bin/größe")
    assert "\\x1b[31m" in told and not {"\x1b", "\x9b", "\u202e"} & set(told)


def test_it_runs_on_the_base_dependencies(release):
    done = run_as_verifier("why", "/usr/bin/mount", "--release", str(release))
    assert (done.returncode, done.stderr) == (0, "") and "package mount" in done.stdout
