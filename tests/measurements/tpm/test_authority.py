"""Which db entry allows an image: each rule of DxeImageVerificationHandler with an image made for it."""

from uuid import UUID

import launch_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import Authority, pkcs7, win_certificate

from measurements.errors import FormatError, NotPredictableError, SignatureError
from measurements.events import Digest, EventType, HashAlgorithm
from measurements.formats import pe
from measurements.formats import pkcs7 as signatures_of
from measurements.formats.efivar import (
    CERT_SHA256,
    CERT_X509,
    Signature,
    SignatureList,
    encode_signature_lists,
)
from measurements.predict import predict_tpm
from measurements.tpm.authority import authorise

OWNER = UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
X509_SHA256 = UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")
SECTIONS = [(".text", b"program")]
PLAIN = samples.pe_image(SECTIONS)
ROOT = Authority("root")
MIDDLE = Authority("middle", ROOT)
LEAF = Authority("leaf", MIDDLE)
ELLIPTIC = Authority("elliptic", ROOT, elliptic=True)
OTHER = Authority("other")


def database(*entries):
    """Return a db or dbx of these (type, data), one list each."""
    return encode_signature_lists(
        SignatureList(type=kind, signatures=(Signature(owner=OWNER, data=data),)) for kind, data in entries
    )


def signed(*signatures, sections=SECTIONS):
    table = b"".join(map(win_certificate, signatures))
    # The digest leaves the certificate table and its directory entry out, so it is that of the unsigned image.
    return pe.parse(samples.pe_image(sections, certificate=table))


def digest(image=PLAIN):
    return pe.parse(image).authenticode(HashAlgorithm.SHA256).value


def x509(*authorities):
    return [(CERT_X509, authority.encoded) for authority in authorities]


@pytest.mark.parametrize("anchor", [LEAF, MIDDLE, ROOT], ids=["leaf", "intermediate", "root"])
def test_any_certificate_of_the_chain_is_an_authority(anchor):
    image = signed(pkcs7(PLAIN, LEAF, MIDDLE))
    entry = authorise(image, database(*x509(OTHER, anchor)), b"")
    assert entry == Signature(owner=OWNER, data=anchor.encoded)


def test_the_first_entry_in_db_order_counts():
    image = signed(pkcs7(PLAIN, LEAF, MIDDLE))
    assert authorise(image, database(*x509(ROOT, LEAF)), b"").data == ROOT.encoded
    assert authorise(image, database(*x509(LEAF, ROOT)), b"").data == LEAF.encoded


def test_the_first_signature_that_holds_counts():
    image = signed(pkcs7(PLAIN, OTHER), pkcs7(PLAIN, LEAF, MIDDLE))
    assert authorise(image, database(*x509(ROOT)), b"").data == ROOT.encoded
    assert authorise(image, database(*x509(ROOT, OTHER)), b"").data == OTHER.encoded


def test_elliptic_curves_and_signatures_without_attributes():
    assert authorise(signed(pkcs7(PLAIN, ELLIPTIC)), database(*x509(ROOT)), b"").data == ROOT.encoded
    assert (
        authorise(signed(pkcs7(PLAIN, LEAF, attributes=False)), database(*x509(LEAF)), b"").data
        == LEAF.encoded
    )


def test_allowed_by_digest():
    entry = authorise(
        pe.parse(PLAIN), database(*x509(OTHER), (CERT_SHA256, bytes(32)), (CERT_SHA256, digest())), b""
    )
    assert entry == Signature(owner=OWNER, data=digest())


@pytest.mark.parametrize(
    "falsified",
    [
        {"digest": b"\1" * 32},
        {"message_digest": b"\1" * 32},
        {"signature": b"\1" * 256},
    ],
    ids=lambda falsified: next(iter(falsified)),
)
def test_a_signature_that_does_not_hold_allows_nothing(falsified):
    image = signed(pkcs7(PLAIN, LEAF, **falsified))
    with pytest.raises(NotPredictableError, match="none of its signatures"):
        authorise(image, database(*x509(LEAF)), b"")


def test_a_missing_link_allows_nothing():
    with pytest.raises(NotPredictableError, match="none of its signatures"):
        authorise(signed(pkcs7(PLAIN, LEAF)), database(*x509(ROOT)), b"")


def test_an_issuer_by_name_alone_allows_nothing():
    namesake = Authority("middle")
    with pytest.raises(NotPredictableError, match="none of its signatures"):
        authorise(signed(pkcs7(PLAIN, LEAF)), database(*x509(namesake)), b"")


def test_an_unsigned_image_is_refused():
    with pytest.raises(NotPredictableError, match="it is not signed"):
        authorise(pe.parse(PLAIN), database(*x509(ROOT)), b"")


@pytest.mark.parametrize(
    ("forbidden", "reason"),
    [
        ([(CERT_SHA256, digest())], "lists its digest"),
        (x509(MIDDLE), "lists a certificate"),
        (
            [
                (
                    X509_SHA256,
                    Digest.of(HashAlgorithm.SHA256, LEAF.certificate.tbs_certificate_bytes).value + bytes(16),
                )
            ],
            "by digest and time",
        ),
    ],
)
def test_what_dbx_forbids(forbidden, reason):
    image = signed(pkcs7(PLAIN, LEAF, MIDDLE))
    with pytest.raises(NotPredictableError, match=reason):
        authorise(image, database(*x509(ROOT)), database(*forbidden))


def test_what_dbx_says_of_others_does_not_matter():
    forbidden = database((CERT_SHA256, bytes(32)), *x509(OTHER), (X509_SHA256, bytes(48)))
    assert authorise(signed(pkcs7(PLAIN, LEAF)), database(*x509(LEAF)), forbidden).data == LEAF.encoded


def test_a_certificate_that_nobody_can_read_has_a_reason():
    image = signed(pkcs7(PLAIN, LEAF))
    with pytest.raises(NotPredictableError, match="holds a bad certificate"):
        authorise(image, database((CERT_X509, b"no certificate"), *x509(LEAF)), b"")
    assert authorise(image, database(*x509(LEAF), (CERT_X509, b"no certificate")), b"").data == LEAF.encoded


def test_a_malformed_signature_has_a_reason():
    with pytest.raises(NotPredictableError, match="Secure Boot cannot be predicted"):
        authorise(signed(b"\x30\x03\x02\x01\x01"), database(*x509(LEAF)), b"")


def test_a_register_without_authority_says_why():
    variables = samples.vector("launches/secure-boot-2025.02.vars.fd.xz")
    profile = samples.profile_for(samples.FIRMWARE, secure_boot=True, secure_boot_unset=b"\0")
    prediction = predict_tpm(samples.inputs(variables=variables, profiles=(profile,)))
    assert prediction.shape.secure_boot
    for index in (4, 7):
        assert "would refuse the image: it is not signed" in prediction.register(index).reason
    # A build without Secure Boot measures the keys and verifies nothing.
    prediction = predict_tpm(samples.inputs(variables=variables))
    assert not prediction.shape.secure_boot
    types = [event.type for event in prediction.register(7).alternatives[0].events]
    assert types == [EventType.EFI_VARIABLE_DRIVER_CONFIG] * 5 + [EventType.SEPARATOR]
    # And a build that nobody knows may do either.
    prediction = predict_tpm(samples.inputs(variables=variables, profiles=()))
    for index in (4, 7):
        assert "calibrate" in prediction.register(index).reason


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_signatures_raise_nothing_else(data):
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        for signature in signatures_of.signatures(
            signed(bytes(body[: data.draw(st.integers(0, len(body)))]))
        ):
            signature.chains_to(ROOT.certificate)
            signature.verify()
    except (FormatError, SignatureError):
        return


VALID = pkcs7(PLAIN, LEAF, MIDDLE)
