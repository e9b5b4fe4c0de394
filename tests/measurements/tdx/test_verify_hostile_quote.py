"""TDX quotes, certificates and collateral of whoever wishes to do harm: a verdict or an error, never an escape."""

import contextlib
from dataclasses import replace

import tdx_quotes as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.formats import tdxquote
from measurements.tdx import collateral, pck
from measurements.tdx.policy import TcbPolicy
from measurements.tdx.verify import verify_quote

POLICY = samples.Platform().policy()
GOOD = samples.quote(version=5, extended=True)


@settings(max_examples=150)
@given(st.binary(max_size=3000))
def test_hostile_bytes_have_a_verdict(data):
    assert not verify_quote(data, POLICY).passed


@settings(max_examples=150)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8), st.integers(0, 200))
def test_hostile_changes_of_a_good_quote_have_a_verdict(place, junk, cut):
    data = bytearray(GOOD)
    data[place : place + len(junk)] = junk
    data = bytes(data[: len(data) - cut])
    if data != GOOD:
        verdict = verify_quote(data, POLICY)
        # Some bytes prove nothing: reserved ones of PEM's framing.
        assert not verdict.passed or tdxquote.parse(data).signed == tdxquote.parse(GOOD).signed


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_hostile_sgx_extensions(data):
    with contextlib.suppress(FormatError):
        pck.parse(data)


@settings(max_examples=150)
@given(st.integers(0, len(samples.sgx_extension()) - 1), st.binary(min_size=1, max_size=4))
def test_changed_sgx_extensions(place, junk):
    data = bytearray(samples.sgx_extension())
    data[place : place + len(junk)] = junk
    with contextlib.suppress(FormatError):
        pck.parse(bytes(data))


@settings(max_examples=150)
@given(
    st.sampled_from(["tcb_info", "qe_identity", "pck_crl", "root_crl", "signing_chain"]),
    st.integers(0, 3000),
    st.binary(max_size=8),
    st.booleans(),
)
def test_hostile_collateral_has_a_verdict(name, place, junk, cut):
    good = POLICY.tcb.collateral
    data = bytearray(getattr(good, name))
    data[place : place + len(junk)] = junk
    bad = replace(good, **{name: bytes(data[:place] if cut else data)})
    policy = replace(POLICY, tcb=TcbPolicy(collateral=bad, accepted=frozenset({"UpToDate"})))
    if bad != good:
        verify_quote(GOOD, policy)


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=4), st.lists, max_leaves=8
    )
)
def test_signed_nonsense_is_malformed(value):
    for name in ("issueDate", "fmspc", "tcbLevels", "tdxModule", "tdxModuleIdentities"):
        with contextlib.suppress(FormatError):
            collateral.parse_tcb_info(signed_text("tcbInfo", samples.tcb_info(**{name: value})))
    for name in ("mrsigner", "isvprodid", "miscselect", "tcbLevels"):
        with contextlib.suppress(FormatError):
            collateral.parse_qe_identity(signed_text("enclaveIdentity", samples.qe_identity(**{name: value})))


def signed_text(name, value):
    return collateral.verified(samples.signed(name, value), name, samples.key("signer").public_key())
