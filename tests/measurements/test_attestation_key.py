"""Attacks on check 6: certificates of an attestation key."""

from datetime import timedelta

import pytest
from attester import (
    AK,
    NOW,
    OTHER_AK,
    policy,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from verifying import failed, run

from measurements import attestation_key
from measurements.errors import FormatError
from measurements.policy import CertificateChain, ExpectedNonce, Policy


def certificate(subject, key, issuer, issuer_key, *, ca=False, days=(-1, 1), usage=None, path_length=None):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(value):
    return value.public_bytes(Encoding.PEM).decode()


ROOT_KEY, MIDDLE_KEY = ec.derive_private_key(11, ec.SECP384R1()), ec.derive_private_key(12, ec.SECP256R1())
ROOT = certificate("root", ROOT_KEY, "root", ROOT_KEY, ca=True)
MIDDLE = certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True)
LEAF = certificate("ak", AK, "middle", MIDDLE_KEY)


def run_chain(*certificates, roots=(ROOT,), now=NOW):
    def add(value):
        value["attestation_key"]["certificates"] = [pem(item) for item in certificates]

    return run(edit=add, attestation_key=CertificateChain(roots=roots, now=now))


def test_certified_key_passes_with_and_without_the_root_in_the_chain():
    for chain in ((LEAF, MIDDLE), (LEAF, MIDDLE, ROOT)):
        verdict = run_chain(*chain)
        assert verdict.passed, verdict.failures
    direct = certificate("ak", AK, "root", ROOT_KEY)
    assert run_chain(direct).passed


CHAIN_ATTACKS = {
    "no_certificate": (),
    "intermediate_left_out": (LEAF,),
    "certificate_of_another_key": (certificate("ak", OTHER_AK, "middle", MIDDLE_KEY), MIDDLE),
    "self_signed": (certificate("ak", AK, "ak", AK),),
    "root_of_the_same_name": (LEAF, certificate("middle", MIDDLE_KEY, "root", OTHER_AK, ca=True)),
    "issuer_is_no_authority": (LEAF, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY)),
    "leaf_is_an_authority": (certificate("ak", AK, "middle", MIDDLE_KEY, ca=True), MIDDLE),
    "leaf_expired": (certificate("ak", AK, "middle", MIDDLE_KEY, days=(-9, -1)), MIDDLE),
    "intermediate_not_yet_valid": (
        LEAF, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True, days=(1, 2))),
    "leaf_must_not_sign": (
        certificate("ak", AK, "middle", MIDDLE_KEY, usage=x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=True,
            data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
            encipher_only=False, decipher_only=False)),
        MIDDLE,
    ),
    "unknown_critical_extension": (
        certificate("ak", AK, "middle", MIDDLE_KEY,
                    usage=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
        MIDDLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", CHAIN_ATTACKS)
def test_certificate_chain_attack(attack):
    assert list(failed(run_chain(*CHAIN_ATTACKS[attack]))) == [6]


def test_certificate_under_an_authority_that_may_not_have_any_below():
    root = certificate("root", ROOT_KEY, "root", ROOT_KEY, ca=True, path_length=0)
    assert "allows 0 authorities" in failed(run_chain(LEAF, MIDDLE, roots=(root,)))[6]


def test_certificate_of_a_stranger_root():
    stranger = certificate("root", OTHER_AK, "root", OTHER_AK, ca=True)
    assert list(failed(run_chain(LEAF, MIDDLE, roots=(stranger,)))) == [6]


def key_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_keys_that_no_trusted_tpm_quotes_with_are_refused():
    # docs/golden-format.md, 9
    weak_rsa = rsa.RSAPublicNumbers(65537, (1 << 1023) + 1155).public_key()
    short = weak_rsa.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text, message in (
        (short, "RSA of 1024 bits"),
        (key_pem(ed25519.Ed25519PrivateKey.generate()), "Ed25519"),
        (key_pem(ec.derive_private_key(3, ec.SECP256K1())), "secp256k1"),
        ("junk", "not a PEM"),
        ("x" * 20_000, "at most"),
    ):
        with pytest.raises(FormatError, match=message):
            attestation_key.load_attestation_key(text)


def test_certificates_that_are_none_are_refused():
    with pytest.raises(FormatError, match="not PEM"):
        attestation_key.load_certificates("junk")
    assert attestation_key.load_certificates(pem(ROOT) + pem(MIDDLE)) == (ROOT, MIDDLE)


def test_policies_that_cannot_be_meant_cannot_be_made():
    with pytest.raises(FormatError, match="time zone"):
        CertificateChain(roots=(ROOT,), now=NOW.replace(tzinfo=None))
    with pytest.raises(FormatError, match="time zone"):
        policy(now=NOW.replace(tzinfo=None))
    with pytest.raises(FormatError, match="expected 1 to"):
        CertificateChain(roots=(), now=NOW)
    for size in (0, 15, 65):
        with pytest.raises(FormatError, match="16 to 64"):
            ExpectedNonce(value=bytes(size))
    with pytest.raises(TypeError):
        Policy(signers=(), threshold=1, now=None, minimum_svn=0)  # neither nonce nor key has a default
