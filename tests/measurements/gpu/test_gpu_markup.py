"""The strict XML reader and Canonical XML, against libxml2's (lxml)."""

from __future__ import annotations

import contextlib

import pytest
from gpu_evidence import RIMS
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from measurements.errors import FormatError, LimitError
from measurements.gpu import markup
from measurements.gpu.markup import Element, canonical, parse

STRICT = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


def everything(element):
    yield element
    for child in element.children:
        if isinstance(child, Element):
            yield from everything(child)


def theirs(data):
    """Canonical XML 1.0 as libxml2 writes it; of these documents it is that of 1.1."""
    return etree.tostring(etree.fromstring(data, STRICT), method="c14n")


@pytest.mark.parametrize("name", sorted(RIMS))
def test_manifests(name):
    root = parse(RIMS[name])
    assert canonical(root) == theirs(RIMS[name])


@pytest.mark.parametrize(
    "document",
    [
        # Canonical XML 1.1, 3.2 to 3.5 and 3.7, without document types
        (
            b"<doc>\n   <clean>   </clean>\n   <dirty>   A   B   </dirty>\n   <mixed>\n      A\n"
            b"      <clean>   </clean>\n      B\n      <dirty>   A   B   </dirty>\n      C\n   </mixed>\n</doc>"
        ),
        (
            b'<doc><e1   /><e2   ></e2><e3   name = "elem3"   id="elem3"   /><e5 a:attr="out" b:attr="sorted" '
            b'attr2="all" attr="I\'m" xmlns:b="http://www.ietf.org" xmlns:a="http://www.w3.org" xmlns="http://example.org"/>'
            b'<e6 xmlns="" xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns="" '
            b'xmlns:a="http://www.w3.org"><e9 xmlns="" xmlns:a="http://www.ietf.org"/></e8></e7></e6></doc>'
        ),
        (
            b'<doc><text>First line&#x0d;&#10;Second line</text><value>&#x32;</value><compute><![CDATA[value>"0" && '
            b'value<"10" ?"valid":"error"]]></compute><norm attr=\' &#x20;&apos; &#xD;&#xA;&#9; \'/></doc>'
        ),
        "<doc>©ä€😀</doc>".encode(),
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<a>\r\nb\r</a>\n\n',
        b'<a xmlns="urn:x"><b xmlns=""><c xmlns="urn:x" xmlns:p="urn:x"><p:d p:z="1" z="2"/></c></b></a>',
        b'<a a="tab\tline\nend">&lt;&amp;&gt;&quot;</a>',
        b'\xef\xbb\xbf<a xmlns:x="urn:1"><b xmlns:x="urn:2" x:y="3"/><x:b/></a>',
    ],
)
def test_canonical_form(document):
    assert canonical(parse(document)) == theirs(document)


CONTENT = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters='<&"]\ufffe\uffff'),
        max_size=5,
    )
    | st.sampled_from(["\t", "\n", "\r", "&#13;", "&#9;", "&amp;", "&lt;", ">", "&quot;", "'"]),
    max_size=4,
).map("".join)
URIS = ("urn:a", "urn:b", "urn:c")


@st.composite
def documents(draw, depth=0, scope=None):
    """The text of an element, with prefixes that are bound, bound anew, and bound to the same namespace."""
    declared = draw(st.dictionaries(st.sampled_from(["", "p", "q", "r"]), st.sampled_from(URIS), max_size=3))
    if depth and draw(st.booleans()):
        declared[""] = ""
    scope = {"": "", **(scope or {}), **declared}
    prefix = draw(st.sampled_from(sorted(scope)))
    tag = f"{prefix}:e" if prefix else "e"
    attributes = {}
    for prefix in draw(st.lists(st.sampled_from(sorted(scope)), max_size=4)):
        local = draw(st.sampled_from("xyz"))
        uri = scope[prefix] if prefix else ""
        attributes[uri, local] = f'{prefix}:{local}="' if prefix else f'{local}="'
    written = [f'{begin}{draw(CONTENT)}"' for begin in attributes.values()]
    written += [f'xmlns:{prefix}="{uri}"' if prefix else f'xmlns="{uri}"' for prefix, uri in declared.items()]
    body = draw(CONTENT)
    for _ in range(draw(st.integers(0, 2)) if depth < 4 else 0):
        body += draw(documents(depth=depth + 1, scope=scope)) + draw(CONTENT)
    return f"<{' '.join([tag, *draw(st.permutations(written))])}>{body}</{tag}>"


@settings(max_examples=200, deadline=None)
@given(documents())
def test_any_document(text):
    data = text.encode()
    assert canonical(parse(data)) == theirs(data)


@pytest.mark.parametrize("name", sorted(RIMS))
def test_an_element_of_a_document(name):
    """SignedInfo with the namespaces around it: NVIDIA signed its canonical form (test_gpu_xmldsig.py)."""
    info = next(each for each in everything(parse(RIMS[name])) if each.tag == "ds:SignedInfo")
    assert canonical(info).startswith(
        b'<ds:SignedInfo xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
        b'xmlns:ds="http://www.w3.org/2000/09/xmldsig#" '
        b'xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
        b'xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384"><ds:CanonicalizationMethod '
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "a document type"),
        (b"<!DOCTYPE a><a/>", "a document type"),
        (b"<a>&b;</a>", "undefined entity"),
        (b"<a>1<!-- 2 -->3</a>", "a comment"),
        (b"<a/><!-- 2 -->", "a comment"),
        (b'<?xml-stylesheet href="x"?><a/>', "a processing instruction"),
        (b"<a><?b c?></a>", "a processing instruction"),
        (b'<a xml:lang="en"/>', "not allowed here"),
        (b'<a xml:base="http://x/"/>', "not allowed here"),
        (b'<xml:a xmlns:xml="http://www.w3.org/XML/1998/namespace"/>', "not allowed"),
        (b'<a xmlns:xmlns="x"/>', "not allowed"),
        (b'<a xmlns:b=""/>', "not allowed"),
        (b"<b:a/>", "not bound"),
        (b'<a b:c="d"/>', "not bound"),
        (b'<a xmlns:b="x"><b:c:d/></a>', "not bound"),
        (b'<a xmlns:b="x" xmlns:c="x" b:d="1" c:d="2"/>', "twice"),
        (b'<a b="1" b="2"/>', "duplicate attribute"),
        (b'<?xml version="1.1"?><a/>', "XML 1.1"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?><a>\xe4</a>', "expected XML 1.0 in UTF-8"),
        ('<?xml version="1.0" encoding="utf-16"?><a/>'.encode("utf-16"), "expected XML 1.0 in UTF-8"),
        (b"<a>\xff</a>", "XML: "),
        (b"<a>\0</a>", "XML: "),
        (b"<a></b>", "mismatched"),
        (b"<a/><b/>", "junk"),
        (b"", "no element"),
        (b"<a>", "no element"),
    ],
)
def test_refused(document, said):
    with pytest.raises(FormatError, match=said):
        parse(document)


def test_limits(monkeypatch):
    for document in (
        b"<a>" * 17 + b"</a>" * 17,
        b"<a>" + b"<b/>" * markup.MAX_ELEMENTS + b"</a>",
        b"<a " + b" ".join(b'b%d="c"' % number for number in range(markup.MAX_ATTRIBUTES + 1)) + b"/>",
        b"<a>" + bytes(markup.MAX_DOCUMENT_BYTES),
    ):
        with pytest.raises(LimitError):
            parse(document)
    parse(b"<a>" * 16 + b"</a>" * 16)


def test_what_elements_hold():
    root = parse(b"<a>\n <b>text<!---->\n</b></a>".replace(b"<!---->", b""))
    (child,) = root.elements()
    assert child.text() == "text\n"
    with pytest.raises(FormatError, match="holds text alone"):
        root.text()
    with pytest.raises(FormatError, match="holds elements alone"):
        child.elements()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="<>/ab=\"'&;!?[]-: xmlns#\n", max_size=60).map(str.encode))
def test_nothing_but_format_errors(data):
    with contextlib.suppress(FormatError):
        canonical(parse(data))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_manifests(data):
    mutated = bytearray(RIMS["driver-545.00.swidtag"])
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        made = canonical(parse(bytes(mutated)))
        with contextlib.suppress(etree.LxmlError):  # some namespace names are none of libxml2's
            assert made == theirs(bytes(mutated))
