"""Enveloped signatures: NVIDIA's own, signxml's, and every way around them that is known."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from gpu_evidence import DRIVER_RIM, MANIFESTS, RIMS, SIGNER_KEY, VBIOS_RIM
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError
from measurements.gpu.markup import parse
from measurements.gpu.xmldsig import SignedDocument

NVIDIA = RIMS["driver-545.00.swidtag"]
SAMPLES = {**RIMS, "signxml": DRIVER_RIM}


def verified(data):
    document = SignedDocument(parse(data))
    document.verify(document.certificates[0].public_key())
    return document


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_what_others_signed_holds(name):
    data = SAMPLES[name]
    document = verified(data)
    assert len(document.certificates) >= 3
    assert [child.name[1] for child in document.content()] == ["Entity", "Meta", "Payload"]


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'active="True"', b'active="False"'),
        (b'index="21"', b'index="22"'),
        (b"tagId=", b"tagid="),
        (b'product="GH100"', b'product="GB100"'),
        (b"Payload", b"Payloae"),
        (b'size="48"', b'size="48" more="1"'),
        (b"SoftwareIdentity ", b'SoftwareIdentity xmlns:more="urn:more" '),
        (b"<ds:Signature ", b" <ds:Signature "),
    ],
)
def test_changed_documents(name, old, new):
    data = SAMPLES[name]
    changed = data.replace(old, new)
    assert changed != data
    with pytest.raises(SignatureError, match="not the one that was signed"):
        verified(changed)


def test_changes_that_mean_nothing():
    """Canonical XML forgets how attributes were quoted and ordered, and how elements without content end."""
    changed = NVIDIA.replace(b'corpus="false" name="GH100"', b"name='GH100'  corpus='false'")
    changed = b'<?xml version="1.0"?>\n' + changed.replace(b'creator"/>', b'creator"></ns0:Entity>')
    assert changed != NVIDIA
    verified(changed)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'Reference URI=""', b'Reference URI="#a"', "whole document"),
        (b'Reference URI=""', b"Reference", "whole document"),
        (b'Reference URI=""', b'Reference URI="" Type="x"', "whole document"),
        (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#hmac-sha384", "SignatureMethod"),
        (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#ecdsa-sha1", "SignatureMethod"),
        (b"xmldsig-more#sha384", b"xmldsig#sha1", "DigestMethod"),
        (b"xmldsig#enveloped-signature", b"xmldsig#base64", "Transform"),
        (b"2006/12/xml-c14n11", b"2006/12/xml-c14n11#WithComments", "CanonicalizationMethod"),
        (b"<ds:Transforms>", b'<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"/>',
         "Transforms"),
        (b"</ds:Reference>", b'</ds:Reference><ds:Reference URI=""/>', "SignedInfo"),
        (b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object/>", "Signature"),
        (b"<ds:X509Data>", b"<ds:KeyName>a</ds:KeyName><ds:X509Data>", "KeyInfo"),
        (b"<ds:X509Data>", b"<ds:X509Data><ds:X509SKI>aaaa</ds:X509SKI>", "certificates alone"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA", "99 bytes; expected 96"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>*", "no Base64"),
        (b"<ds:DigestValue>", b"<ds:DigestValue>AAAA", "51 bytes; expected 48"),
        (b"<ds:SignedInfo>", b"<ds:SignedInfo>text", "holds elements alone"),
        (b"<ds:DigestValue>", b"<ds:DigestValue><b/>", "holds text alone"),
        (b"</ds:Signature>", b"</ds:Signature><ns0:Payload/>", "as the last element"),
        (b"<ds:Signature ", b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/><ds:Signature ', "expected one"),
        (b"http://www.w3.org/2000/09/xmldsig#\"", b'urn:other"', "expected one"),
        (b"<ds:X509Certificate>MII", b"<ds:X509Certificate>MIJ", "X.509"),
    ],
)  # fmt: skip
def test_other_forms_of_signature(old, new, said):
    assert old in NVIDIA
    with pytest.raises(FormatError, match=said):
        SignedDocument(parse(NVIDIA.replace(old, new)))


def test_a_signature_wrapped_into_another_document():
    """The signed document moves into a corner that nobody reads, and another takes its place."""
    forged = NVIDIA.replace(b'active="True"', b'active="False"')
    before, signature = NVIDIA[: NVIDIA.index(b"<ds:Signature")], NVIDIA[NVIDIA.index(b"<ds:Signature") :]
    hidden = before + b"</SoftwareIdentity>"
    for place in (b"</ns0:Payload>", b"<ds:KeyInfo>"):
        wrapped = forged.replace(place, place + b"<ns0:Extra>" + hidden + b"</ns0:Extra>", 1)
        with pytest.raises((SignatureError, FormatError)):
            verified(wrapped)
    with pytest.raises(FormatError):
        verified(forged.replace(b"</SoftwareIdentity>", b"") + signature)


def test_many_certificates():
    start, end = NVIDIA.index(b"<ds:X509Certificate>"), NVIDIA.index(b"</ds:X509Data>")
    with pytest.raises(LimitError):
        SignedDocument(parse(NVIDIA[:start] + NVIDIA[start:end] * 3 + NVIDIA[end:]))
    with pytest.raises(FormatError, match="certificates alone"):
        SignedDocument(parse(NVIDIA[:start] + NVIDIA[end:]))


def test_other_keys():
    document = SignedDocument(parse(DRIVER_RIM))
    document.verify(SIGNER_KEY.public_key())
    for key in (MANIFESTS.root.public_key(), ec.generate_private_key(ec.SECP384R1()).public_key()):
        with pytest.raises(SignatureError, match="does not verify"):
            document.verify(key)
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(SignatureError, match="not on P-384"):
            document.verify(key.public_key())
    other = VBIOS_RIM[VBIOS_RIM.index(b"<ds:Signature") :]
    with pytest.raises(SignatureError):
        verified(DRIVER_RIM[: DRIVER_RIM.index(b"<ds:Signature")] + other)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutations_are_refused(data):
    """One changed byte: refused, or a document that canonical XML takes for the same."""
    position = data.draw(st.integers(0, len(NVIDIA) - 1))
    mutated = bytearray(NVIDIA)
    mutated[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != NVIDIA[position]))
    before = SignedDocument(parse(NVIDIA))
    with contextlib.suppress(MeasurementError):
        after = SignedDocument(parse(bytes(mutated)))
        after.verify(before.certificates[0].public_key())
        assert [(e.name, dict(e.attributes)) for e in after.content()] == [
            (e.name, dict(e.attributes)) for e in before.content()
        ]
