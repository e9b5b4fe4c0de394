"""TDX quotes: a real one of Intel's, and one attack for each check."""

import datetime as dt
import hashlib
import json

import dcap_qvl
import launch_samples
import pytest
import tdx_quotes as samples
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from measurements.errors import FormatError, LimitError
from measurements.formats import tdxquote
from measurements.policy import Unproven
from measurements.tdx import collateral, intel, pck, tcb
from measurements.tdx.collateral import Collateral
from measurements.tdx.policy import Bits, ReportData, TcbPolicy, TdAttributes, TdxPolicy
from measurements.tdx.verify import verify_quote
from measurements.verify.verdict import Status

REAL = launch_samples.VECTORS / "tdx/spr-e4"
QUOTE = (REAL / "quote.bin").read_bytes()
#: When its collateral was current; also the time in go-tdx-guest's verify_test.go.
THEN = dt.datetime(2023, 7, 1, 1, tzinfo=dt.UTC)


def real_policy(**changes):
    given = Collateral(
        tcb_info=(REAL / "tcb-info.json").read_bytes(),
        qe_identity=(REAL / "qe-identity.json").read_bytes(),
        signing_chain=(REAL / "signing-chain.pem").read_bytes(),
        pck_crl=(REAL / "pck.crl").read_bytes(),
        root_crl=(REAL / "root.crl").read_bytes(),
    )
    values = {
        "roots": (intel.sgx_root_ca(),),
        "now": THEN,
        "tcb": TcbPolicy(collateral=given, accepted=frozenset({"UpToDate"})),
        # The report data that go-tdx-guest's validate_test.go expects.
        "report_data": ReportData(
            value=bytes.fromhex(
                "6c62dec1b8191749a31dab490be532a35944dea47caef1f980863993d9899545"
                "eb7406a38d1eed313b987a467dacead6f0c87a6d766c66f6f29f8acb281f1113"
            )
        ),
        "mrtd": samples.OPEN,
        "rtmrs": (samples.OPEN,) * 4,
        "mrconfigid": frozenset({bytes(48)}),
        "mrowner": frozenset({bytes(48)}),
        "mrownerconfig": frozenset({bytes(48)}),
        "attributes": Bits.exactly(TdAttributes.PKS),
        "xfam": Bits.exactly(0x61AE7),
    } | changes
    return TdxPolicy(**values)


def outcome(verdict):
    return {check.name: check.status for check in verdict.checks if check.status is not Status.OK}


def detail(verdict, name):
    return next(check.detail for check in verdict.checks if check.name == name)


def test_a_real_quote_with_intels_collateral():
    verdict = verify_quote(QUOTE, real_policy())
    # The machine's components are at 3 where the only levels of that day ask for 5; go-tdx-guest says the same.
    assert outcome(verdict) == {"TCB status": Status.FAILED, "registers": Status.UNPROVEN}
    assert "reaches no TCB level" in detail(verdict, "TCB status")
    assert "[3, 3, 2, 2, 2, 1, 0, 2" in detail(verdict, "TCB status") and verdict.report is None


def test_a_real_quote_without_collateral():
    verdict = verify_quote(QUOTE, real_policy(tcb=Unproven(reason="no network")))
    assert verdict.passed and len(verdict.warnings) == 6
    assert verdict.report.mrtd.hex().startswith("6363b8043668a3ad") and verdict.report.rtmrs[
        3
    ].value == bytes(48)


def test_the_fields_of_a_real_quote():
    # go-tdx-guest's validate_test.go and testing/testdata/report.dat read the same.
    quote = tdxquote.parse(QUOTE)
    assert (quote.version, quote.qe_report.isvprodid, quote.qe_report.isvsvn) == (4, 2, 4)
    assert quote.report.tee_tcb_svn == bytes.fromhex("03000400" + "00" * 12)
    assert quote.report.mrseam.hex().startswith("2fd279c16164a93d")
    assert quote.report.td_attributes == TdAttributes.PKS and quote.report.xfam == 0x61AE7
    (certificate, *_) = x509.load_pem_x509_certificates(quote.certificates.rstrip(b"\0"))
    platform = pck.read(certificate)
    assert (platform.fmspc.hex(), platform.pceid.hex(), platform.pcesvn) == ("50806f000000", "0000", 11)
    assert platform.components == (3, 3, 2, 2, 2, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0)


def test_the_pinned_root_is_the_one_in_quotes():
    root = x509.load_pem_x509_certificates(tdxquote.parse(QUOTE).certificates.rstrip(b"\0"))[-1]
    assert root == intel.sgx_root_ca()
    assert (
        intel.sgx_root_ca().fingerprint(hashes.SHA256()).hex().startswith("44a0196b2b99f889b8e149e95b807a35")
    )


@pytest.mark.parametrize(("version", "extended"), [(4, False), (5, False), (5, True)])
def test_a_good_quote_passes_every_check(version, extended):
    platform = samples.Platform()
    data = samples.quote(platform, version=version, extended=extended)
    verdict = verify_quote(data + bytes(100), platform.policy())
    assert outcome(verdict) == {} and verdict.passed and len(verdict.checks) == 13
    assert (verdict.report.mrservicetd is not None) is extended
    assert [value.value for value in verdict.report.rtmrs] == list(samples.RTMRS)


def test_another_program_reads_the_same_of_version_5():
    theirs = dcap_qvl.parse_quote(samples.quote(version=5, extended=True))
    ours = tdxquote.parse(samples.quote(version=5, extended=True))
    assert theirs.header.version == 5 and theirs.quote_type().startswith("TD")
    assert bytes(theirs.report.mr_td) == ours.report.mrtd.value
    assert [bytes(getattr(theirs.report, f"rt_mr{i}")) for i in range(4)] == [
        r.value for r in ours.report.rtmrs
    ]


def platform_with(*, info=None, identity=None, **changes):
    if info is not None:
        changes["tcb_info"] = samples.signed("tcbInfo", samples.tcb_info(**info))
    if identity is not None:
        changes["qe_identity"] = samples.signed("enclaveIdentity", samples.qe_identity(**identity))
    return samples.Platform(**changes)


#: attack -> (platform, changes of the quote, the check that catches it, its words)
ATTACKS = {
    "sgx quote in place of a td": ({}, {"mutate": (4, b"\0")}, "structure", "TEE type 0x0"),
    "quote of another vendor's enclave": ({}, {"vendor": bytes(16)}, "structure", "vendor"),
    "self-made certificates": (
        {},
        {"chain": samples.pem(samples.certificate("pck", samples.key("pck"), "x", samples.key("x"), ca=False))},
        "certificates",
        "none of the 1 trusted roots",
    ),
    "expired pck": ({"pck_until": samples.NOW - samples.DAY}, {}, "certificates", "valid from"),
    "certificate that is no pck": (
        {"extension": samples.sgx_extension(leave_out=(4,))}, {}, "certificates", "no FMSPC",
    ),
    "authority in place of a pck": (
        {},
        {"chain": samples.pem(samples.Platform().certificates()[1], samples.Platform().certificates()[0])},
        "certificates",
        "an authority's",
    ),
    "forged tcb information": (
        {"tcb_info": samples.signed("tcbInfo", samples.tcb_info(), signer="attacker")}, {}, "collateral", "signature",
    ),
    "forged qe identity": (
        {"qe_identity": samples.signed("enclaveIdentity", samples.qe_identity(), signer="attacker")},
        {}, "collateral", "signature",
    ),
    "replayed tcb information": ({"info": {"nextUpdate": "2026-11-21T00:00:00Z"}}, {}, "collateral", "TCB information"),
    "replayed qe identity": ({"identity": {"nextUpdate": "2026-11-21T00:00:00Z"}}, {}, "collateral", "QE identity"),
    "sgx tcb information": ({"info": {"id": "SGX"}}, {}, "collateral", "expected id TDX"),
    "identity of another enclave": ({"identity": {"id": "QE"}}, {}, "collateral", "expected id TD_QE"),
    "revoked pck": ({"revoked": ("pck",)}, {}, "revocation", "revoked"),
    "revoked authority": ({"revoked": ("authority",)}, {}, "revocation", "revoked"),
    "revoked tcb signer": ({"revoked": ("signer",)}, {}, "revocation", "revoked"),
    "old revocation list": ({"crl_until": samples.NOW - samples.DAY / 2}, {}, "revocation", "revocation list"),
    "enclave report signed by somebody": ({}, {"pck": "attacker"}, "QE report", "signature"),
    "attestation key of the attacker": ({}, {"bound_key": "attacker"}, "attestation key", "another attestation key"),
    "edited report": ({}, {"signing_key": "attacker"}, "signature", "signature does not hold"),
    "another enclave of intel": ({}, {"enclave": {"product": 1}}, "QE identity", "product 1"),
    "enclave of somebody": ({}, {"enclave": {"signer": bytes(32)}}, "QE identity", "signer"),
    "debug enclave": (
        {}, {"enclave": {"attributes": "17" + "00" * 15}}, "QE identity", "attributes",
    ),
    "module of somebody": ({}, {"td": {"signer": bytes([1]) * 48}}, "TDX module", "is not Intel"),
    "unknown module": ({}, {"td": {"svn": bytes([3, 9, *([2] * 14)])}}, "TDX module", "no module TDX_09"),
    "another platform's tcb information": (
        {"info": {"fmspc": "000000000000"}}, {}, "TCB status", "about FMSPC 000000000000",
    ),
    "old platform": ({"extension": samples.sgx_extension(pcesvn=5)}, {}, "TCB status", "platform is OutOfDate"),
    "platform below every level": (
        {"extension": samples.sgx_extension(components=(4,) * 16)}, {}, "TCB status", "reaches no TCB level",
    ),
    "old enclave": ({}, {"enclave": {"svn": 1}}, "TCB status", "quoting enclave is OutOfDate"),
    "old module": ({}, {"td": {"svn": bytes([2, 1, *([2] * 14)])}}, "TCB status", "TDX module is OutOfDate"),
    "debug td": ({}, {"td": {"attributes": 1 << 28 | 1}}, "attributes", "debug mode"),
    "service td that may move it": (
        {}, {"version": 5, "kind": 3, "td": {"extended": True, "service": bytes([1]) * 48}}, "attributes", "service TD",
    ),
    "td without a required attribute": ({}, {"td": {"attributes": 0}}, "attributes", "required bits 0x10000000"),
    "td without a required feature": ({}, {"td": {"xfam": 1}}, "attributes", "XFAM"),
    "replayed quote": ({}, {"td": {"report_data": bytes(64)}}, "report data", "expected"),
    "other firmware": ({}, {"td": {"mrtd": bytes(48)}}, "registers", "MRTD is 0000"),
    "other command line": (
        {}, {"td": {"rtmrs": (*samples.RTMRS[:2], bytes(48), samples.RTMRS[3])}},
        "registers", "RTMR2",
    ),
    "other owner": ({}, {"td": {"mrowner": bytes([1]) * 48}}, "registers", "MROWNER is 0101"),
}  # fmt: skip


def built(attack):
    """Return the platform and the quote of an attack."""
    machine, quoting, *_ = ATTACKS[attack]
    platform = platform_with(**machine)
    arguments = dict(quoting)
    place, junk = arguments.pop("mutate", (0, b""))
    if "td" in arguments:
        arguments["report"] = samples.td_report(**arguments.pop("td"))
    data = bytearray(samples.quote(platform, **arguments))
    data[place : place + len(junk)] = junk
    return platform, bytes(data)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack):
    *_, name, words = ATTACKS[attack]
    platform, data = built(attack)
    verdict = verify_quote(data, platform.policy())
    assert not verdict.passed and verdict.report is None
    assert outcome(verdict).get(name) is Status.FAILED and words in detail(verdict, name)


def theirs(data, platform):
    """The status that dcap-qvl gives, or its error."""
    root, authority, *_ = platform.certificates()
    given = platform.collateral()

    def split(body, name):
        return collateral._ENVELOPE.fullmatch(body)[2].decode(), bytes.fromhex(json.loads(body)["signature"])

    tcb_info, tcb_signature = split(given.tcb_info, "tcbInfo")
    identity, identity_signature = split(given.qe_identity, "enclaveIdentity")
    chain = given.signing_chain.decode()
    statements = dcap_qvl.QuoteCollateralV3(
        samples.pem(authority, root).decode(), given.root_crl, given.pck_crl, chain, tcb_info, tcb_signature,
        chain, identity, identity_signature,
    )  # fmt: skip
    try:
        found = dcap_qvl.verify_with_root_ca(
            data, statements, root.public_bytes(serialization.Encoding.DER), int(samples.NOW.timestamp())
        )
    except Exception as error:
        return error
    return found.status


@pytest.mark.parametrize(("version", "extended"), [(4, False), (5, False), (5, True)])
def test_another_verifier_accepts_what_passes(version, extended):
    assert theirs(samples.quote(version=version, extended=extended), samples.Platform()) == "UpToDate"


#: What dcap-qvl leaves to its caller.
OF_THE_POLICY = ("report data", "registers")


@pytest.mark.parametrize(
    "attack",
    [
        name
        for name, (*_, check, _) in ATTACKS.items()
        if check not in OF_THE_POLICY and "feature" not in name
    ],
)
def test_another_verifier_accepts_no_attack(attack):
    platform, data = built(attack)
    assert theirs(data, platform) != "UpToDate"


def test_a_module_that_was_downgraded_while_the_td_ran():
    data = samples.quote(version=5, report=samples.td_report(extended=True, svn_now=bytes(16)), kind=3)
    verdict = verify_quote(data, samples.Platform().policy())
    assert outcome(verdict) == {"TCB status": Status.FAILED}
    assert theirs(data, samples.Platform()) != "UpToDate"


def test_intels_root_does_not_vouch_for_others():
    verdict = verify_quote(samples.quote(), samples.Platform().policy(roots=(intel.sgx_root_ca(),)))
    assert outcome(verdict)["certificates"] is Status.FAILED
    # Nothing that rests on the chain is believed, and nothing passes by silence.
    for name in ("QE report", "attestation key", "attributes", "report data", "registers"):
        assert outcome(verdict)[name] is Status.SKIPPED


def test_attributes_that_are_not_demanded_are_a_warning():
    policy = samples.Platform().policy(attributes=samples.OPEN, xfam=samples.OPEN)
    verdict = verify_quote(samples.quote(), policy)
    assert verdict.passed and outcome(verdict) == {"attributes": Status.UNPROVEN}
    debug = verify_quote(samples.quote(report=samples.td_report(attributes=1)), policy)
    assert outcome(debug)["attributes"] is Status.FAILED


def test_a_newer_module_version_is_compared_by_its_identity():
    data = samples.quote(report=samples.td_report(svn=bytes([4, 1, *([2] * 14)])))
    assert verify_quote(data, samples.Platform().policy()).passed


def test_every_flipped_byte_of_what_is_signed_fails():
    data = samples.quote()
    policy = samples.Platform().policy()
    for place in range(0, 48 + 584, 7):
        other = bytearray(data)
        other[place] ^= 1
        assert not verify_quote(bytes(other), policy).passed, place


def test_a_policy_must_be_whole():
    platform = samples.Platform()
    for changes in (
        {"roots": ()},
        {"now": dt.datetime(2026, 1, 1)},
        {"mrtd": frozenset()},
        {"mrtd": frozenset({bytes(32)})},
        {"rtmrs": (samples.OPEN,)},
        {"attributes": Bits(required=TdAttributes.DEBUG)},
    ):
        with pytest.raises(FormatError):
            platform.policy(**changes)
    for make in (
        lambda: Bits(required=3, forbidden=1),
        lambda: ReportData(value=bytes(32)),
        lambda: TcbPolicy(collateral=platform.collateral(), accepted=frozenset()),
    ):
        with pytest.raises(FormatError):
            make()


@pytest.mark.parametrize(
    ("place", "junk", "words"),
    [
        (0, b"\3", "version 3; expected 4 or 5"),
        (2, b"\3", "attestation key type 3"),
        (632, b"\xff\xff\xff\x7f", "needs 2147483647 bytes"),
        (636 + 128, b"\7", "certification data of type 7; expected 6"),
    ],
)
def test_malformed_quotes(place, junk, words):
    data = bytearray(QUOTE)
    data[place : place + len(junk)] = junk
    with pytest.raises(FormatError, match=words):
        tdxquote.parse(bytes(data))


def test_quotes_with_something_behind_them():
    with pytest.raises(FormatError, match="behind the quote"):
        tdxquote.parse(QUOTE + b"\1")
    with pytest.raises(LimitError, match="the limit is 65536"):
        tdxquote.parse(QUOTE + bytes(tdxquote.MAX_QUOTE_SIZE))
    with pytest.raises(FormatError, match="body of type 2 with 648 bytes"):
        tdxquote.parse(samples.quote(version=5, extended=True, kind=2))


def test_intels_statements_are_read_as_others_read_them():
    # By go-tdx-guest's pcs package out of the same files.
    key = x509.load_pem_x509_certificates((REAL / "signing-chain.pem").read_bytes())[0].public_key()
    info = collateral.parse_tcb_info(
        collateral.verified((REAL / "tcb-info.json").read_bytes(), "tcbInfo", key)
    )
    assert info.fmspc.hex() == "50806f000000" and [level.status for level in info.levels] == [
        "UpToDate",
        "OutOfDate",
    ]
    assert info.levels[0].tdx[:4] == (3, 0, 5, 0) and info.levels[0].pcesvn == 11
    identity = collateral.parse_qe_identity(
        collateral.verified((REAL / "qe-identity.json").read_bytes(), "enclaveIdentity", key)
    )
    assert tcb.enclave_status(identity, tdxquote.parse(QUOTE).qe_report) == "UpToDate"
    assert hashlib.sha256(identity.mrsigner).digest() != bytes(32) and identity.isvprodid == 2
