"""OCSP responses: good ones, and those that must not be relied on."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPResponseBuilder, OCSPResponseStatus
from cryptography.x509.oid import ExtendedKeyUsageOID
from gpu_evidence import DEVICES, THEN, Authority, certificate, ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError, VerificationError
from measurements.gpu.ocsp import MAX_OCSP_BYTES, load_ocsp, status_of
from measurements.gpu.revocation import check_revocation

KEY = ec.generate_private_key(ec.SECP384R1())
LEAF, OTHER = DEVICES.issue("Signer", KEY), DEVICES.issue("Signer", KEY)
FOR_OCSP = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
RESPONDER = DEVICES.issue("Responder", KEY, extensions=(FOR_OCSP,))


def answer(certificate=LEAF, *, key=DEVICES.key, **options):
    return ocsp(DEVICES.issuer, key, certificate, **options)


def judged(data, *, at=THEN, certificate=LEAF):
    return status_of(load_ocsp(data), certificate, DEVICES.issuer, at)


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()])
def test_good(algorithm):
    assert judged(answer(algorithm=algorithm))
    assert judged(answer(key=KEY, responder=RESPONDER, algorithm=algorithm))
    assert not judged(answer(OTHER, algorithm=algorithm))


@pytest.mark.parametrize("status", ["revoked", "unknown"])
def test_not_good(status):
    with pytest.raises(VerificationError, match=f"CN=Signer.* is {status}"):
        judged(answer(status=status))


def test_responses_of_another_time():
    for at in (THEN - datetime.timedelta(hours=2), THEN + datetime.timedelta(days=2)):
        with pytest.raises(VerificationError, match="is valid from"):
            judged(answer(), at=at)
    with pytest.raises(VerificationError, match="is valid from"):
        judged(answer(days=None))  # no end: it would hold for ever


def test_responders_that_nobody_authorised():
    stranger = Authority("Devices")
    plain = DEVICES.issue("Responder", KEY)
    old = DEVICES.issue("Responder", KEY, extensions=(FOR_OCSP,), days=0)
    foreign = stranger.issue("Responder", KEY, extensions=(FOR_OCSP,))
    for data in (
        answer(key=KEY, responder=certificate("Devices authority", KEY, extensions=(FOR_OCSP,))),
        answer(key=KEY, responder=plain),
        answer(key=KEY, responder=foreign),
        answer(key=DEVICES.root_key, responder=DEVICES.root),
        answer(key=stranger.key, responder=stranger.issuer),
    ):
        with pytest.raises(SignatureError, match="no responder that its issuer authorised"):
            judged(data)
    late = THEN + datetime.timedelta(days=1)
    with pytest.raises(SignatureError):
        judged(answer(key=KEY, responder=old, at=late), at=late)


def test_the_same_serial_number_of_another_issuer():
    stranger = Authority("Devices")
    assert not judged(ocsp(stranger.issuer, stranger.key, LEAF))


def test_in_a_chain():
    path = (LEAF, DEVICES.issuer, DEVICES.root)
    assert check_revocation([path], [], [load_ocsp(answer())], THEN) == (DEVICES.issuer,)
    root = ocsp(DEVICES.root, DEVICES.root_key, DEVICES.issuer)
    assert check_revocation([path], [], [load_ocsp(answer()), load_ocsp(root)], THEN) == ()
    with pytest.raises(VerificationError, match="about none of the certificates"):
        check_revocation([path], [], [load_ocsp(answer(OTHER))], THEN)


def test_malformed():
    busy = OCSPResponseBuilder.build_unsuccessful(OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)
    with pytest.raises(FormatError, match="TRY_LATER"):
        load_ocsp(busy)
    for data in (b"", b"junk", answer()[:-1]):
        with pytest.raises(FormatError):
            load_ocsp(data)
    with pytest.raises(LimitError):
        load_ocsp(bytes(MAX_OCSP_BYTES + 1))


REVOKED = answer(key=KEY, responder=RESPONDER, status="revoked")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_responses(data):
    mutated = bytearray(REVOKED)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] ^= data.draw(st.integers(0, 255))
    with contextlib.suppress(MeasurementError):
        assert not judged(bytes(mutated))
