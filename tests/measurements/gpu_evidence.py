"""Evidence of a real H100, and GPUs, chips and reference values of our own to vary what it does not."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponderEncoding, OCSPResponseBuilder
from lxml import etree
from signxml import CanonicalizationMethod, DigestAlgorithm, SignatureMethod, methods
from signxml.signer import XMLSigner

from measurements.gpu.evidence import GateRecord, GateStep, GpuEvidence, GpuReport
from measurements.gpu.expectations import Architecture, GpuExpectations, RimReference
from measurements.gpu.rim import RimKind

VECTORS = Path(__file__).parents[1] / "vectors" / "nvidia"
REPORT = bytes.fromhex((VECTORS / "h100.report.txt").read_text().strip())
CHAIN = (VECTORS / "h100.chain.pem").read_bytes()
#: NVIDIA's reference values for the driver and VBIOS of that report, by RIM and index; all others are inactive.
REFERENCE = {
    name: {int(index): values for index, values in found.items()}
    for name, found in json.loads((VECTORS / "reference-values.json").read_text()).items()
}
DRIVER_VALUES = REFERENCE["NV_GPU_DRIVER_GH100_550.90.07"]
VBIOS_VALUES = REFERENCE["NV_GPU_VBIOS_1010_0200_882_96009F0001"]
NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
#: When NVIDIA's manifests among the vectors were valid.
THEN = datetime.datetime(2024, 6, 1, tzinfo=datetime.UTC)
RIMS = {
    name: (VECTORS / name).read_bytes()
    for name in ("driver-545.00.swidtag", "vbios-96.00.5E.00.01.swidtag", "vbios-96.00.6D.00.29.swidtag")
}

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
ZEROS = "00" * 48


def raw_signature(key, content):
    r, s = decode_dss_signature(key.sign(content, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def certificate(name, key, issuer=None, issuer_key=None, *, ca=True, extensions=(), days=3650):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(THEN - datetime.timedelta(days=1))
        .not_valid_after(THEN + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA384())


def _new_key():
    return ec.generate_private_key(ec.SECP384R1())


def pem(*certificates):
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def crl(issuer, key, *revoked, days=30, extensions=(), encoding=Encoding.DER):
    """A revocation list of the day before `THEN`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(THEN - datetime.timedelta(days=1))
        .next_update(THEN + datetime.timedelta(days=days))
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(THEN).build())
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(key, hashes.SHA384()).public_bytes(encoding)


def ocsp(issuer, key, certificate, *, status="good", at=THEN, responder=None, algorithm=None, days=1):
    """An OCSP response of one status, by ``responder`` (the issuer itself if absent)."""
    revoked = status == "revoked"
    builder = OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=issuer,
        algorithm=algorithm or hashes.SHA384(),
        cert_status=OCSPCertStatus[status.upper()],
        this_update=at - datetime.timedelta(hours=1),
        next_update=None if days is None else at + datetime.timedelta(days=days),
        revocation_time=at if revoked else None,
        revocation_reason=None,
    )
    if responder is not None:
        builder = builder.certificates([responder])
    builder = builder.responder_id(OCSPResponderEncoding.HASH, responder or issuer)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


class Authority:
    """A root, an authority below it, and certificates from that."""

    def __init__(self, name):
        self.root_key, self.key = _new_key(), _new_key()
        self.root = certificate(f"{name} root", self.root_key)
        self.issuer = certificate(f"{name} authority", self.key, self.root, self.root_key)

    def issue(self, name, key, **options):
        return certificate(name, key, self.issuer, self.key, ca=False, **options)


DEVICES = Authority("Devices")
MANIFESTS = Authority("Manifests")
SIGNER_KEY = _new_key()
SIGNER = MANIFESTS.issue("Signer", SIGNER_KEY)


def sequence(*parts, tag=0x30):
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x81, len(body)])
    return bytes([tag]) + length + body


def fwid(digest):
    return sequence(bytes.fromhex("0609608648016503040202"), sequence(digest, tag=0x04))


def tcb_info(*digests):
    """DiceTcbInfo as Blackwell's certificates have it: vendor, model, svn, fwids, flags."""
    return sequence(
        sequence(b"NVIDIA", tag=0x80),
        sequence(b"GB100 A01 GSP", tag=0x81),
        sequence(b"\3", tag=0x83),
        sequence(*map(fwid, digests), tag=0xA6),
        sequence(b"\0\0\0\0\1", tag=0x87),
    )


def extension(value, oid="2.23.133.5.4.1.1"):
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


@dataclass
class Gpu:
    """A GPU under `DEVICES`; everything that its report says can be chosen."""

    name: str = "GH100 A01 GSP FMC LF"
    nonce: bytes = NONCE
    measurements: dict = field(default_factory=dict)
    opaque: dict = field(default_factory=dict)
    extensions: tuple = ()
    key: object = field(default_factory=_new_key)

    def __post_init__(self):
        values = {index: bytes.fromhex(found[0]) for index, found in (DRIVER_VALUES | VBIOS_VALUES).items()}
        self.measurements = {index: bytes(48) for index in range(64)} | values | self.measurements
        self.opaque = {
            3: b"550.90.07\0",
            6: bytes.fromhex("009f009601000000"),
            11: b"\xaa",
            15: b"882\0",
            17: b"1010\0",
            18: b"0200\0",
        } | self.opaque

    def chain(self, **options):
        leaf = DEVICES.issue(self.name, self.key, extensions=self.extensions, **options)
        return pem(leaf, DEVICES.issuer, DEVICES.root)

    def report(self):
        record = b"".join(
            bytes([index + 1, 1]) + (51).to_bytes(2, "little") + b"\1" + (48).to_bytes(2, "little") + value
            for index, value in sorted(self.measurements.items())
            if value is not None
        )
        opaque = b"".join(
            kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
            for kind, value in self.opaque.items()
            if value is not None
        )
        count = sum(value is not None for value in self.measurements.values())
        signed = b"\x11\xe0\x01\xff" + self.nonce + b"\0"
        signed += b"\x11\x60\0\0" + bytes([count]) + len(record).to_bytes(3, "little") + record
        signed += bytes(32) + len(opaque).to_bytes(2, "little") + opaque
        return signed + raw_signature(self.key, signed)


def manifest(version, values, *, product="GH100", inactive=None, change=lambda root: None):
    """A manifest in NVIDIA's form, not signed yet."""
    root = etree.Element(f"{{{SWID}}}SoftwareIdentity", nsmap={None: SWID, "ns0": SWID, "ns2": SHA384})
    root.attrib.update({"name": product, "tagId": "0" * 96, "version": "1.0", "corpus": "false"})
    etree.SubElement(root, f"{{{SWID}}}Entity", name="Tests", role="softwareCreator tagCreator")
    etree.SubElement(root, f"{{{SWID}}}Meta", colloquialVersion=version, product=product, edition="GPU")
    payload = etree.SubElement(root, f"{{{SWID}}}Payload")
    every = {index: (found, "True") for index, found in values.items()}
    every |= {index: (found, "False") for index, found in (inactive or {}).items()}
    for index, (found, active) in sorted(every.items()):
        resource = etree.SubElement(payload, f"{{{SWID}}}Resource", type="Measurement", index=str(index))
        resource.attrib.update(
            {"active": active, "alternatives": str(len(found)), "name": f"M_{index}", "size": "48"}
        )
        for number, value in enumerate(found):
            resource.set(f"{{{SHA384}}}Hash{number}", value)
    change(root)
    return root


def signed(root, *, key=SIGNER_KEY, signer=SIGNER, authorities=(MANIFESTS.issuer, MANIFESTS.root)):
    """A manifest with the enveloped signature that signxml makes."""
    writer = XMLSigner(
        method=methods.enveloped,
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    chain = "".join(each.public_bytes(Encoding.PEM).decode() for each in (signer, *authorities))
    return etree.tostring(writer.sign(root, key=key, cert=chain))


DRIVER_RIM = signed(manifest("550.90.07", DRIVER_VALUES, inactive={60: [ZEROS]}))
VBIOS_RIM = signed(manifest("96.00.9F.00.01", VBIOS_VALUES))


def reference(identifier, kind, version, data, *, chip="GH100"):
    """The pin of a manifest, imported at `THEN`."""
    sha256 = hashlib.sha256(data).hexdigest()
    return RimReference(id=identifier, kind=kind, chip=chip, version=version, sha256=sha256, judged_at=THEN)


DRIVER_PIN = reference("NV_GPU_DRIVER_GH100_550.90.07", RimKind.DRIVER, "550.90.07", DRIVER_RIM)
VBIOS_PIN = reference("NV_GPU_VBIOS_1010_0200_882_96009F0001", RimKind.VBIOS, "96.00.9F.00.01", VBIOS_RIM)
#: What an image for one GPU like that of the report expects.
EXPECTED = GpuExpectations(
    architecture=Architecture.HOPPER,
    driver_version="550.90.07",
    count=1,
    vbios=("96.00.9F.00.01",),
    rims=(DRIVER_PIN, VBIOS_PIN),
)
GENUINE = GpuReport(
    uuid="GPU-00000000-0000-0000-0000-000000000001",
    architecture="hopper",
    report=REPORT,
    certificates=CHAIN,
)
READY = GateRecord(ready=True, steps=(GateStep(name="confidential mode", ok=True, detail="on"),))


def machine(*gpus, **options):
    """The evidence of a machine that is in order, with these GPUs (the genuine one if none)."""
    said = {
        "nonce": NONCE,
        "gate": READY,
        "driver_version": "550.90.07",
        "confidential_mode": True,
        "developer_tools": False,
        "ready": True,
        "nvswitches": 0,
        "gpus": gpus or (GENUINE,),
    }
    return GpuEvidence(**(said | options))


def entry(gpu, number=1, **options):
    """A `Gpu` as the evidence has it."""
    said = {
        "uuid": f"GPU-00000000-0000-0000-0000-{number:012d}",
        "architecture": "hopper",
        "report": gpu.report(),
        "certificates": gpu.chain(),
    }
    return GpuReport(**(said | options))
