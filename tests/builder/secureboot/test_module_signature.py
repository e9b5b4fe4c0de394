"""Signatures of kernel modules: against OpenSSL, and against what the kernel's own sign-file wrote."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import ImageError
from builder.image.secureboot.modules import (
    MARKER,
    attach_module_signature,
    check_module_signature,
    sign_module,
    split_module,
)
from builder.image.secureboot.signer import load_certificate

MODULE = b"\x7fELF and the rest of a module"


def test_openssl_verifies_the_detached_signature(keys, tool, tmp_path):
    _, signature = sign_module(MODULE, keys.image_key)
    (tmp_path / "module").write_bytes(MODULE)
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "db.pem").write_bytes(keys.image_key.certificate.public_bytes(Encoding.PEM))
    command = ["cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-certfile", "db.pem",
               "-noverify", "-content"]  # fmt: skip
    tool("openssl", *command, "module")
    (tmp_path / "module").write_bytes(MODULE + b"!")
    assert tool("openssl", *command, "module", check=False).returncode != 0


def test_the_frame_is_that_of_the_kernels_own_tool(vector):
    signed = vector("sign-file.ko")
    module, signature = split_module(signed)
    assert module == b"m" * 300
    assert attach_module_signature(module, signature) == signed


def test_kernels_own_signature_verifies_like_ours(vector, tool, tmp_path):
    module, signature = split_module(vector("sign-file.ko"))
    (tmp_path / "module").write_bytes(module)
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "certificate").write_bytes(vector("sign-file.pem"))
    tool("openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-certfile",
         "certificate", "-noverify", "-content", "module")  # fmt: skip


def test_signing_twice_gives_the_same_bytes_and_another_key_others(keys, other_keys):
    signed, signature = sign_module(MODULE, keys.image_key)
    assert (signed, signature) == sign_module(MODULE, keys.image_key)
    assert signature != sign_module(MODULE, other_keys.image_key)[1]
    assert split_module(signed) == (MODULE, signature)
    assert attach_module_signature(MODULE, signature) == signed


def test_a_signed_module_is_not_signed_again(keys):
    signed, signature = sign_module(MODULE, keys.image_key)
    with pytest.raises(ImageError, match="signed already"):
        sign_module(signed, keys.image_key)
    with pytest.raises(ImageError, match="signed already"):
        attach_module_signature(signed, signature)


@pytest.mark.parametrize("signature", [b"", bytes((1 << 16) + 1)])
def test_no_signature_at_all_is_refused(signature):
    with pytest.raises(ImageError, match="expected 1 to"):
        attach_module_signature(MODULE, signature)


def test_an_unsigned_module_has_no_signature():
    assert split_module(MODULE) == (MODULE, b"")


@given(st.binary(max_size=64))
def test_any_trailer_splits_or_is_refused(junk):
    data = junk + MARKER
    try:
        module, signature = split_module(data)
    except ImageError:
        return
    assert attach_module_signature(module, signature or b"x") and data.startswith(module + signature)


def test_a_signature_is_held_against_its_certificate(keys, other_keys):
    _, signature = sign_module(MODULE, keys.image_key)
    check_module_signature(MODULE, signature, keys.image_key.certificate)
    with pytest.raises(ImageError, match="about other bytes"):
        check_module_signature(MODULE + b"!", signature, keys.image_key.certificate)
    with pytest.raises(ImageError, match="names another signer"):
        check_module_signature(MODULE, signature, other_keys.image_key.certificate)
    with pytest.raises(ImageError, match="names another signer"):
        check_module_signature(MODULE, b"", keys.image_key.certificate)


def test_a_signature_in_anothers_name_is_refused(keys, other_keys):
    """The right issuer and serial number, and another key."""
    _, forged = sign_module(MODULE, other_keys.image_key)
    _, genuine = sign_module(MODULE, keys.image_key)
    size = 2048 // 8
    with pytest.raises(ImageError, match="about other bytes"):
        check_module_signature(MODULE, genuine[:-size] + forged[-size:], keys.image_key.certificate)


def test_kernels_own_signature_is_of_the_published_form(vector):
    module, signature = split_module(vector("sign-file.ko"))
    certificate = load_certificate(vector("sign-file.pem"))
    check_module_signature(module, signature, certificate)
    with pytest.raises(ImageError, match="about other bytes"):
        check_module_signature(module + b"m", signature, certificate)


def test_openssl_signs_the_same_bytes(keys, tool, tmp_path):
    _openssl_signs(keys, tool, tmp_path, "-noattr", "-nocerts")
    assert (tmp_path / "signature").read_bytes() == sign_module(MODULE, keys.image_key)[1]


@pytest.mark.parametrize("form", [(), ("-noattr",), ("-nocerts",), ("-noattr", "-nocerts", "-keyid")])
def test_only_the_published_form_is_taken(keys, tool, tmp_path, form):
    """OpenSSL's others by the same key would verify; they are other texts of bytes."""
    _openssl_signs(keys, tool, tmp_path, *form)
    with pytest.raises(ImageError, match=r"not of the form|names another signer"):
        check_module_signature(MODULE, (tmp_path / "signature").read_bytes(), keys.image_key.certificate)


def test_bytes_behind_a_signature_are_refused(keys):
    _, signature = sign_module(MODULE, keys.image_key)
    for more in (b"\0", bytes(256)):
        with pytest.raises(ImageError, match="not of the form"):
            check_module_signature(MODULE, signature + more, keys.image_key.certificate)


def _openssl_signs(keys, tool, folder, *form):
    (folder / "module").write_bytes(MODULE)
    (folder / "db.pem").write_bytes(keys.image_key.certificate.public_bytes(Encoding.PEM))
    (folder / "db.key").write_bytes(keys.image_key.key_pem())
    tool("openssl", "cms", "-sign", "-binary", "-md", "sha256", *form, "-signer", "db.pem", "-inkey", "db.key",
         "-in", "module", "-outform", "DER", "-out", "signature")  # fmt: skip


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_of_a_signature_is_refused(keys, place, change):
    _, signature = sign_module(MODULE, keys.image_key)
    broken = bytearray(signature)
    broken[place % len(broken)] ^= change
    with pytest.raises(ImageError):
        check_module_signature(MODULE, bytes(broken), keys.image_key.certificate)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_no_signature(keys, junk):
    with pytest.raises(ImageError):
        check_module_signature(MODULE, junk, keys.image_key.certificate)
