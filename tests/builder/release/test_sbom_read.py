"""Reading an SBOM back: what was written, and what strangers write."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbom_samples import KERNEL, LIBC, MOUNT, inventory, trees

from builder.release.sbom import read
from builder.release.sbom.cyclonedx import to_cyclonedx
from builder.release.sbom.inventory import purl
from builder.release.sbom.read import read_contents
from measurements.errors import FormatError, LimitError, MeasurementError

RAW = to_cyclonedx(inventory(), producer="1")
VALUE = json.loads(RAW)


def changed(change) -> bytes:
    value = copy.deepcopy(VALUE)
    change(value)
    return json.dumps(value).encode()


def test_what_was_written_is_read():
    contents = read_contents(RAW)
    assert (contents.name, contents.version) == ("small", "1.0")
    assert list(contents.trees) == ["root", "initrd", "uki"]
    for name, tree in trees().items():
        assert [(path, place.kind, place.target) for path, place in contents.trees[name].items()] == [
            (path, node.kind, node.target) for path, node in tree.items()
        ]
    mount = contents.sources[contents.trees["root"]["/usr/bin/mount"].origin]
    assert (mount.name, mount.version, mount.sha256) == ("mount", MOUNT.version, MOUNT.sha256)
    assert mount.archive == MOUNT.path and mount.source == f"util-linux {MOUNT.version}"


def test_the_shortest_way_from_the_recipe_to_a_package():
    contents = read_contents(RAW)
    mount, libc, kernel = (purl(item, "trixie") for item in (MOUNT, LIBC, KERNEL))
    assert contents.chain("root", libc) == (mount, libc)
    assert contents.chain("initrd", libc) == (libc,)
    assert contents.chain("root", kernel) == (kernel,)
    assert contents.chain("initrd", mount) == ()


def test_packages_that_need_each_other_end_the_search():
    def change(value):
        for item in value["dependencies"]:
            item["dependsOn"] = [other["ref"] for other in value["dependencies"]]

    contents = read_contents(changed(change))
    assert contents.chain("root", "no such package") == ()
    assert len(contents.chain("root", purl(LIBC, "trixie"))) == 1


@pytest.mark.parametrize(
    "path, leads",
    [
        ("/lib/libc.so.6", "/usr/lib/libc.so.6"),
        ("/usr/bin/größe", "/usr/bin/mount"),
        ("/lib/../bin/./mount", "/usr/bin/mount"),
        ("/../usr/bin/mount", "/usr/bin/mount"),
        ("/usr/bin/none", None),
        ("/", "/"),
    ],
)
def test_links_are_followed_inside_the_tree(path, leads):
    assert read_contents(RAW).resolve("root", path) == leads


def add(value, path, **properties):
    value["components"][0]["components"].append(
        {
            "type": "file", "bom-ref": f"root:{path}", "name": path,
            "properties": [{"name": "goldsmith:origin", "value": "recipe"}]
            + [{"name": f"goldsmith:{name}", "value": text} for name, text in properties.items()],
        }
    )  # fmt: skip


def test_links_that_lead_in_a_circle_lead_nowhere():
    def change(value):
        add(value, "/a", kind="symlink", target="/b")
        add(value, "/b", kind="symlink", target="a")
        add(value, "/many", kind="symlink", target="many/" * 800)

    contents = read_contents(changed(change))
    assert contents.resolve("root", "/a") is None
    assert contents.resolve("root", "/many") is None


def file_of(value):
    return next(item for item in value["components"][0]["components"] if "hashes" in item)


def rename(value, name, replacement):
    for item in file_of(value)["properties"]:
        if item["name"] == name:
            item.update(replacement)


HOSTILE = {
    "another format": (lambda value: value.update(bomFormat="SPDX"), "expected CycloneDX"),
    "another version": (lambda value: value.update(specVersion="1.7"), "expected CycloneDX 1.6"),
    "no components": (lambda value: value.pop("components"), "'components' is missing"),
    "components of another type": (lambda value: value.update(components={}), "expected an array"),
    "a path twice": (
        lambda value: value["components"][0]["components"].append(value["components"][0]["components"][0]),
        "twice",
    ),
    "a relative path": (lambda value: file_of(value).update(name="etc/passwd"), "relative"),
    "a component twice": (
        lambda value: value["components"].append(value["components"][-1]),
        "two components",
    ),
    "an origin that is not there": (
        lambda value: rename(value, "goldsmith:origin", {"value": "pkg:deb/debian/none@1"}),
        "which is no component",
    ),
    "no origin": (
        lambda value: rename(value, "goldsmith:origin", {"name": "x"}),
        "no property goldsmith:origin",
    ),
    "two origins": (
        lambda value: rename(value, "goldsmith:size", {"name": "goldsmith:origin"}),
        "two properties",
    ),
    "another kind": (
        lambda value: file_of(value)["properties"].append({"name": "goldsmith:kind", "value": "door"}),
        "kind 'door'",
    ),
    "a negative size": (lambda value: rename(value, "goldsmith:size", {"value": "-1"}), "size '-1'"),
    "a size of other digits": (
        lambda value: rename(value, "goldsmith:size", {"value": "\u0661"}),
        "with size",
    ),
    "a long size": (lambda value: rename(value, "goldsmith:size", {"value": "9" * 5000}), "more|characters"),
    "no digest": (lambda value: file_of(value).update(hashes=[]), "no SHA-256"),
    "a short digest": (lambda value: file_of(value)["hashes"][0].update(content="00"), "content"),
    "a path of a megabyte": (lambda value: file_of(value).update(name="/" + "x" * 2**20), "at most 4096"),
    "needs what is no text": (lambda value: value["dependencies"][0].update(dependsOn=[1]), "no text"),
}


@pytest.mark.parametrize("change, message", HOSTILE.values(), ids=HOSTILE)
def test_hostile_documents_are_refused(change, message):
    with pytest.raises((FormatError, LimitError), match=message):
        read_contents(changed(change))


def test_documents_beyond_the_limits_are_refused(monkeypatch):
    monkeypatch.setattr(read, "MAX_DOCUMENT", 100)
    with pytest.raises(LimitError, match="at most 100"):
        read_contents(RAW)
    monkeypatch.undo()
    monkeypatch.setattr(read, "MAX_PATHS", 3)
    with pytest.raises(LimitError, match="expected 0 to 3"):
        read_contents(RAW)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.integers(0, len(RAW)), st.integers(0, 64), st.booleans())
def test_mutated_documents_are_read_or_refused(junk, at, cut, truncate):
    with suppress(MeasurementError):
        read_contents(RAW[:at] if truncate else RAW[:at] + junk + RAW[at + cut :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_documents_with_other_values_are_read_or_refused(data):
    value = copy.deepcopy(VALUE)
    at = value
    for _ in range(data.draw(st.integers(0, 6))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key]:
            break
        at = at[key]
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    at[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    with suppress(MeasurementError):
        read_contents(json.dumps(value).encode())
