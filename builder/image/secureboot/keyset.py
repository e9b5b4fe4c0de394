"""A key set as the files of one folder: names and contents, which the command line writes and reads."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from builder.errors import UsageError
from builder.image.secureboot.clouds import azure_security_profile, ec2_uefi_data
from builder.image.secureboot.signer import KeySigner, new_signer, title, validity
from builder.image.secureboot.tokensigner import TokenSigner, certify_token_key, check_fit
from builder.image.secureboot.variables import VENDORS, Enrolment, owner_of
from builder.tokens.ring import Tokens
from builder.tokens.uri import TokenUri

ROLES: Final = ("PK", "KEK", "db")
_AZURE, _EC2, _LISTING = "azure.json", "ec2-uefi-data.txt", "README.txt"
_PURPOSES = {
    "PK": "platform key: owns the machine, changes PK and KEK",
    "KEK": "key exchange key: changes db and dbx",
    "db": "signature database: signs what may start",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The three signers of one owner, whose keys are in memory or in tokens.

    Attributes:
        platform_key: PK.
        key_exchange_key: KEK.
        image_key: the certificate in db; signs UKIs.
    """

    platform_key: KeySigner | TokenSigner
    key_exchange_key: KeySigner | TokenSigner
    image_key: KeySigner | TokenSigner

    def signers(self) -> tuple[tuple[str, KeySigner | TokenSigner], ...]:
        """Return (role, signer) in the order of `ROLES`."""
        return tuple(zip(ROLES, (self.platform_key, self.key_exchange_key, self.image_key), strict=True))

    def enrolment(
        self, *, forbidden: tuple[bytes, ...], day: date, also: tuple[x509.Certificate, ...] = ()
    ) -> Enrolment:
        """Return what machines are enrolled with: this set, and other certificates that db is to hold.

        Raises:
            UsageError: one of these is in the set, or there twice.
        """
        allowed = (self.image_key.certificate, *also)
        for number, certificate in enumerate(allowed):
            if certificate in allowed[:number]:
                raise UsageError(f"db would hold {certificate.subject.rfc4514_string()} twice")
        return Enrolment(
            owner=owner_of(self.platform_key.certificate),
            platform_key=self.platform_key.certificate,
            key_exchange_key=self.key_exchange_key.certificate,
            allowed=allowed,
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


def make_token_key_set(
    tokens: Tokens, places: Mapping[str, TokenUri], name: str, *, size: int, valid_from: date, years: int
) -> tuple[KeySet, frozenset[str]]:
    """Make the certificates of three keys in tokens, and those keys that are not there.

    Args:
        tokens: opens them.
        places: where the key of each of `ROLES` is: a key by label or id, or a token alone; then the key's label
            is the certificate's common name.
        name, size, valid_from, years: as `make_key_set`; a key that is there keeps its size.

    Returns:
        The key set, and the roles whose keys were made.

    Raises:
        UsageError: an argument is out of range, or two roles have one key.
        TokenError: a module, token, PIN or key is not fit, or a token refuses. Keys that were made before that
            stay, and are found the next time.
    """
    # Everything that can be wrong is looked for before a key is made that nobody will use.
    validity(valid_from, years)
    named = {
        role: place if place.names_a_key else place.of_key(label=title(name, role), identifier=None)
        for role, place in places.items()
    }
    keys = {role: tokens.find(named[role]) for role in ROLES}
    found = {role: check_fit(key) for role, key in keys.items() if key is not None}
    for one, other in itertools.combinations(ROLES, 2):
        if named[one] == named[other] or (one in found and found[one] == found.get(other)):
            raise UsageError(f"{one} and {other} have one key, {named[one]}; expected one for each")
    signers = []
    for role in ROLES:
        key = keys[role] or tokens.generate_rsa(
            named[role].of_key(label=named[role].label or title(name, role), identifier=named[role].id), size
        )
        signers.append(certify_token_key(key, name, role, valid_from=valid_from, years=years))
    pk, kek, db = signers
    return KeySet(platform_key=pk, key_exchange_key=kek, image_key=db), frozenset(ROLES) - frozenset(found)


def file_names(*, in_tokens: bool, also: int = 0) -> frozenset[str]:
    """Return the name of every file of a key set's folder whose db holds ``also`` certificates more."""
    suffixes = ("pem", "der", "pkcs11" if in_tokens else "key")
    return frozenset(
        [f"{role}.{suffix}" for role in ROLES for suffix in suffixes]
        + [f"db-{number}.{suffix}" for number in range(2, also + 2) for suffix in ("pem", "der")]
        + [f"{variable}.{suffix}" for variable in VENDORS for suffix in ("esl", "auth")]
        + [_AZURE, _EC2, _LISTING]
    )


def private_files(keys: KeySet, passphrase: bytes | None) -> tuple[OutputFile, ...]:
    """Return the private keys, encrypted where a passphrase is given; of keys in tokens, where they are."""
    files = []
    for role, signer in keys.signers():
        if isinstance(signer, TokenSigner):
            name, content, what = f"{role}.pkcs11", signer.reference(), "where the private key is"
        else:
            name, content, what = f"{role}.key", signer.key_pem(passphrase), "private key"
        purpose = f"{what} of {role}; {_PURPOSES[role]}"
        files.append(OutputFile(name=name, content=content, purpose=purpose, secret=True))
    return tuple(files)


def public_files(keys: KeySet, enrolment: Enrolment) -> tuple[OutputFile, ...]:
    """Return certificates and everything that enrols them.

    Raises:
        ImageError: the enrolment is not this key set's, or too large for EC2.
    """
    return published_files(enrolment, enrolment.updates(keys.platform_key, keys.key_exchange_key))


def published_files(enrolment: Enrolment, updates: Mapping[str, bytes]) -> tuple[OutputFile, ...]:
    """Return the same from what is public alone.

    Args:
        enrolment: what machines are enrolled with.
        updates: the signed update that writes each variable, by its name.

    Raises:
        ImageError: too large for EC2.
    """
    variables = enrolment.variables()
    certificates = (
        ("PK", enrolment.platform_key),
        ("KEK", enrolment.key_exchange_key),
        *(
            (f"db-{number}" if number > 1 else "db", certificate)
            for number, certificate in enumerate(enrolment.allowed, 1)
        ),
    )
    files = []
    for role, certificate in certificates:
        for suffix, encoding, purpose in (
            ("pem", Encoding.PEM, f"certificate of {role}"),
            ("der", Encoding.DER, f"certificate of {role} for Google Cloud and firmware menus"),
        ):
            content = certificate.public_bytes(encoding)
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
            name=_AZURE,
            content=profile.encode(),
            purpose="securityProfile of an Azure Compute Gallery image version",
        ),
        OutputFile(
            name=_EC2,
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
            f"     SHA-256 {fingerprint(certificate)}",
        ]
    width = max(len(file.name) for file in files)
    lines += ["", *(f"{file.name:<{width}}  {file.purpose}" for file in files), ""]
    if any(isinstance(signer, TokenSigner) for _, signer in keys.signers()):
        lines += [
            "The private keys are in tokens. *.pkcs11 names the program that is loaded to reach them: keep"
        ]
        lines += ["others from changing it. Everything else may be published.", ""]
    else:
        lines += ["Keep *.key secret; everything else may be published.", ""]
    return OutputFile(name=_LISTING, content="\n".join(lines).encode(), purpose="this list")


def fingerprint(certificate: x509.Certificate) -> str:
    """Return SHA-256 of a certificate's DER, 64 hex digits."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
