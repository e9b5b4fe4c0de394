"""Certificates of GPUs: NVIDIA's roots, chains, and the firmware that a key belongs to."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_evidence import (
    CHAIN,
    DEVICES,
    THEN,
    Authority,
    certificate,
    extension,
    fwid,
    sequence,
    tcb_info,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError, SignatureError
from measurements.gpu.certificates import (
    DEVICE_ROOT,
    RIM_ROOT,
    chip_of,
    firmware_id_of,
    load_chain,
    verify_chain,
)

GPU = load_chain(CHAIN)
KEY = ec.generate_private_key(ec.SECP384R1())
DIGEST = bytes(range(48))


def test_roots():
    # "openssl x509 -fingerprint -sha256" of verifier_device_root.pem and verifier_RIM_root.pem, nv-local-gpu-verifier
    # 2.7.3; the first also ends the chain of every GPU, the second that of every RIM.
    assert hashlib.sha256(DEVICE_ROOT.public_bytes(Encoding.DER)).hexdigest() == (
        "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
    )
    assert hashlib.sha256(RIM_ROOT.public_bytes(Encoding.DER)).hexdigest() == (
        "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
    )
    assert GPU[-1] == DEVICE_ROOT


def test_the_chain_of_an_h100():
    assert len(GPU) == 5 and chip_of(GPU[0]) == "GH100"
    assert verify_chain(GPU, DEVICE_ROOT, THEN) == GPU[0].public_key()
    assert verify_chain(GPU[:-1], DEVICE_ROOT, THEN) == GPU[0].public_key()
    assert firmware_id_of(GPU[0]).hex().startswith("f5c384aebb579217a2c66b17ed0f28e6")
    assert firmware_id_of(GPU[1]) is None


@pytest.mark.parametrize(
    ("chain", "root"),
    [
        ((), DEVICE_ROOT),
        (GPU, RIM_ROOT),
        (GPU, DEVICES.root),
        (GPU[1:], DEVICE_ROOT),
        (GPU[::-1], DEVICE_ROOT),
        ((GPU[0], *GPU[2:]), DEVICE_ROOT),
        (GPU[:3], DEVICE_ROOT),
        ((*GPU[:4], GPU[2], GPU[4]), DEVICE_ROOT),
        ((DEVICES.issue("GH100", KEY), *GPU[1:]), DEVICE_ROOT),
    ],
    ids=["empty", "other-root", "test-root", "no-leaf", "reversed", "hole", "cut", "doubled", "other-leaf"],
)
def test_chains_that_do_not_hold(chain, root):
    with pytest.raises(SignatureError, match="certificate chain"):
        verify_chain(chain, root, THEN)


def test_times():
    with pytest.raises(SignatureError, match="is valid from"):
        verify_chain(GPU, DEVICE_ROOT, THEN.replace(year=2021))


def test_keys_of_other_kinds():
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(SignatureError, match="not on P-384"):
            verify_chain((DEVICES.issue("GH100", key), DEVICES.issuer), DEVICES.root, THEN)


def test_authorities_do_not_attest():
    assert verify_chain((DEVICES.issue("GH100", KEY), DEVICES.issuer), DEVICES.root, THEN)
    with pytest.raises(SignatureError, match="is an authority's"):
        verify_chain((DEVICES.issuer, DEVICES.root), DEVICES.root, THEN)


def test_a_forged_authority():
    other = Authority("Devices")
    with pytest.raises(SignatureError):
        verify_chain((other.issue("GH100", KEY), other.issuer, DEVICES.root), DEVICES.root, THEN)


def test_versions_that_do_not_exist():
    der = GPU[0].public_bytes(Encoding.DER)
    changed = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1)
    text = base64.encodebytes(changed)
    with pytest.raises(FormatError):
        load_chain(b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n")


def test_files():
    assert load_chain(CHAIN.replace(b"\n", b"\r\n")) == GPU
    for data, error in (
        (b"", FormatError),
        (b"\xff", FormatError),
        (CHAIN.replace(b"MII", b"MIJ"), FormatError),
        (CHAIN * 2, LimitError),
        (bytes(1 << 17), LimitError),
    ):
        with pytest.raises(error):
            load_chain(data)


def leaf(*extensions):
    return DEVICES.issue("GB100 A01 GSP FMC LF", KEY, extensions=extensions)


def test_firmware_of_blackwell():
    assert firmware_id_of(leaf(extension(tcb_info(DIGEST, bytes(48))))) == DIGEST
    assert firmware_id_of(leaf()) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30",
        b"\x30\x80\0\0",
        b"\x30\x81\x05" + bytes(5),
        b"\x30\x05\x01",
        b"\x05\x00",
        sequence(),
        tcb_info(DIGEST) + b"\0",
        tcb_info(),
        tcb_info(DIGEST[:32]),
        sequence(sequence(fwid(DIGEST), tag=0xA6), sequence(fwid(DIGEST), tag=0xA6)),
        tcb_info(DIGEST).replace(
            bytes.fromhex("0609608648016503040202"), bytes.fromhex("0609608648016503040201")
        ),
    ],
)
def test_malformed_firmware_identity(value):
    with pytest.raises(FormatError):
        firmware_id_of(leaf(extension(value)))


def test_two_firmware_identities():
    with pytest.raises(FormatError, match="two extensions"):
        firmware_id_of(leaf(extension(tcb_info(DIGEST)), extension(b"", "2.23.133.5.4.1")))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_format_errors(data):
    value = bytearray(tcb_info(DIGEST, DIGEST))
    for _ in range(data.draw(st.integers(0, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    oid = data.draw(st.sampled_from(["2.23.133.5.4.1", "2.23.133.5.4.1.1"]))
    cut = bytes(value[: data.draw(st.integers(0, len(value)))])
    with contextlib.suppress(FormatError):
        firmware_id_of(leaf(extension(data.draw(st.sampled_from([bytes(value), cut])), oid)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_chains(data):
    der = [bytearray(each.public_bytes(Encoding.DER)) for each in GPU]
    target = data.draw(st.sampled_from(der))
    target[data.draw(st.integers(0, len(target) - 1))] ^= data.draw(st.integers(1, 255))
    text = "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(each).decode()}-----END CERTIFICATE-----\n"
        for each in der
    )
    with contextlib.suppress(FormatError, SignatureError):
        taken = load_chain(text.encode())
        verify_chain(taken, DEVICE_ROOT, THEN)
        # The count of unused bits before a signature may change, which means nothing; what is certified may not.
        assert [each.tbs_certificate_bytes for each in taken] == [each.tbs_certificate_bytes for each in GPU]


def test_chips_without_a_name():
    nameless = certificate(" ", KEY)
    with pytest.raises(FormatError, match="common name"):
        chip_of(nameless)
