"""Read the CycloneDX document of a release: which path came from where, and which package needs which.

The document may come from anybody: limits are named, and only `FormatError` and `LimitError` escape. It needs
nothing but the standard library.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.strictjson import Fields, loads

#: The document's name in a release folder, and the names of our properties (docs/sbom.md).
CYCLONEDX = "sbom.cdx.json"
ORIGIN, SIZE, KIND, TARGET = (f"goldsmith:{name}" for name in ("origin", "size", "kind", "target"))
ROOT_HASH = "goldsmith:verity-root-hash"
#: Of a signed module: the module without its signature, the signature, and who made it.
UNSIGNED, UNSIGNED_SHA256 = "goldsmith:unsigned", "goldsmith:unsigned-sha256"
SIGNATURE, SIGNATURE_SHA256 = "goldsmith:signature", "goldsmith:signature-sha256"
SIGNER = "goldsmith:signer"

MAX_DOCUMENT = 128 << 20
MAX_PATHS = 1_000_000
MAX_COMPONENTS = 100_000
MAX_PROPERTIES = 64
MAX_LINKS = 40
_MAX_PATH = 4096
_MAX_TEXT = 1024
_KINDS = frozenset({"file", "directory", "symlink", "character-device"})
_SPEC = "1.6"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a path can come from: a package, a recipe file, or a step of the build.

    Attributes:
        ref: its reference in the document.
        name: of the package, file or step.
        version: of a package; empty otherwise.
        archive: a package's path in the pool; empty otherwise.
        sha256: of a package's archive, hex; empty otherwise.
        source: the source package; empty otherwise.
        purl: package URL; empty otherwise.
    """

    ref: str
    name: str
    version: str = ""
    archive: str = ""
    sha256: str = ""
    source: str = ""
    purl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a signed module is made of; digests are SHA-256, 64 hex digits.

    Attributes:
        unsigned: file of the release with the module alone.
        unsigned_sha256: its digest.
        file: file of the release with the signature alone.
        sha256: its digest.
        signer: subject of the signer's certificate.
    """

    unsigned: str
    unsigned_sha256: str
    file: str
    sha256: str
    signer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One path of a tree.

    Attributes:
        tree: "root", "initrd" or "uki".
        path: absolute.
        kind: "file", "directory", "symlink" or "character-device".
        origin: reference of its source.
        size: bytes of a file; 0 otherwise.
        sha256: of a file, hex; empty otherwise.
        target: of a symlink; empty otherwise.
        signature: of a module that the build signed; None otherwise.
    """

    tree: str
    path: str
    kind: str
    origin: str
    size: int
    sha256: str
    target: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an image is made of, as its document says.

    Attributes:
        name: of the image.
        version: of the image.
        sources: reference -> source.
        trees: tree -> path -> place, in the document's order.
        needs: reference -> references it depends on; a tree depends on the packages that the recipe lists.
    """

    name: str
    version: str
    sources: Mapping[str, Source]
    trees: Mapping[str, Mapping[str, Place]]
    needs: Mapping[str, tuple[str, ...]]

    def chain(self, tree: str, ref: str) -> tuple[str, ...]:
        """Return why a package is in a tree: the shortest way to it from one that the recipe lists.

        The first reference is what the recipe lists, the last is ``ref``; empty when nothing leads there.
        """
        before = dict.fromkeys(self.needs.get(tree, ()), "")
        queue = deque(before)
        while queue and ref not in before:
            current = queue.popleft()
            for other in self.needs.get(current, ()):
                if other not in before:
                    before[other] = current
                    queue.append(other)
        found = [ref] if ref in before else []
        while found and before[found[-1]]:
            found.append(before[found[-1]])
        return tuple(reversed(found))

    def resolve(self, tree: str, path: str) -> str | None:
        """Return the path that ``path`` names when every link in it is followed, or None when there is none."""
        places = self.trees[tree]
        pending = [part for part in reversed(path.split("/")) if part]
        current, followed = "", 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                current = current.rpartition("/")[0]
                continue
            place = places.get(f"{current}/{part}")
            if place is None:
                return None
            if place.kind != "symlink":
                current = place.path
                continue
            followed += 1
            if followed > MAX_LINKS:
                return None
            if place.target.startswith("/"):
                current = ""
            pending += [piece for piece in reversed(place.target.split("/")) if piece]
        return current or "/"


def read_contents(raw: bytes) -> Contents:
    """Read a CycloneDX document that `to_cyclonedx` wrote.

    Raises:
        FormatError: not JSON, not such a document, a path twice in a tree, or an origin that is not there.
        LimitError: larger than the limits of this module.
    """
    whole = Fields(loads(raw, what=CYCLONEDX, max_bytes=MAX_DOCUMENT), CYCLONEDX)
    version = whole.text("specVersion", max_length=16)
    if whole.text("bomFormat", max_length=16) != "CycloneDX" or version != _SPEC:
        raise FormatError(f"{CYCLONEDX}: expected CycloneDX {_SPEC}, got {version[:16]!r}")
    image = whole.fields("metadata").fields("component")
    sources: dict[str, Source] = {}
    trees: dict[str, dict[str, Place]] = {}
    for component in _objects(whole, "components", MAX_COMPONENTS):
        ref = component.text("bom-ref", max_length=_MAX_TEXT)
        if ref in sources or ref in trees:
            raise FormatError(f"{CYCLONEDX}: two components {ref!r}")
        if component.has("components"):
            trees[ref] = _places(ref, component)
        else:
            sources[ref] = _source(ref, component)
    for places in trees.values():
        for place in places.values():
            if place.origin not in sources:
                raise FormatError(
                    f"{CYCLONEDX}: {place.path!r} comes from {place.origin!r}, which is no component"
                )
    return Contents(
        name=image.text("name", max_length=_MAX_TEXT),
        version=image.text("version", max_length=_MAX_TEXT),
        sources=sources,
        trees=trees,
        needs=_needs(whole),
    )


def _objects(fields: Fields, name: str, limit: int) -> Iterator[Fields]:
    where = f"{fields.where}: {name}"
    for number, item in enumerate(fields.array(name, max_items=limit)):
        yield Fields(item, f"{where}[{number}]")


def _places(tree: str, component: Fields) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for item in _objects(component, "components", MAX_PATHS):
        path = item.text("name", max_length=_MAX_PATH)
        if not path.startswith("/") or path in found:
            raise FormatError(f"{item.where}: {path[:80]!r} is relative, or stands there twice")
        properties = _properties(item)
        kind = properties.get(KIND, "file")
        size = properties.get(SIZE, "0")
        if kind not in _KINDS or not (size.isascii() and size.isdecimal() and len(size) <= 16):
            raise FormatError(f"{item.where}: kind {kind[:32]!r} with size {size[:32]!r}")
        if ORIGIN not in properties:
            raise FormatError(f"{item.where}: {path[:80]!r} has no property {ORIGIN}")
        found[path] = Place(
            tree=tree,
            path=path,
            kind=kind,
            origin=properties[ORIGIN],
            size=int(size),
            sha256=_sha256(item) if kind == "file" else "",
            target=properties.get(TARGET, ""),
            signature=_signature(item.where, properties),
        )
    return found


def _signature(where: str, properties: Mapping[str, str]) -> Signature | None:
    if SIGNATURE not in properties:
        return None
    values = [
        properties.get(name, "") for name in (UNSIGNED, UNSIGNED_SHA256, SIGNATURE, SIGNATURE_SHA256, SIGNER)
    ]
    unsigned, unsigned_sha256, file, sha256, signer = values
    if not all(values) or not _HEX.fullmatch(unsigned_sha256) or not _HEX.fullmatch(sha256):
        raise FormatError(f"{where}: a signature without the module's name or digest, its own or its signer")
    return Signature(
        unsigned=unsigned, unsigned_sha256=unsigned_sha256, file=file, sha256=sha256, signer=signer
    )


def _source(ref: str, component: Fields) -> Source:
    name = component.text("name", max_length=_MAX_TEXT)
    if not component.has("purl"):
        return Source(ref=ref, name=name)
    archive = source = ""
    for item in _objects(component, "externalReferences", MAX_PROPERTIES):
        if item.text("type", max_length=_MAX_TEXT) == "distribution":
            archive = item.text("url", max_length=_MAX_PATH)
    for item in _objects(component.fields("pedigree"), "ancestors", MAX_PROPERTIES):
        version = item.text("version", max_length=_MAX_TEXT) if item.has("version") else ""
        source = f"{item.text('name', max_length=_MAX_TEXT)} {version}".rstrip()
    return Source(
        ref=ref,
        name=name,
        version=component.text("version", max_length=_MAX_TEXT),
        archive=archive,
        sha256=_sha256(component),
        source=source,
        purl=component.text("purl", max_length=_MAX_TEXT),
    )


def _needs(whole: Fields) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for item in _objects(whole, "dependencies", MAX_COMPONENTS):
        refs = item.array("dependsOn", max_items=MAX_COMPONENTS) if item.has("dependsOn") else []
        if not all(isinstance(ref, str) for ref in refs):
            raise FormatError(f"{item.where}: dependsOn holds what is no text")
        found[item.text("ref", max_length=_MAX_TEXT)] = tuple(refs)
    return found


def _properties(component: Fields) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in _objects(component, "properties", MAX_PROPERTIES):
        name = item.text("name", max_length=_MAX_TEXT)
        if name in found:
            raise FormatError(f"{component.where}: two properties {name[:64]!r}")
        found[name] = item.text("value", max_length=_MAX_PATH)
    return found


def _sha256(component: Fields) -> str:
    for item in _objects(component, "hashes", MAX_PROPERTIES):
        if item.text("alg", max_length=_MAX_TEXT) == "SHA-256":
            return item.hex("content", size=32).hex()
    raise FormatError(f"{component.where}: no SHA-256")
