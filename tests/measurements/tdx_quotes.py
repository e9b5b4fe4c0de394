"""Quotes of an imaginary platform: certificates, statements and revocation lists after Intel's formats, own keys."""

import datetime as dt
import functools
import hashlib
import json
import struct
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from measurements.policy import Unproven
from measurements.tdx.collateral import Collateral
from measurements.tdx.policy import Bits, ReportData, TcbPolicy, TdxPolicy

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
FMSPC, PCEID = "50806f000000", "0000"
OPEN = Unproven(reason="not of interest here")
REPORT_DATA = hashlib.sha512(b"nonce").digest()
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = bytes(range(32))
RTMRS = tuple(hashlib.sha384(b"rtmr%d" % index).digest() for index in range(4))
MRTD = hashlib.sha384(b"mrtd").digest()


def raw_signature(key, message):
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key):
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _der(tag, content):
    length = bytes([len(content)]) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes([tag]) + length + content


def sgx_extension(*, fmspc=FMSPC, pceid=PCEID, components=(5,) * 16, pcesvn=11, leave_out=()):
    """The value of 1.2.840.113741.1.13.1, in the order of Intel's profile."""
    prefix = bytes.fromhex("2a864886f84d010d01")

    def entry(path, value):
        return _der(0x30, _der(0x06, prefix + bytes(path)) + value)

    versions = b"".join(
        entry((2, index), _der(0x02, bytes([svn])))
        for index, svn in enumerate((*components, pcesvn), start=1)
    )
    entries = {
        1: _der(0x04, bytes(16)),
        2: _der(0x30, versions + entry((2, 18), _der(0x04, bytes(components)))),
        3: _der(0x04, bytes.fromhex(pceid)),
        4: _der(0x04, bytes.fromhex(fmspc)),
        5: _der(0x0A, b"\1"),
    }
    return _der(
        0x30, b"".join(entry((key,), value) for key, value in entries.items() if key not in leave_out)
    )


@functools.cache  # signatures are random, and a root is one certificate
def certificate(subject, key, issuer, issuer_key, *, ca, extension=None, until=NOW + 365 * DAY):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big"))
        .not_valid_before(NOW - 365 * DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), extension),
            critical=False,
        )
    return builder.sign(issuer_key, hashes.SHA256())


def crl(issuer, key, revoked=(), *, until=NOW + DAY):
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(NOW - DAY)
        .next_update(until)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for item in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(item.serial_number)
            .revocation_date(NOW - DAY)
            .build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def pem(*certificates):
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


@functools.cache
def key(name):
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"), ec.SECP256R1()
    )


def tcb_info(**changes):
    zero = "00" * 48
    level = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": 5}] * 16,
            "tdxtcbcomponents": [{"svn": 3}, {"svn": 0}, *([{"svn": 2}] * 14)],
            "pcesvn": 11,
        },
        "tcbDate": "2026-01-01T00:00:00Z",
        "tcbStatus": "UpToDate",
    }
    older = json.loads(json.dumps(level))
    older["tcb"]["pcesvn"], older["tcbStatus"] = 5, "OutOfDate"
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": "2026-11-01T00:00:00Z",
        "nextUpdate": "2026-12-01T00:00:00Z",
        "fmspc": FMSPC,
        "pceId": PCEID,
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tdxModule": {"mrsigner": zero, "attributes": "00" * 8, "attributesMask": "FF" * 8},
        "tdxModuleIdentities": [
            {
                "id": "TDX_01",
                "mrsigner": zero,
                "attributes": "00" * 8,
                "attributesMask": "FF" * 8,
                "tcbLevels": [
                    {"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
                    {"tcb": {"isvsvn": 2}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "OutOfDate"},
                ],
            }
        ],
        "tcbLevels": [level, older],
    } | changes


def qe_identity(**changes):
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-11-01T00:00:00Z",
        "nextUpdate": "2026-12-01T00:00:00Z",
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex(),
        "isvprodid": 2,
        "tcbLevels": [
            {"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
            {"tcb": {"isvsvn": 1}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "OutOfDate"},
        ],
    } | changes


def signed(name, value, signer="signer"):
    text = json.dumps(value, separators=(",", ":")).encode()
    return b'{"%s":%s,"signature":"%s"}' % (
        name.encode(),
        text,
        raw_signature(key(signer), text).hex().encode(),
    )


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Everything about one machine that a test may change."""

    extension: bytes = sgx_extension()
    pck_until: dt.datetime = NOW + 365 * DAY
    revoked: tuple = ()
    crl_until: dt.datetime = NOW + DAY
    tcb_info: bytes = b""
    qe_identity: bytes = b""

    def certificates(self):
        root = certificate("root", key("root"), "root", key("root"), ca=True)
        authority = certificate("authority", key("authority"), "root", key("root"), ca=True)
        leaf = certificate(
            "pck",
            key("pck"),
            "authority",
            key("authority"),
            ca=False,
            extension=self.extension,
            until=self.pck_until,
        )
        signer = certificate("signer", key("signer"), "root", key("root"), ca=False)
        return root, authority, leaf, signer

    def collateral(self):
        root, authority, leaf, signer = self.certificates()
        everyone = {"pck": leaf, "authority": authority, "signer": signer}
        return Collateral(
            tcb_info=self.tcb_info or signed("tcbInfo", tcb_info()),
            qe_identity=self.qe_identity or signed("enclaveIdentity", qe_identity()),
            signing_chain=pem(signer, root),
            pck_crl=crl(
                authority,
                key("authority"),
                [everyone[n] for n in self.revoked if n == "pck"],
                until=self.crl_until,
            ),
            root_crl=crl(root, key("root"), [everyone[n] for n in self.revoked if n != "pck"]),
        )

    def policy(self, **changes):
        values = {
            "roots": self.certificates()[:1],
            "now": NOW,
            "tcb": TcbPolicy(collateral=self.collateral(), accepted=frozenset({"UpToDate"})),
            "report_data": ReportData(value=REPORT_DATA),
            "mrtd": frozenset({MRTD}),
            "rtmrs": tuple(frozenset({value}) for value in RTMRS),
            "mrconfigid": frozenset({bytes(48)}),
            "mrowner": frozenset({bytes(48)}),
            "mrownerconfig": frozenset({bytes(48)}),
            "attributes": Bits(required=1 << 28),
            "xfam": Bits(required=3),
        } | changes
        return TdxPolicy(**values)


def td_report(
    *,
    svn=bytes([3, 0, *([2] * 14)]),
    signer=bytes(48),
    attributes=1 << 28,
    xfam=0x600E7,
    mrtd=MRTD,
    rtmrs=RTMRS,
    report_data=REPORT_DATA,
    mrowner=bytes(48),
    extended=False,
    svn_now=bytes([3, 0, *([2] * 14)]),
    service=bytes(48),
):
    body = svn + bytes(48) + signer + bytes(8) + struct.pack("<QQ", attributes, xfam) + mrtd + bytes(48)
    body += mrowner + bytes(48) + b"".join(rtmrs) + report_data
    return body + (svn_now + service if extended else b"")


def qe_report(bound, *, signer=QE_SIGNER, product=2, svn=4, attributes="15" + "00" * 7 + "e7" + "00" * 7):
    report = bytes(16) + bytes(4) + bytes(28) + bytes.fromhex(attributes) + bytes(32) + bytes(32) + signer
    return report + bytes(96) + struct.pack("<HH", product, svn) + bytes(60) + bound


def quote(
    platform=None,
    *,
    version=4,
    report=None,
    extended=False,
    enclave=None,
    bound_key="attestation",
    signing_key="attestation",
    pck="pck",
    chain=None,
    vendor=VENDOR,
    kind=None,
):
    """Return a quote; arguments are what an attacker, or another machine, does differently."""
    body = td_report(extended=extended) if report is None else report
    header = struct.pack("<HHIHH", version, 2, 0x81, 0, 0) + vendor + bytes(20)
    if version == 5:
        header += struct.pack("<HI", kind or (3 if extended else 2), len(body))
    auth = bytes(range(32))
    bound = hashlib.sha256(point(key(bound_key)) + auth).digest() + bytes(32)
    report_of_enclave = qe_report(bound, **(enclave or {}))
    root, authority, leaf, _ = (platform or Platform()).certificates()
    certificates = pem(leaf, authority, root) if chain is None else chain
    inner = (
        report_of_enclave + raw_signature(key(pck), report_of_enclave) + struct.pack("<H", len(auth)) + auth
    )
    inner += struct.pack("<HI", 5, len(certificates)) + certificates
    section = raw_signature(key(signing_key), header + body) + point(key("attestation"))
    section += struct.pack("<HI", 6, len(inner)) + inner
    return header + body + struct.pack("<I", len(section)) + section


def changed(policy, **changes):
    return replace(policy, **changes)
