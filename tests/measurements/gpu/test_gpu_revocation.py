"""Revocation lists: those that cover a chain, and those that must not be relied on."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_evidence import CHAIN, DEVICES, THEN, Authority, certificate, crl
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError, VerificationError
from measurements.gpu.certificates import DEVICE_ROOT, load_chain, path_of
from measurements.gpu.revocation import MAX_CRL_BYTES, check_revocation, load_crl

KEY = ec.generate_private_key(ec.SECP384R1())
LEAF, OTHER = DEVICES.issue("GH100", KEY), DEVICES.issue("GH100", KEY)
PATH = (LEAF, DEVICES.issuer, DEVICES.root)


def check(*lists, at=THEN, paths=(PATH,)):
    """Return how many certificates are covered, and how many there are."""
    every = len({id(each) for path in paths for each in path[:-1]})
    return every - len(check_revocation(paths, [load_crl(each) for each in lists], [], at)), every


def of_root(*revoked, **options):
    return crl(DEVICES.root, DEVICES.root_key, *revoked, **options)


def of_issuer(*revoked, **options):
    return crl(DEVICES.issuer, DEVICES.key, *revoked, **options)


def test_nothing_is_revoked():
    assert check() == (0, 2)
    assert check(of_root()) == (1, 2)
    assert check(of_root(), of_issuer()) == (2, 2)
    assert check(of_issuer(OTHER), of_issuer(OTHER)) == (1, 2)
    assert check(of_issuer(encoding=Encoding.PEM), paths=(PATH, PATH)) == (1, 2)
    # Each of the two is issued by the other's issuer: a serial number alone says nothing.
    assert check(of_root(LEAF)) == (1, 2)


@pytest.mark.parametrize(
    ("lists", "name"),
    [([of_root(DEVICES.issuer)], "authority"), ([of_root(), of_issuer(OTHER, LEAF)], "CN=GH100")],
)
def test_revoked(lists, name):
    with pytest.raises(VerificationError, match=f"{name}.* was revoked on 2024-06-01"):
        check(*lists)


@pytest.mark.parametrize("days", [-2, 31])
def test_lists_of_another_time(days):
    with pytest.raises(VerificationError, match="is valid from"):
        check(of_root(), at=THEN + datetime.timedelta(days=days))


def test_lists_of_others():
    stranger = Authority("Devices")
    for made in (
        crl(stranger.root, stranger.root_key),  # of that name, signed with another key
        crl(LEAF, KEY),
        crl(DEVICES.root, KEY),
        crl(certificate("Else", KEY), KEY),
    ):
        with pytest.raises(SignatureError, match="no issuer in the chains signed it"):
            check(made)


def test_issuers_that_may_not_revoke():
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority = certificate("A", authority_key, DEVICES.root, DEVICES.root_key, extensions=(usage,))
    leaf = certificate("B", KEY, authority, authority_key, ca=False)
    with pytest.raises(SignatureError):
        check(crl(authority, authority_key), paths=((leaf, authority, DEVICES.root),))


@pytest.mark.parametrize(
    "extensions",
    [
        [(x509.DeltaCRLIndicator(1), True)],
        [(x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True)],
        [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)],
    ],
)
def test_lists_of_a_part(extensions):
    with pytest.raises(FormatError, match="not the whole list"):
        load_crl(of_root(extensions=extensions))
    assert check(of_root(extensions=[(x509.CRLNumber(7), False)])) == (1, 2)


def test_malformed():
    for data in (
        b"",
        b"junk",
        of_root()[:-1],
        b"-----BEGIN X509 CRL-----\njunk\n-----END X509 CRL-----\n",
        CHAIN,
    ):
        with pytest.raises(FormatError):
            load_crl(data)
    with pytest.raises(LimitError):
        load_crl(bytes(MAX_CRL_BYTES + 1))


def test_paths():
    chain = load_chain(CHAIN)
    assert path_of(chain, DEVICE_ROOT) == chain
    assert path_of(chain[:-1], DEVICE_ROOT) == chain


REVOKED = of_root(DEVICES.issuer)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_lists(data):
    mutated = bytearray(REVOKED)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] ^= data.draw(st.integers(0, 255))
    with contextlib.suppress(MeasurementError):
        check(bytes(mutated))
        raise AssertionError("a revoked certificate was taken")
