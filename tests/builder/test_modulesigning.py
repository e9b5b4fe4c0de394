"""Signing the modules of a build, with a key or with what it published."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from builder.errors import ImageError, UsageError
from builder.image.secureboot import keyset
from builder.image.secureboot.modules import MARKER, split_module
from builder.image.secureboot.signer import load_certificate, load_signer
from builder.modulesigning import (
    PublishedSignatures,
    certificate_pem,
    module_signatures,
    signed,
    write_modules,
)
from builder.rootfs import CompiledModule
from builder.tree import Origin

MODULES = {"one": b"\x7fELF one", "two": b"\x7fELF two"}
DAY = date(2026, 11, 22)
DAY_TIME = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def signer():
    return keyset.make_key_set("Tests", size=2048, valid_from=DAY, years=3).image_key


@pytest.fixture(scope="module")
def published(signer):
    files = {name: split_module(module)[1] for name, module in signed(MODULES, signer).items()}
    return PublishedSignatures(certificate=signer.certificate, files=files, where="there")


def changed(published, **files):
    kept = {name: content for name, content in (published.files | files).items() if content is not None}
    return PublishedSignatures(certificate=published.certificate, files=kept, where="there")


def compiled(modules):
    origin = Origin(kind="package", name="source", version="1")
    return tuple(
        CompiledModule(name=name, content=content, origin=origin) for name, content in modules.items()
    )


def test_key_and_published_signatures_give_the_same_bytes(signer, published):
    with_key = signed(MODULES, signer)
    assert with_key == signed(MODULES, signer) == signed(MODULES, published)
    for name, module in MODULES.items():
        assert with_key[name].startswith(module) and with_key[name].endswith(MARKER)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"two": None}, "there: no signature of two: expected two.ko.p7s"),
        (
            {"three": b"x"},
            "there: three.ko.p7s: no such module is compiled here; expected signatures of one, two",
        ),
        ({"two": b"x"}, "there/two.ko.p7s: the signature names another signer"),
        ({"two": b""}, "there/two.ko.p7s: the signature names another signer"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(published, files, message):
    with pytest.raises(ImageError, match=message):
        signed(MODULES, changed(published, **files))


def test_signatures_that_were_exchanged_are_refused(published):
    files = published.files
    with pytest.raises(ImageError, match=r"there/one\.ko\.p7s: .* about other bytes"):
        signed(MODULES, changed(published, one=files["two"], two=files["one"]))


def test_where_nothing_is_compiled_there_is_nothing_to_sign(signer):
    with pytest.raises(UsageError, match="compiles no modules"):
        signed({}, signer)


def test_module_and_signature_are_published_apart(signer, published, tmp_path):
    modules = compiled(signed(MODULES, signer))
    written = write_modules(modules, tmp_path)
    assert {path.name: path.read_bytes() for path in written} == {
        "one.ko": MODULES["one"], "one.ko.p7s": published.files["one"],
        "two.ko": MODULES["two"], "two.ko.p7s": published.files["two"],
    }  # fmt: skip
    assert x509.load_pem_x509_certificate(certificate_pem(signer)) == signer.certificate
    made = module_signatures(modules, signer)
    assert sorted((each.unsigned, each.file, each.signer) for each in made.values()) == [
        ("one.ko", "one.ko.p7s", "CN=Tests Secure Boot db"), ("two.ko", "two.ko.p7s", "CN=Tests Secure Boot db"),
    ]  # fmt: skip


def test_an_unsigned_build_publishes_modules_alone(tmp_path):
    modules = compiled(MODULES)
    assert [path.name for path in write_modules(modules, tmp_path)] == ["one.ko", "two.ko"]
    assert module_signatures(modules, None) == {}


def test_ecdsa_keys_are_refused():
    """Their signatures differ each time, so nobody could sign again and compare."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "elliptic")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(DAY_TIME).not_valid_after(DAY_TIME.replace(year=2030))
        .sign(key, hashes.SHA384())
    )  # fmt: skip
    pem = certificate.public_bytes(Encoding.PEM)
    with pytest.raises(ImageError, match=r"expected an RSA key .* deterministic"):
        load_certificate(pem)
    with pytest.raises(ImageError, match="expected an RSA key"):
        load_signer(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), pem)
    with pytest.raises(ImageError, match="expected an RSA key"):
        signed(MODULES, PublishedSignatures(certificate=certificate, files={}, where="there"))
