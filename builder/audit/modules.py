"""Kernel modules as files: compression, ``.modinfo``, and the signature that stands behind them.

Signature: Linux, kernel/module/signing.c and include/linux/module_signature.h; PKCS #7: RFC 5652.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import zstandard
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from builder.audit.readers.tree import File, FileTree
from builder.elf import module_info
from measurements.errors import FormatError, LimitError, SignatureError

MAX_MODULE: Final = 64 << 20
MAX_KERNEL: Final = 512 << 20
MAX_CERTIFICATE: Final = 1 << 14
_MEMORY = 256 << 20

_MAGIC = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3xI")
_PKCS7 = 2
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst")
_HASHES: Final[dict[bytes, type[hashes.HashAlgorithm]]] = {
    bytes.fromhex("608648016503040201"): hashes.SHA256,
    bytes.fromhex("608648016503040202"): hashes.SHA384,
    bytes.fromhex("608648016503040203"): hashes.SHA512,
}
_SIGNED_DATA, _DATA = bytes.fromhex("2a864886f70d010702"), bytes.fromhex("2a864886f70d010701")


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What ``.modinfo`` says: hard and soft dependencies, with underscores."""

    needs: tuple[str, ...]
    soft: tuple[str, ...]


def name_of(path: str) -> str:
    """Return a module's name, with underscores; an empty string for a file that is no module."""
    name = path.rpartition("/")[2]
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("-", "_")
    return ""


def unpack(file: File | None, path: str) -> bytes:
    """Return a module without its compression.

    Raises:
        FormatError: damaged.
        LimitError: more than `MAX_MODULE` bytes.
    """
    content = file.content if file is not None else b""
    try:
        if path.endswith(".xz"):
            decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)
            unpacked = decoder.decompress(content, max_length=MAX_MODULE + 1)
            if len(unpacked) <= MAX_MODULE and (not decoder.eof or decoder.unused_data):
                raise FormatError(f"{path}: the compressed module is cut, or bytes follow it")
        elif path.endswith(".zst"):
            unpacked = (
                zstandard.ZstdDecompressor(max_window_size=1 << 27)
                .stream_reader(content)
                .read(MAX_MODULE + 1)
            )
        else:
            unpacked = content
    except (lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error
    if len(unpacked) > MAX_MODULE:
        raise LimitError(f"{path}: more than {MAX_MODULE} bytes")
    return unpacked


def read_info(module: bytes, path: str) -> Info:
    """Return what a module depends on.

    Raises:
        FormatError: no ELF file with a section ``.modinfo``.
    """
    needs: list[str] = []
    soft: list[str] = []
    try:
        records = list(module_info(module))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    for key, value in records:
        if key == "depends":
            needs += [name.replace("-", "_") for name in value.split(",") if name]
        elif key == "softdep":
            soft += [name.replace("-", "_") for name in value.split() if name not in ("pre:", "post:")]
    return Info(needs=tuple(needs), soft=tuple(soft))


def builtin_names(trees: Mapping[str, FileTree]) -> frozenset[str]:
    """Return the modules that are built in, by modules.builtin of either tree."""
    return frozenset(
        name
        for tree in trees.values()
        for folder in tree.children("/usr/lib/modules")
        for line in (tree.text(f"{folder}/modules.builtin") or "").splitlines()
        if (name := name_of(line))
    )


def listed_names(tree: FileTree) -> set[str]:
    """Return the modules that modules.dep of a tree lists."""
    return {
        name_of(line.partition(":")[0])
        for folder in tree.children("/usr/lib/modules")
        for line in (tree.text(f"{folder}/modules.dep") or "").splitlines()
    }


def kernel_payload(image: bytes) -> bytes:
    """Return the kernel inside a bzImage (Linux, arch/x86/boot.rst, payload_offset; zstd, xz or none).

    Raises:
        FormatError: no bzImage, or another compression.
        LimitError: more than `MAX_KERNEL` bytes.
    """
    if (
        len(image) < 0x260
        or image[0x202:0x206] != b"HdrS"
        or struct.unpack_from("<H", image, 0x206)[0] < 0x208
    ):
        raise FormatError("no bzImage with a payload")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1F1] + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) != length:
        raise FormatError("the bzImage ends inside its payload")
    try:
        if payload[:4] == b"\x28\xb5\x2f\xfd":
            unpacked = (
                zstandard.ZstdDecompressor(max_window_size=1 << 27)
                .stream_reader(payload)
                .read(MAX_KERNEL + 1)
            )
        elif payload[:6] == b"\xfd7zXZ\0":
            unpacked = lzma.LZMADecompressor(memlimit=_MEMORY).decompress(payload, max_length=MAX_KERNEL + 1)
        elif payload[:4] == b"\x7fELF":
            unpacked = payload
        else:
            raise FormatError(
                f"the bzImage's payload begins with {payload[:4].hex()}; zstd, xz and ELF are known"
            )
    except (lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        raise FormatError(f"the bzImage's payload is damaged: {error}") from error
    if len(unpacked) > MAX_KERNEL:
        raise LimitError(f"the kernel has more than {MAX_KERNEL} bytes")
    return unpacked


def read_certificate(pem: str) -> x509.Certificate | None:
    """Return the certificate that a text holds; None for an empty one.

    Raises:
        FormatError: it holds something else.
    """
    if not pem:
        return None
    try:
        return x509.load_pem_x509_certificate(pem.encode("utf-8", "backslashreplace"))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise FormatError(f"no certificate: {error}") from error


def verify(
    module: bytes, kernel: bytes, path: str, *, own: x509.Certificate | None = None
) -> x509.Certificate:
    """Return the certificate whose key signed the module.

    Args:
        module: the file, without its compression.
        kernel: the unpacked kernel; holds the certificates that it trusts by itself.
        path: for messages.
        own: a certificate that counts beside the kernel's.

    Raises:
        FormatError: the module has no signature, or a malformed one.
        SignatureError: no certificate belongs to it, or it does not verify.
    """
    if not module.endswith(_MAGIC):
        raise FormatError(f"{path}: the module has no signature")
    end = len(module) - len(_MAGIC)
    if end < _TRAILER.size:
        raise FormatError(f"{path}: the signature is cut")
    fields = _TRAILER.unpack_from(module, end - _TRAILER.size)
    size, start = fields[5], end - _TRAILER.size - fields[5]
    # module_signature.h: all other fields are zero for PKCS #7.
    if fields[:5] != (0, 0, _PKCS7, 0, 0) or start <= 0:
        raise FormatError(f"{path}: the trailer of the signature is {fields}; expected PKCS #7")
    issuer, serial, algorithm, signature = _signer(module[start : start + size], path)
    certificate = _certificate(kernel, issuer, serial)
    if certificate is None and own is not None and _is(own, issuer, serial):
        certificate = own
    if certificate is None:
        raise SignatureError(
            f"{path}: signed by serial number {serial:x}, of which the kernel has no certificate"
            + ("" if own is None else f", and the release's is {own.serial_number:x}")
        )
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, module[:start], padding.PKCS1v15(), algorithm())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, module[:start], ec.ECDSA(algorithm()))
        else:
            raise SignatureError(f"{path}: the signer has neither an RSA nor an ECDSA key")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise SignatureError(f"{path}: the signature does not verify: the module was changed") from error
    return certificate


def _certificate(kernel: bytes, issuer: bytes, serial: int) -> x509.Certificate | None:
    """Find a certificate with this issuer and serial number among the kernel's built-in ones.

    They lie one after the other in its data (certs/system_certificates.S), as DER; each has its serial number
    followed by the algorithm and the issuer, so the issuer leads to it.
    """
    position = kernel.find(issuer)
    while position >= 0:
        # A SEQUENCE with a length of two bytes begins the certificate, shortly before its issuer.
        for start in range(position - 4, max(position - 80, -1), -1):
            if kernel[start : start + 2] == b"\x30\x82":
                length = 4 + int.from_bytes(kernel[start + 2 : start + 4], "big")
                if length > MAX_CERTIFICATE:
                    continue
                try:
                    found = x509.load_der_x509_certificate(kernel[start : start + length])
                    if _is(found, issuer, serial):
                        return found
                except (ValueError, TypeError, x509.InvalidVersion):
                    continue
        position = kernel.find(issuer, position + 1)
    return None


def _is(certificate: x509.Certificate, issuer: bytes, serial: int) -> bool:
    return certificate.serial_number == serial and certificate.issuer.public_bytes() == issuer


def _signer(encoded: bytes, path: str) -> tuple[bytes, int, type[hashes.HashAlgorithm], bytes]:
    """Return issuer (DER), serial number, hash and signature of the one signer of a detached SignedData."""
    outer = _members(_one(encoded, 0x30, path), path)
    if len(outer) != 2 or outer[0][1] != _SIGNED_DATA:
        raise FormatError(f"{path}: the signature is no PKCS #7 SignedData")
    signed = _members(_one(outer[1][1], 0x30, path), path)
    if len(signed) < 4 or _members(signed[2][1], path)[0][1] != _DATA or signed[-1][0] != 0x31:
        raise FormatError(f"{path}: the signature's content is not plain data")
    signers = _members(signed[-1][1], path)
    info = _members(signers[0][1], path) if len(signers) == 1 else []
    # version, issuerAndSerialNumber, digestAlgorithm, signatureAlgorithm, signature: no signed attributes
    if len(info) != 5 or [member[0] for member in info] != [0x02, 0x30, 0x30, 0x30, 0x04]:
        raise FormatError(
            f"{path}: the signature has not one signer by issuer and serial number without attributes"
        )
    named = _members(info[1][1], path)
    if len(named) != 2 or named[1][0] != 0x02:
        raise FormatError(f"{path}: the signature does not name its signer by issuer and serial number")
    algorithm = _HASHES.get(_members(info[2][1], path)[0][1])
    if algorithm is None:
        raise FormatError(f"{path}: the signature's hash is none of SHA-256, SHA-384, SHA-512")
    return named[0][2], int.from_bytes(named[1][1], "big", signed=True), algorithm, info[4][1]


def _one(data: bytes, tag: int, path: str) -> bytes:
    found = _members(data, path)
    if len(found) != 1 or found[0][0] != tag:
        raise FormatError(f"{path}: DER of the signature: expected one element 0x{tag:02x}")
    return found[0][1]


def _members(data: bytes, path: str) -> list[tuple[int, bytes, bytes]]:
    """Return (tag, body, encoding) of the DER elements that ``data`` is made of; never none."""
    found, offset = [], 0
    while offset < len(data):
        start = offset + 2
        if start > len(data):
            raise FormatError(f"{path}: DER of the signature is cut")
        length = data[offset + 1]
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or start + count > len(data):
                raise FormatError(f"{path}: DER of the signature has a bad length")
            length, start = int.from_bytes(data[start : start + count], "big"), start + count
        if start + length > len(data):
            raise FormatError(f"{path}: DER of the signature is cut")
        found.append((data[offset], data[start : start + length], data[offset : start + length]))
        offset = start + length
    if not found or len(found) > 64:
        raise FormatError(f"{path}: DER of the signature has {len(found)} members")
    return found
