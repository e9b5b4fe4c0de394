"""XML that is signed: a strict reader, and Canonical XML 1.1 of what it read.

The reader takes what reference integrity manifests are made of: elements, attributes, namespaces and text in UTF-8.
A document type, an entity, a comment, a processing instruction or an attribute of the prefix "xml" is refused, so
none of the rules that such things bring to canonicalisation, nor the attacks that live on them, exist here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NoReturn
from xml.parsers import expat

from measurements.errors import FormatError, LimitError

MAX_DOCUMENT_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 16
MAX_ELEMENTS: Final = 4096
MAX_ATTRIBUTES: Final = 64

_NO_NAMESPACE = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Element:
    """An element and what is in it.

    Attributes:
        tag: name as written, with its prefix.
        name: (namespace, local name).
        attributes: values by (namespace, local name); an attribute without a prefix is in no namespace.
        written: (name as written, namespace, local name, value) of each attribute.
        namespaces: bindings in scope, by prefix; the default one is "".
        children: elements and runs of text, in order.
    """

    tag: str
    name: tuple[str, str]
    attributes: Mapping[tuple[str, str], str]
    written: tuple[tuple[str, str, str, str], ...] = field(repr=False)
    namespaces: Mapping[str, str] = field(repr=False)
    children: list[Element | str] = field(repr=False)

    def elements(self) -> tuple[Element, ...]:
        """Return the elements among the children.

        Raises:
            FormatError: text other than white space is among them.
        """
        for child in self.children:
            if isinstance(child, str) and child.strip(" \t\r\n"):
                raise FormatError(f"XML: text in {self.tag}, which holds elements alone")
        return tuple(child for child in self.children if isinstance(child, Element))

    def text(self) -> str:
        """Return the text of an element that holds nothing else.

        Raises:
            FormatError: an element is in it.
        """
        if any(isinstance(child, Element) for child in self.children):
            raise FormatError(f"XML: an element in {self.tag}, which holds text alone")
        return "".join(child for child in self.children if isinstance(child, str))


def parse(data: bytes) -> Element:
    """Parse a document.

    Raises:
        FormatError: not well-formed, not UTF-8, or with something that is refused here.
        LimitError: a named limit of this module is exceeded.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise LimitError(f"XML document of {len(data)} bytes; the limit is {MAX_DOCUMENT_BYTES}")
    builder = _Builder()
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.XmlDeclHandler = builder.declaration
    for handler, what in (
        ("StartDoctypeDeclHandler", "a document type"),
        ("EntityDeclHandler", "an entity"),
        ("ExternalEntityRefHandler", "an external entity"),
        ("SkippedEntityHandler", "an unknown entity"),
        ("CommentHandler", "a comment"),
        ("ProcessingInstructionHandler", "a processing instruction"),
    ):
        setattr(parser, handler, _refusing(what))
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FormatError(f"XML: {error}") from error
    assert builder.root is not None
    return builder.root


def canonical(element: Element, *, without: Element | None = None) -> bytes:
    """Return Canonical XML 1.1 of an element with all in it, as UTF-8.

    What this module reads has no comments and no attributes of the prefix "xml", so the result is that of Canonical
    XML 1.0 too. The namespaces in scope of the element stand at it (W3C REC-xml-c14n11, 2.3).

    Args:
        element: the apex of the document subset.
        without: a child to leave out: the enveloped-signature transform (XML Signature 1.1, 6.6.4).
    """
    return "".join(_canonical(element, {}, without)).encode()


def _canonical(element: Element, above: Mapping[str, str], without: Element | None) -> Iterator[str]:
    yield f"<{element.tag}"
    # 2.3, "Namespace Axis": what differs from the parent's, the default namespace first, then by prefix.
    for prefix, uri in sorted(element.namespaces.items()):
        if above.get(prefix, _NO_NAMESPACE) != uri:
            yield f' {f"xmlns:{prefix}" if prefix else "xmlns"}="{_escaped(uri)}"'
    # "Attribute Axis": by namespace, then by local name.
    for tag, _, _, value in sorted(element.written, key=lambda item: (item[1], item[2])):
        yield f' {tag}="{_escaped(value)}"'
    yield ">"
    for child in element.children:
        if isinstance(child, str):
            yield (
                child.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
            )
        elif child is not without:
            yield from _canonical(child, element.namespaces, None)
    yield f"</{element.tag}>"


def _escaped(value: str) -> str:
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return value.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0" or (encoding or "utf-8").lower() != "utf-8":
            raise FormatError(f"XML {version} in {encoding}; expected XML 1.0 in UTF-8")

    def start(self, tag: str, flat: list[str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) == MAX_DEPTH or len(flat) > 2 * MAX_ATTRIBUTES:
            raise LimitError(
                f"XML: at most {MAX_ELEMENTS} elements, {MAX_DEPTH} of them within each other, and "
                f"{MAX_ATTRIBUTES} attributes are read"
            )
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        inherited = self._open[-1].namespaces if self._open else {"": _NO_NAMESPACE}
        namespaces = MappingProxyType({**inherited, **_declared(pairs)})
        written = tuple(
            (name, *_resolve(name, namespaces, default=_NO_NAMESPACE), value)
            for name, value in pairs
            if name != "xmlns" and not name.startswith("xmlns:")
        )
        attributes = {(uri, local): value for _, uri, local, value in written}
        if len(attributes) != len(written):
            raise FormatError(f"XML: {tag} has an attribute twice (Namespaces in XML 1.0, 6.3)")
        element = Element(
            tag=tag,
            name=_resolve(tag, namespaces, default=namespaces[""]),
            attributes=MappingProxyType(attributes),
            written=written,
            namespaces=namespaces,
            children=[],
        )
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].children.append(text)


def _declared(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    declared = {}
    for name, value in pairs:
        if name == "xmlns":
            declared[""] = value
        elif name.startswith("xmlns:"):
            prefix = name.removeprefix("xmlns:")
            # Namespaces in XML 1.0, 3: "xml" and "xmlns" are bound already, and no prefix can be unbound.
            if not prefix or ":" in prefix or prefix in ("xml", "xmlns") or not value:
                raise FormatError(f"XML: the namespace declaration {name}={value[:80]!r} is not allowed")
            declared[prefix] = value
    return declared


def _resolve(name: str, namespaces: Mapping[str, str], *, default: str) -> tuple[str, str]:
    prefix, colon, local = name.partition(":")
    if not colon:
        return default, name
    if not prefix or not local or ":" in local or prefix not in namespaces or prefix == "xml":
        raise FormatError(f"XML: the prefix of {name[:80]!r} is not bound, or not allowed here")
    return namespaces[prefix], local


def _refusing(what: str) -> Any:
    def refuse(*_: Any) -> NoReturn:
        raise FormatError(f"XML with {what}: expected elements, attributes and text alone")

    return refuse
