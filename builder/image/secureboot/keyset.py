"""A key set as the files of one folder: names and contents, which the command line writes and reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from builder.image.secureboot.clouds import azure_security_profile, ec2_uefi_data
from builder.image.secureboot.signer import KeySigner, new_signer
from builder.image.secureboot.variables import Enrolment, owner_of

ROLES: Final = ("PK", "KEK", "db")
_PURPOSES = {
    "PK": "platform key: owns the machine, changes PK and KEK",
    "KEK": "key exchange key: changes db and dbx",
    "db": "signature database: signs what may start",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The three signers of one owner.

    Attributes:
        platform_key: PK.
        key_exchange_key: KEK.
        image_key: the certificate in db; signs UKIs.
    """

    platform_key: KeySigner
    key_exchange_key: KeySigner
    image_key: KeySigner

    def signers(self) -> tuple[tuple[str, KeySigner], ...]:
        """Return (role, signer) in the order of `ROLES`."""
        return tuple(zip(ROLES, (self.platform_key, self.key_exchange_key, self.image_key), strict=True))

    def enrolment(self, *, forbidden: tuple[bytes, ...], day: date) -> Enrolment:
        """Return what machines are enrolled with: this set alone."""
        return Enrolment(
            owner=owner_of(self.platform_key.certificate),
            platform_key=self.platform_key.certificate,
            key_exchange_key=self.key_exchange_key.certificate,
            allowed=(self.image_key.certificate,),
            forbidden=forbidden,
            day=day,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One file of a key set's folder.

    Attributes:
        name: below the folder.
        content: all of it.
        purpose: one line for people.
        secret: only the owner may read it.
    """

    name: str
    content: bytes
    purpose: str
    secret: bool = False


def make_key_set(name: str, *, size: int, valid_from: date, years: int) -> KeySet:
    """Make three keys with their certificates (`new_signer`).

    Raises:
        UsageError: an argument is out of range.
    """
    pk, kek, db = (new_signer(name, role, size=size, valid_from=valid_from, years=years) for role in ROLES)
    return KeySet(platform_key=pk, key_exchange_key=kek, image_key=db)


def private_files(keys: KeySet, passphrase: bytes | None) -> tuple[OutputFile, ...]:
    """Return the private keys, encrypted where a passphrase is given."""
    return tuple(
        OutputFile(
            name=f"{role}.key",
            content=signer.key_pem(passphrase),
            purpose=f"private key of {role}; {_PURPOSES[role]}",
            secret=True,
        )
        for role, signer in keys.signers()
    )


def public_files(keys: KeySet, enrolment: Enrolment) -> tuple[OutputFile, ...]:
    """Return certificates and everything that enrols them.

    Raises:
        ImageError: the enrolment is not this key set's, or too large for EC2.
    """
    variables = enrolment.variables()
    updates = enrolment.updates(keys.platform_key, keys.key_exchange_key)
    files = []
    for role, signer in keys.signers():
        for suffix, encoding, purpose in (
            ("pem", Encoding.PEM, f"certificate of {role}"),
            ("der", Encoding.DER, f"certificate of {role} for Google Cloud and firmware menus"),
        ):
            content = signer.certificate.public_bytes(encoding)
            files.append(OutputFile(name=f"{role}.{suffix}", content=content, purpose=purpose))
    for variable in variables:
        name = variable.name
        files += [
            OutputFile(name=f"{name}.esl", content=variable.data, purpose=f"contents of {name}"),
            OutputFile(
                name=f"{name}.auth", content=updates[name], purpose=f"signed update that writes {name}"
            ),
        ]
    profile = json.dumps({"securityProfile": azure_security_profile(enrolment)}, indent=2) + "\n"
    files += [
        OutputFile(
            name="azure.json",
            content=profile.encode(),
            purpose="securityProfile of an Azure Compute Gallery image version",
        ),
        OutputFile(
            name="ec2-uefi-data.txt",
            content=ec2_uefi_data(variables).encode(),
            purpose="aws ec2 register-image --uefi-data file://…",
        ),
    ]
    return tuple(files)


def listing(keys: KeySet, enrolment: Enrolment, files: tuple[OutputFile, ...]) -> OutputFile:
    """Return README.txt: whose keys these are, and what each file is for."""
    lines = ["UEFI Secure Boot keys", "", f"owner {enrolment.owner}, time stamps {enrolment.day}", ""]
    for role, signer in keys.signers():
        certificate = signer.certificate
        lines += [
            f"{role:<4} {certificate.subject.rfc4514_string()}",
            f"     {_PURPOSES[role]}",
            f"     valid {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"     SHA-256 {fingerprint(signer)}",
        ]
    width = max(len(file.name) for file in files)
    lines += ["", *(f"{file.name:<{width}}  {file.purpose}" for file in files), ""]
    lines += ["Keep *.key secret; everything else may be published.", ""]
    return OutputFile(name="README.txt", content="\n".join(lines).encode(), purpose="this list")


def fingerprint(signer: KeySigner) -> str:
    """Return SHA-256 of a certificate's DER, 64 hex digits."""
    return hashlib.sha256(signer.certificate.public_bytes(Encoding.DER)).hexdigest()
