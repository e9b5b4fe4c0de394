"""Endorsement keys' certificates: AMD's own, and malformed ones of our own."""

import contextlib
import struct

import pytest
import snp_reports
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, MeasurementError, SignatureError
from measurements.snp import certificates
from measurements.snp.report import Signer
from measurements.snp.tcb import Product, TcbVersion

KEY = ec.generate_private_key(ec.SECP384R1())

#: SHA-256 of the SubjectPublicKeyInfo of each ARK, as the PyPI package secretvm-verify 0.12.0 pins it.
ROOTS = {
    Product.MILAN: "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    Product.GENOA: "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    Product.TURIN: "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}


@pytest.fixture(scope="module")
def authority():
    return snp_reports.Authority()


@pytest.mark.parametrize(("product", "fingerprint"), ROOTS.items())
def test_amds_certificates(product, fingerprint):
    root, *signing = certificates.roots(product)
    info = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(info)
    assert digest.finalize().hex() == fingerprint
    assert len(signing) == 2
    for item in (root, *signing):
        item.verify_directly_issued_by(root)


@pytest.mark.parametrize(
    ("name", "product", "tcb"),
    [
        ("milan-v2", Product.MILAN, TcbVersion(bootloader=2, tee=0, snp=5, microcode=68)),
        ("milan-v2-2026", Product.MILAN, TcbVersion(bootloader=2, tee=0, snp=5, microcode=68)),
        ("genoa-v3", Product.GENOA, TcbVersion(bootloader=9, tee=0, snp=23, microcode=72)),
        # As in the request that oak's test data names: ucodeSPL=71&snpSPL=2&teeSPL=0&blSPL=1&fmcSPL=0
        ("turin-v5", Product.TURIN, TcbVersion(fmc=0, bootloader=1, tee=0, snp=2, microcode=71)),
    ],
)
def test_real_certificates(name, product, tcb):
    (certificate,) = certificates.load(snp_reports.certificate(name))
    found = certificates.endorsement(certificate)
    assert (found.signer, found.product, found.tcb, found.csp_id) == (Signer.VCEK, product, tcb, None)
    certificates.verify(found, (), snp_reports.NOW)


def test_chip_id_of_turin_has_eight_bytes():
    (certificate,) = certificates.load(snp_reports.certificate("turin-v5"))
    assert certificates.endorsement(certificate).chip_id == bytes.fromhex("3b42092f69c656d3").ljust(64, b"\0")


def test_vlek(authority):
    found = certificates.endorsement(authority.endorse(KEY.public_key(), vlek="Some Cloud"))
    assert (found.signer, found.csp_id, found.chip_id) == (Signer.VLEK, "Some Cloud", None)
    certificates.verify(found, [authority.vlek_middle], snp_reports.NOW, [authority.root])


def test_containers(authority):
    vcek = authority.endorse(KEY.public_key())
    pem = vcek.public_bytes(Encoding.PEM) + authority.middle.public_bytes(Encoding.PEM)
    assert certificates.load(pem) == (vcek, authority.middle)
    parts = [snp_reports.der(vcek), snp_reports.der(authority.middle)]
    table, offset = b"", 3 * 24
    for part in parts:
        table += struct.pack("<16sII", b"g" * 16, offset, len(part))
        offset += len(part)
    assert certificates.load(table + bytes(24) + b"".join(parts)) == (vcek, authority.middle)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither PEM, DER nor"),
        (bytes(24), "no certificate found"),
        (b"\x30\x03abc", "a certificate is malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate is malformed"),
        (b"-----BEGIN CERTIFICATE-----\n", "no certificate found"),
        (struct.pack("<16sII", b"g" * 16, 24, 100), "outside of the table's 24"),
        (struct.pack("<16sII", b"g" * 16, 0, 0), "outside of the table's 24"),
    ],
)
def test_files_without_certificates(data, message):
    with pytest.raises(FormatError, match=message):
        certificates.load(data)


def test_limits(authority):
    with pytest.raises(LimitError, match="the limit is 262144"):
        certificates.load(bytes(262145))
    with pytest.raises(LimitError, match="17 certificates"):
        certificates.load(authority.root.public_bytes(Encoding.PEM) * 17)


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ({"2": None}, r"extension 1\.3\.6\.1\.4\.1\.3704\.1\.2 is no text"),
        ({"2": b"\x16\x05Rome "}, "product 'Rome ' is not known"),
        ({"2": b"\x16\x02\xff\xff"}, "is not ASCII"),
        ({"3_1": None}, "is no number from 0 to 255"),
        ({"3_3": b"\x02\x02\x01\x00"}, "is 256; expected 0 to 255"),
        ({"3_8": b"\x04\x01\x00"}, "is no number"),
        ({"4": b"short"}, "chip id of 5 bytes; expected 64"),
        ({"4": None}, "chip id of 0 bytes"),
    ],
)
def test_malformed_endorsements(authority, extensions, message):
    with pytest.raises(FormatError, match=message):
        certificates.endorsement(authority.endorse(KEY.public_key(), **extensions))


def test_a_key_on_another_curve(authority):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(FormatError, match="the key is not on P-384"):
        certificates.endorsement(authority.endorse(other))


def test_an_authority_is_no_endorsement_key(authority):
    assert not certificates.is_endorsement(authority.middle)
    with pytest.raises(FormatError, match="certificate of 'SEV-Genoa'; expected SEV-VCEK or SEV-VLEK"):
        certificates.endorsement(authority.middle)


def test_a_chain_of_our_own_is_not_amds(authority):
    found = certificates.endorsement(authority.endorse(KEY.public_key()))
    with pytest.raises(SignatureError, match="certificate chain"):
        certificates.verify(found, [authority.middle, authority.root], snp_reports.NOW)
    certificates.verify(found, [authority.middle], snp_reports.NOW, [authority.root])


def test_an_expired_certificate(authority):
    found = certificates.endorsement(authority.endorse(KEY.public_key(), days=-1))
    with pytest.raises(SignatureError, match="is valid from"):
        certificates.verify(found, [authority.middle], snp_reports.NOW, [authority.root])


def test_a_vlek_authority_does_not_endorse_chips(authority):
    found = certificates.endorsement(authority.endorse(KEY.public_key()))
    with pytest.raises(SignatureError):
        certificates.verify(found, [authority.vlek_middle], snp_reports.NOW, [authority.root])


def test_a_root_of_another_generation(authority):
    other = snp_reports.Authority("Milan")
    vcek = other.endorse(KEY.public_key(), product="Genoa")
    with pytest.raises(SignatureError):
        certificates.verify(certificates.endorsement(vcek), [other.middle], snp_reports.NOW, [other.root])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_certificates_raise_nothing_else(data):
    mutated = bytearray(snp_reports.certificate("genoa-v5"))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MeasurementError):
        for item in certificates.load(bytes(mutated)):
            certificates.verify(certificates.endorsement(item), (), snp_reports.NOW)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data):
    with contextlib.suppress(FormatError):
        certificates.load(data)


def test_names_are_read_from_one_attribute_only(authority):
    twice = x509.Name([*snp_reports.name("SEV-VCEK"), *snp_reports.name("SEV-Genoa")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(twice)
        .issuer_name(twice)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(snp_reports.NOW)
        .not_valid_after(snp_reports.NOW)
        .sign(KEY, hashes.SHA384())
    )
    assert not certificates.is_endorsement(certificate)
