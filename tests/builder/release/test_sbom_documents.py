"""SPDX and CycloneDX documents: valid to their own validators, complete, reproducible, honest about the rest."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from sbom_samples import KERNEL, LIBC, LOCK, MOUNT, STUB, inventory, signature, trees
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.spdx_element_utils import calculate_package_verification_code
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.errors import ImageError
from builder.release.sbom.cyclonedx import to_cyclonedx
from builder.release.sbom.facts import dependencies
from builder.release.sbom.inventory import purl
from builder.release.sbom.rebind import IDENTITIES, rebind
from builder.release.sbom.spdx import to_spdx
from builder.release.sbom.write import write_sboms

WRITERS = [to_spdx, to_cyclonedx]


def spdx(taken=None):
    return json.loads(to_spdx(taken or inventory(), producer="0.1.0"))


def cyclonedx(taken=None):
    return json.loads(to_cyclonedx(taken or inventory(), producer="0.1.0"))


def spdx_problems(value) -> list[str]:
    parsed = JsonLikeDictParser().parse(value)
    return [message.validation_message for message in validate_full_spdx_document(parsed, "SPDX-2.3")]


def cyclonedx_problem(value) -> object | None:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value))


def test_the_validators_accept_both():
    assert spdx_problems(spdx()) == []
    assert cyclonedx_problem(cyclonedx()) is None


def test_the_validators_refuse_what_is_wrong():
    broken = spdx()
    broken["files"][0]["checksums"] = [{"algorithm": "SHA256", "checksumValue": "0" * 64}]
    assert any("SHA1" in problem for problem in spdx_problems(broken))
    broken = spdx()
    broken["relationships"].append(
        {
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": "SPDXRef-none",
        }
    )
    assert any("SPDXRef-none" in problem for problem in spdx_problems(broken))
    broken = cyclonedx()
    broken["components"][0]["colour"] = "green"
    assert cyclonedx_problem(broken) is not None


# every path, once, with its digest and its origin


def test_every_path_stands_once_in_cyclonedx():
    for name, tree in trees().items():
        (component,) = [item for item in cyclonedx()["components"] if item["bom-ref"] == name]
        listed = [item["name"] for item in component["components"]]
        assert listed == [path for path, _ in tree.items()]
        for item in component["components"]:
            node = tree[item["name"]]
            properties = {entry["name"]: entry["value"] for entry in item["properties"]}
            if node.kind == "file":
                assert item["hashes"] == [
                    {"alg": "SHA-256", "content": hashlib.sha256(node.content).hexdigest()}
                ]
                assert int(properties["goldsmith:size"]) == len(node.content)
            else:
                assert properties["goldsmith:kind"] == node.kind and "hashes" not in item
            assert properties.get("goldsmith:target", "") == node.target


def test_every_file_stands_once_in_spdx():
    value = spdx()
    (image,) = [item["relatedSpdxElement"] for item in related(value, "SPDXRef-DOCUMENT", "DESCRIBES")]
    places = {item["SPDXID"]: item["name"] for item in value["packages"]}
    held = {
        places[item["relatedSpdxElement"]]: item["relatedSpdxElement"]
        for item in related(value, image, "CONTAINS")
    }
    assert set(held) == {"root file system", "unified kernel image"}
    (initrd,) = [
        item["relatedSpdxElement"]
        for item in related(value, held["unified kernel image"], "CONTAINS")
        if places.get(item["relatedSpdxElement"]) == "initrd"
    ]
    files = {item["SPDXID"]: item for item in value["files"]}
    assert len(files) == len(value["files"])
    for tree, element in (("root", held["root file system"]), ("initrd", initrd)):
        inside = [
            files[item["relatedSpdxElement"]]
            for item in related(value, element, "CONTAINS")
            if item["relatedSpdxElement"] in files
        ]
        wanted = {path: node.content for path, node in trees()[tree].items() if node.kind == "file"}
        assert [item["fileName"] for item in inside] == [f".{path}" for path in wanted]
        for item in inside:
            content = wanted[item["fileName"][1:]]
            assert {entry["algorithm"]: entry["checksumValue"] for entry in item["checksums"]} == {
                "SHA1": hashlib.sha1(content).hexdigest(), "SHA256": hashlib.sha256(content).hexdigest(),
            }  # fmt: skip


def test_a_signed_module_names_its_parts_in_both():
    signed = inventory(signatures=signature())
    value = json.loads(to_spdx(signed, producer="0"))
    comments = [item["comment"] for item in value["files"] if item["fileName"].endswith("x.ko")]
    assert len(comments) == 2
    for comment in comments:
        for part in ("x.ko (SHA-256 " + "a" * 64, "x.ko.p7s (SHA-256 " + "b" * 64, "of CN=Somebody"):
            assert part in comment
    value = json.loads(to_cyclonedx(signed, producer="0"))
    root = next(item for item in value["components"] if item["bom-ref"] == "root")
    (module,) = [item for item in root["components"] if item["name"].endswith("x.ko")]
    properties = {entry["name"]: entry["value"] for entry in module["properties"]}
    assert properties["goldsmith:signature-sha256"] == "b" * 64
    assert properties["goldsmith:unsigned-sha256"] == "a" * 64
    assert [name for name in json.dumps(value).split('"') if name == "goldsmith:signer"] == [
        "goldsmith:signer"
    ] * 2


def related(value, element: str, kind: str):
    return [
        item
        for item in value["relationships"]
        if item["spdxElementId"] == element and item["relationshipType"] == kind
    ]


def test_verification_codes_are_what_the_spdx_tools_compute():
    value = spdx()
    parsed = JsonLikeDictParser().parse(value)
    files = {file.spdx_id: file for file in parsed.files}
    checked = 0
    for package in parsed.packages:
        if package.verification_code is None:
            continue
        inside = [
            files[item["relatedSpdxElement"]]
            for item in related(value, package.spdx_id, "CONTAINS")
            if item["relatedSpdxElement"] in files
        ]
        assert package.verification_code.value == calculate_package_verification_code(inside).value
        checked += 1
    assert checked == 3


def test_every_origin_is_told():
    value = spdx()
    names = {item["SPDXID"]: item["name"] for item in value["packages"]}
    came = {}
    for item in value["files"]:
        (origin,) = [
            (link["relationshipType"], names[link["relatedSpdxElement"]])
            for link in value["relationships"]
            if link["spdxElementId"] == item["SPDXID"]
        ]
        came.setdefault(item["fileName"], set()).add((*origin, item.get("comment", "")))
    assert came == {
        "./usr/lib/libc.so.6": {("EXPANDED_FROM_ARCHIVE", "libc6", "")},
        "./usr/lib/empty": {("EXPANDED_FROM_ARCHIVE", "libc6", "")},
        "./usr/lib/modules/x.ko": {("EXPANDED_FROM_ARCHIVE", KERNEL.name, "")},
        "./usr/bin/mount": {("EXPANDED_FROM_ARCHIVE", "mount", "")},
        "./etc/os-release": {("GENERATED_FROM", "recipes/small/files/os-release", "")},
        "./etc/passwd": {
            (
                "GENERATED_FROM",
                "recipe of small",
                "written by the build's step: users and groups of the recipe",
            )
        },
        "./boot/vmlinuz-6.12": {("EXPANDED_FROM_ARCHIVE", KERNEL.name, "")},
        "./usr/lib/stub": {("EXPANDED_FROM_ARCHIVE", "systemd-boot-efi", "")},
    }


def test_a_file_of_a_package_that_nobody_locked_stops_the_build():
    with pytest.raises(ImageError, match=r"/usr/bin/mount came from mount 1:2\.41.*no such package"):
        inventory(
            lock=replace(LOCK, archives=(LIBC, KERNEL, STUB), sets={**LOCK.sets, "root": LOCK.sets["initrd"]})
        )


# packages


@pytest.mark.parametrize(
    "name, version", [("libc6", "2.41-12+deb13u4"), ("libstdc++6", "14.2.0-19"), ("mount", "1:2.41~rc1-1+b2")]
)
def test_package_urls_are_what_the_reference_implementation_writes(name, version):
    written = purl(replace(MOUNT, name=name, version=version), "trixie")
    assert written == PackageURL.from_string(written).to_string()
    read = PackageURL.from_string(written)
    assert (read.type, read.namespace, read.name, read.version) == ("deb", "debian", name, version)
    assert read.qualifiers == {"arch": "amd64", "distro": "trixie"}


def test_packages_carry_archive_source_and_licence():
    (mount,) = [item for item in spdx()["packages"] if item["name"] == "mount"]
    assert mount["versionInfo"] == MOUNT.version and mount["packageFileName"] == MOUNT.path
    assert mount["checksums"] == [{"algorithm": "SHA256", "checksumValue": MOUNT.sha256}]
    assert mount["supplier"] == "Organization: Debian"
    assert mount["sourceInfo"] == f"built from the source package util-linux {MOUNT.version}"
    assert mount["licenseDeclared"].startswith("GPL-2.0-or-later AND LicenseRef-Debian-house-rules-")
    assert mount["licenseConcluded"] == "NOASSERTION"
    (libc,) = [item for item in spdx()["packages"] if item["name"] == "libc6"]
    assert libc["sourceInfo"].endswith("glibc 2.41-12"), "the version of the source where it is another"
    assert libc["licenseDeclared"] == "NOASSERTION"
    (stub,) = [item for item in spdx()["packages"] if item["name"] == STUB.name]
    assert stub["sourceInfo"].endswith("source package systemd"), (
        "the pool's folder, where nothing was opened"
    )


def test_a_licence_that_spdx_does_not_list_comes_with_its_text():
    value = spdx()
    (text,) = value["hasExtractedLicensingInfos"]
    assert text["name"] == "house-rules" and text["extractedText"] == "Do as you please.\n\nBut be kind."


def test_build_tools_are_told_apart_from_what_is_inside():
    value = spdx()
    names = {item["SPDXID"]: item["name"] for item in value["packages"]}
    tools = {
        names[item["spdxElementId"]]
        for item in value["relationships"]
        if item["relationshipType"] == "BUILD_TOOL_OF"
    }
    assert tools == {"libc6", "systemd-boot-efi", "zstandard"}
    value = cyclonedx()
    (formula,) = value["formulation"]
    assert {item["name"] for item in formula["components"]} == tools
    assert {item["scope"] for item in formula["components"]} == {"excluded"}
    inside = {item["name"] for item in value["components"] if item["type"] == "library"}
    assert inside == {"libc6", "mount", KERNEL.name, "systemd-boot-efi"}, "the stub's bytes are in the UKI"


def test_the_graph_leads_from_the_image_to_every_package():
    value = cyclonedx()
    graph = {item["ref"]: item.get("dependsOn", []) for item in value["dependencies"]}
    seen, queue = set(), ["image"]
    while queue:
        ref = queue.pop()
        if ref not in seen:
            seen.add(ref)
            queue += graph[ref]
    assert seen == set(graph)
    mount = purl(MOUNT, "trixie")
    assert graph["root"] == sorted([mount, purl(KERNEL, "trixie")])
    assert graph[mount] == [purl(LIBC, "trixie")], (
        "of alternatives what is there; what the recipe drops is not"
    )


def test_virtual_packages_are_those_that_provide_them():
    found = dependencies(
        {
            "aa": {"Pre-Depends": "mail-agent", "Depends": "gone:any (>= 1) | cc [amd64],\n aa"},
            "bb": {"Provides": "mail-agent (= 3), other"},
            "cc": {"Depends": "other", "Suggests": "aa"},
        }
    )
    assert found == {"aa": ("bb", "cc"), "bb": (), "cc": ("bb",)}


# the same image has the same documents


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_inventory_gives_the_same_bytes(write):
    assert write(inventory(), producer="1") == write(inventory(), producer="1")


@pytest.mark.parametrize("write, field", [(to_spdx, "documentNamespace"), (to_cyclonedx, "serialNumber")])
def test_the_name_of_a_document_depends_on_its_content_and_on_nothing_else(write, field):
    def name(producer="1", **changes):
        return uuid.UUID(json.loads(write(inventory(**changes), producer=producer))[field])

    first = name()
    assert (first.version, first.variant) == (8, uuid.RFC_4122)
    names = {first, name(), name("2"), name(os_release=b"ID=other\n"), name(root_hash="a" * 64)}
    assert len(names) == 4


def test_the_order_in_which_packages_come_does_not_matter():
    shuffled = replace(
        LOCK,
        archives=tuple(reversed(LOCK.archives)),
        sets={name: tuple(reversed(members)) for name, members in reversed(LOCK.sets.items())},
    )
    for write in WRITERS:
        assert write(inventory(lock=shuffled), producer="1") == write(inventory(), producer="1")


def test_a_changed_file_is_a_difference_of_few_lines():
    for write, lines in ((to_spdx, 3), (to_cyclonedx, 2)):
        old, new = (
            write(inventory(os_release=content), producer="1").decode().split("\n")
            for content in (b"ID=one\n", b"ID=two\n")
        )
        differing = [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
        assert len(differing) <= lines, differing


def test_documents_are_written_with_no_time_but_the_locks(tmp_path: Path):
    written = write_sboms(inventory(), tmp_path)
    assert [path.name for path in written] == ["sbom.spdx.json", "sbom.cdx.json"]
    # date -u -d @1700000000
    assert json.loads(written[0].read_bytes())["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert json.loads(written[1].read_bytes())["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"


def test_a_tree_without_modules_has_no_kernel():
    changed = trees()
    changed["initrd"].remove("/usr/lib/modules/x.ko")
    graph = {
        item["ref"]: item.get("dependsOn", []) for item in cyclonedx(inventory(trees=changed))["dependencies"]
    }
    kernel = purl(KERNEL, "trixie")
    assert kernel in graph["root"] and kernel in graph["uki"] and kernel not in graph["initrd"]


def test_a_document_follows_the_image_that_was_signed(tmp_path):
    """What is rewritten is what the writers write when they are given the signed files."""
    before = inventory()
    signed = replace(
        before, uki=replace(before.uki, sha256="ab" * 32), disk=replace(before.disk, sha256="cd" * 32)
    )
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    write_sboms(before, old), write_sboms(signed, new)
    digests = {before.uki.sha256: "ab" * 32, before.disk.sha256: "cd" * 32}
    for name in IDENTITIES:
        content = (old / name).read_bytes()
        assert rebind(name, content, {}) == content
        assert rebind(name, content, digests) == (new / name).read_bytes()
        with pytest.raises(ImageError, match="not about this image"):
            rebind(name, content, {"ef" * 32: "ab" * 32})
        for spoiled in (b"", b"[]", b"{}", content.replace(b",\n", b",  \n", 1), content[:-20]):
            with pytest.raises(ImageError, match="no bill of materials"):
                rebind(name, spoiled, digests)
