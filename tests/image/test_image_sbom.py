"""The SBOM of the base image against the image itself: trees read back from the bytes that boot."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.lockfile import read_lock
from builder.release.sbom.read import Contents, read_contents
from measurements.formats import pe

pytestmark = pytest.mark.integration

trees = pytest.mark.parametrize("tree", ["root", "initrd"])


@pytest.fixture(scope="module")
def contents(image) -> Contents:
    return read_contents((image.release / "sbom.cdx.json").read_bytes())


@pytest.fixture(scope="module")
def spdx(image) -> dict:
    return json.loads((image.release / "sbom.spdx.json").read_bytes())


def files(folder: Path) -> dict[str, bytes]:
    """Return what an unpacked tree holds: path -> content of every regular file."""
    return {
        f"/{path.relative_to(folder)}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_both_documents_are_valid(image):
    document = parse_file(str(image.release / "sbom.spdx.json"))
    assert validate_full_spdx_document(document) == []
    text = (image.release / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


@trees
def test_every_path_of_the_image_is_in_it_and_nothing_else(image, contents, tree):
    folder = image.tree(tree)
    places = contents.trees[tree]
    found = {"/", *(f"/{path.relative_to(folder)}" for path in folder.rglob("*"))}
    # The extraction runs without privileges, and makes no device nodes.
    devices = {path for path, place in places.items() if place.kind == "character-device"}
    assert found - devices == set(places) - devices
    for path, content in files(folder).items():
        assert (places[path].size, places[path].sha256) == (len(content), hashlib.sha256(content).hexdigest())
    for path in found:
        place, node = places[path], folder / path[1:]
        assert (place.kind == "symlink") == node.is_symlink(), path
        assert not node.is_symlink() or place.target == str(node.readlink())
        assert (place.kind == "directory") == (node.is_dir() and not node.is_symlink()), path


def test_every_file_of_the_image_is_in_spdx_exactly_once(image, spdx):
    listed = Counter(
        (item["fileName"], *(entry["checksumValue"] for entry in item["checksums"])) for item in spdx["files"]
    )
    wanted = Counter(
        (f".{path}", hashlib.sha1(content).hexdigest(), hashlib.sha256(content).hexdigest())
        for tree in ("root", "initrd")
        for path, content in files(image.tree(tree)).items()
    )
    extra = listed - wanted
    assert wanted - listed == Counter() and extra.total() == 2
    # What became sections of the UKI: the kernel, found there by a parser that shares nothing with ukify; the stub.
    uki = (image.release / "uki.efi").read_bytes()
    (linux,) = [section for section in pe.parse(uki).sections if section.name == ".linux"]
    kernel = uki[linux.raw_offset : linux.raw_offset + linux.virtual_size]
    by_name = {name.rpartition("/")[2].partition("-")[0]: sha256 for name, _, sha256 in extra}
    assert by_name["vmlinuz"] == hashlib.sha256(kernel).hexdigest()
    stub = image.tools.path("usr/lib/systemd/boot/efi/linuxx64.efi.stub").read_bytes()
    assert by_name["linuxx64.efi.stub"] == hashlib.sha256(stub).hexdigest()


def test_every_locked_package_is_in_both(image, contents, spdx):
    lock = read_lock(image.release / "lock.json", recipe="base")
    archives = {
        (archive.name, archive.version, archive.sha256)
        for name in ("root", "initrd", "kernel")
        for archive in lock.members(name)
    }
    listed = {(item.name, item.version, item.sha256) for item in contents.sources.values() if item.purl}
    assert {item for item in listed if item[0] != "systemd-boot-efi"} == archives
    told = {
        (item["name"], item["versionInfo"], *(entry["checksumValue"] for entry in item["checksums"]))
        for item in spdx["packages"]
        if item.get("supplier") == "Organization: Debian"
    }
    tools = {(item.name, item.version, item.sha256) for item in lock.members("toolbox")}
    assert told == archives | tools


@trees
def test_every_package_of_a_tree_is_there_for_a_reason(contents, tree):
    origins = {place.origin for place in contents.trees[tree].values()}
    for ref in origins:
        if contents.sources[ref].purl:
            assert contents.chain(tree, ref), (
                f"{ref} is neither listed by the recipe nor needed by what it lists"
            )


def test_the_signed_document_lists_both(image):
    outputs = {
        item["name"]: item["sha256"]
        for item in json.loads((image.release / "golden.json").read_bytes())["outputs"]
    }
    for name in ("sbom.spdx.json", "sbom.cdx.json"):
        assert outputs[name] == hashlib.sha256((image.release / name).read_bytes()).hexdigest()
    metadata = json.loads((image.release / "sbom.cdx.json").read_bytes())["metadata"]["component"]
    assert metadata["hashes"] == [{"alg": "SHA-256", "content": outputs["disk.raw"]}]
    root_hash = {item["name"]: item["value"] for item in metadata["properties"]}["goldsmith:verity-root-hash"]
    uki = (image.release / "uki.efi").read_bytes()
    (section,) = [section for section in pe.parse(uki).sections if section.name == ".cmdline"]
    command_line = uki[section.raw_offset : section.raw_offset + section.virtual_size].decode()
    assert f"roothash={root_hash}" in command_line.split()
