"""Signatures of the modules that a build compiles: made with a key, or taken from a release and held against them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from builder.errors import ImageError, UsageError
from builder.image.secureboot.modules import (
    attach_module_signature,
    check_module_signature,
    sign_module,
    split_module,
)
from builder.image.secureboot.signer import Signer, rsa_public_key
from builder.release.sbom.model import Signature
from builder.rootfs import CompiledModule

#: What a release publishes beside the unsigned ``NAME.ko``.
CERTIFICATE: Final = "modules.pem"
SIGNATURE_SUFFIX: Final = ".ko.p7s"
#: Signatures in a folder.
MAX_SIGNATURES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSignatures:
    """Signatures that somebody else made.

    Attributes:
        certificate: what each must verify with; RSA.
        files: module name, with underscores -> PKCS #7 (``NAME.ko.p7s``).
        where: the folder they come from, for messages.
    """

    certificate: x509.Certificate
    files: Mapping[str, bytes] = field(repr=False)
    where: str


#: Who signs the modules of a build.
ModuleSigning = Signer | PublishedSignatures


def signed(modules: Mapping[str, bytes], signing: ModuleSigning) -> dict[str, bytes]:
    """Return name -> signed module, for every module; nothing is written.

    Args:
        modules: name, with underscores -> unsigned module.
        signing: a key, or what it published; both give the same bytes.

    Raises:
        UsageError: there are no modules.
        ImageError: the key is not fit; or a signature is missing, left over, by another key or about other bytes.
    """
    if not modules:
        raise UsageError(
            "the recipe compiles no modules, so there are none to sign",
            hint="a UKI is signed by goldsmith seal; the kernel package's modules carry Debian's signatures",
        )
    rsa_public_key(signing.certificate)
    if isinstance(signing, PublishedSignatures):
        return _attached(modules, signing)
    return {name: sign_module(module, signing)[0] for name, module in modules.items()}


def certificate_pem(signing: ModuleSigning) -> bytes:
    """Return the certificate that the signatures verify with, as it is published."""
    return signing.certificate.public_bytes(Encoding.PEM)


def write_modules(modules: tuple[CompiledModule, ...], folder: Path) -> list[Path]:
    """Write each module unsigned as ``NAME.ko``, and beside it the signature where it has one; return the files."""
    written = []
    for module in modules:
        unsigned, signature = split_module(module.content)
        written.append(folder / f"{module.name}.ko")
        written[-1].write_bytes(unsigned)
        if signature:
            written.append(folder / f"{module.name}{SIGNATURE_SUFFIX}")
            written[-1].write_bytes(signature)
    return written


def module_signatures(
    modules: tuple[CompiledModule, ...], signing: ModuleSigning | None
) -> dict[str, Signature]:
    """Return SHA-256 (hex) of each signed module -> what it is made of, as the bills of materials say it."""
    if signing is None:
        return {}
    found = {}
    for module in modules:
        unsigned, signature = split_module(module.content)
        found[_sha256(module.content)] = Signature(
            unsigned=f"{module.name}.ko",
            unsigned_sha256=_sha256(unsigned),
            file=f"{module.name}{SIGNATURE_SUFFIX}",
            sha256=_sha256(signature),
            signer=signing.certificate.subject.rfc4514_string(),
        )
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _attached(modules: Mapping[str, bytes], published: PublishedSignatures) -> dict[str, bytes]:
    compiled = ", ".join(sorted(modules))
    if missing := sorted(modules.keys() - published.files.keys()):
        raise ImageError(
            f"{published.where}: no signature of {', '.join(missing)}: expected "
            + ", ".join(f"{name}{SIGNATURE_SUFFIX}" for name in missing),
            hint="take every signature of the release",
        )
    if left := sorted(published.files.keys() - modules.keys()):
        raise ImageError(
            f"{published.where}: {', '.join(f'{name}{SIGNATURE_SUFFIX}' for name in left)}: no such module is "
            f"compiled here; expected signatures of {compiled} alone",
            hint="are the signatures of another recipe, or of another version of it?",
        )
    found = {}
    for name, module in modules.items():
        try:
            check_module_signature(module, published.files[name], published.certificate)
        except ImageError as error:
            raise ImageError(
                f"{published.where}/{name}{SIGNATURE_SUFFIX}: {error}", hint=error.hint
            ) from error
        found[name] = attach_module_signature(module, published.files[name])
    return found
