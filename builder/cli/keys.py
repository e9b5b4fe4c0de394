"""goldsmith keys: Secure Boot keys, the files that enrol them, and the signature over a UKI."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509

from builder.atomic import write_atomic
from builder.cli import console
from builder.cli.files import read_limited
from builder.cli.signing import (
    Module,
    PassphraseName,
    about,
    key_set_signer,
    named_token,
    open_tokens,
    passphrase_of,
)
from builder.errors import UsageError
from builder.image.secureboot import keyset
from builder.image.secureboot.authenticode import MAX_SIGNATURE_SIZE, attach_signature, sign_pe
from builder.image.secureboot.modules import sign_module
from builder.image.secureboot.signer import DEFAULT_KEY_SIZE, KEY_SIZES, MAX_PEM_BYTES, load_certificate
from builder.image.secureboot.store import enrol as enrol_store
from builder.image.secureboot.variables import (
    MAX_UPDATE_SIZE,
    NOTHING,
    VENDORS,
    forbidding,
    owner_of,
    read_update,
)
from builder.modulesigning import CERTIFICATE as MODULE_CERTIFICATE
from builder.modulesigning import SIGNATURE_SUFFIX, certificate_pem
from builder.tokens.uri import SCHEME, TokenUri
from measurements.events import HashAlgorithm
from measurements.formats import pe, varstore

#: An image, and a module, is held in memory as a whole.
MAX_IMAGE_SIZE: Final = 1 << 30
MAX_MODULE_SIZE: Final = 64 << 20
_HASH = re.compile(r"[0-9a-fA-F]{64}")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Make Secure Boot keys, enrol them, sign a UKI.",
)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="folder of a key set")]
_Image = Annotated[Path, typer.Argument(metavar="UKI", help="the unsigned image")]
_Json = Annotated[bool, typer.Option("--json", help="print a JSON object")]


@app.command()
def make(
    folder: _Folder,
    name: Annotated[str, typer.Option(help="whose keys; stands in the certificates")] = "Goldsmith",
    bits: Annotated[int, typer.Option(metavar="N", help="size of the RSA keys")] = DEFAULT_KEY_SIZE,
    valid_from: Annotated[
        datetime | None,
        typer.Option(
            metavar="DATE",
            formats=["%Y-%m-%d"],
            help="first day of the certificates and time of the updates (UTC; default: today)",
        ),
    ] = None,
    years: Annotated[int, typer.Option(metavar="N", help="how long the certificates are valid")] = 10,
    forbid: Annotated[
        list[str] | None,
        typer.Option(metavar="HASH-or-FILE", help="image that dbx forbids; may be repeated"),
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PEM", help="another certificate that db is to hold, as of a module key; may be repeated"
        ),
    ] = None,
    pkcs11: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ROLE=]URI",
            help="token that holds the keys, or the key of PK, KEK or db alone; may be repeated",
        ),
    ] = None,
    module: Module = None,
    passphrase_env: PassphraseName = None,
    json: _Json = False,
) -> None:
    """Make PK, KEK and db with every file that enrols them: for firmware, OVMF, Azure, EC2 and Google Cloud."""
    if bits not in KEY_SIZES:
        raise UsageError(f"--bits {bits}: expected one of {', '.join(map(str, KEY_SIZES))}")
    passphrase = passphrase_of(passphrase_env)
    places = _places(pkcs11) if pkcs11 else None
    day = (valid_from or datetime.now(UTC)).date()
    forbidden = tuple(_digest(item) for item in forbid or []) or (NOTHING,)
    also = tuple(_certificate(path) for path in allow or ())
    for file_name in sorted(keyset.file_names(in_tokens=places is not None, also=len(also))):
        if (folder / file_name).exists():
            raise UsageError(
                f"{folder / file_name} exists; keys are never overwritten", hint="choose another folder"
            )
    made = frozenset(keyset.ROLES)
    with open_tokens(pin=passphrase, module=module) as tokens:
        if places is None:
            keys = keyset.make_key_set(name, size=bits, valid_from=day, years=years)
        else:
            keys, made = keyset.make_token_key_set(
                tokens, places, name, size=bits, valid_from=day, years=years
            )
        enrolment = keys.enrolment(forbidden=forbidden, day=day, also=also)
        files = keyset.private_files(keys, passphrase) + keyset.public_files(keys, enrolment)
    files += (keyset.listing(keys, enrolment, files),)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in files:
        write_atomic(folder / file.name, file.content, mode=0o600 if file.secret else 0o644)
    if json:
        console.emit_json(
            {
                "folder": str(folder),
                "owner": str(enrolment.owner),
                "certificates": {
                    role: keyset.fingerprint(signer.certificate) for role, signer in keys.signers()
                },
                "made": [role for role in keyset.ROLES if role in made],
                "files": sorted(file.name for file in files),
            }
        )
        return
    console.table("", ["file", "what it is"], [[str(folder / file.name), file.purpose] for file in files])
    for role in keyset.ROLES:
        if role not in made:
            console.out(f"{role}: the key was there already, and is used")


@app.command()
def enrol(
    folder: _Folder,
    store: Annotated[Path, typer.Argument(metavar="VARS", help="an empty OVMF_VARS_4M.fd")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the variable store to write")],
    json: _Json = False,
) -> None:
    """Write an OVMF variable store with a key set in it: a machine that starts with it has Secure Boot on."""
    _keep(store, out)
    variables = []
    for variable in VENDORS:
        path = folder / f"{variable}.auth"
        update = read_limited(path, MAX_UPDATE_SIZE)
        with about(path):
            variables.append(read_update(variable, update))
    content = read_limited(store, varstore.MAX_FILE_SIZE)
    with about(store):
        enrolled = enrol_store(content, variables)
    write_atomic(out, enrolled)
    _tell(
        json,
        {"store": str(out), "variables": [variable.name for variable in variables]},
        f"{out}: Secure Boot on",
    )


@app.command()
def forbid(
    folder: _Folder,
    images: Annotated[
        list[str], typer.Argument(metavar="HASH-or-FILE...", help="images that are not to start any more")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="signed update to write (.auth)")],
    date: Annotated[
        datetime | None,
        typer.Option(metavar="DATE", formats=["%Y-%m-%d"], help="time of the update (UTC; default: today)"),
    ] = None,
    module: Module = None,
    passphrase_env: PassphraseName = None,
    json: _Json = False,
) -> None:
    """Write the signed update that adds images to dbx on machines that are enrolled with a key set."""
    path = folder / "PK.pem"
    certificate = read_limited(path, MAX_PEM_BYTES)
    with about(path):
        owner = owner_of(load_certificate(certificate))
    digests = tuple(_digest(item) for item in images)
    variable = forbidding(owner, digests, (date or datetime.now(UTC)).date())
    passphrase = passphrase_of(passphrase_env)
    with open_tokens(pin=passphrase, module=module) as tokens:
        update = variable.update(key_set_signer(folder, "KEK", passphrase, tokens), append=True)
    write_atomic(out, update)
    told = {"update": str(out), "forbids": [digest.hex() for digest in digests]}
    _tell(json, told, "\n".join([f"{out}: adds to dbx", *(digest.hex() for digest in digests)]))


@app.command()
def sign(
    folder: _Folder,
    image: _Image,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="signed image (default: uki.efi gives uki.signed.efi)")
    ] = None,
    module: Module = None,
    passphrase_env: PassphraseName = None,
    json: _Json = False,
) -> None:
    """Sign a UKI with a key set's db key, and write the signature beside it as a file of its own (.p7s)."""
    target = out or image.with_name(f"{image.stem}.signed{image.suffix}")
    signature_file = target.with_name(f"{image.stem}.p7s")
    _keep(image, target, signature_file)
    content = read_limited(image, MAX_IMAGE_SIZE)
    passphrase = passphrase_of(passphrase_env)
    with open_tokens(pin=passphrase, module=module) as tokens:
        signer = key_set_signer(folder, "db", passphrase, tokens)
        with about(image):
            signed, signature = sign_pe(content, signer)
    write_atomic(signature_file, signature)
    write_atomic(target, signed)
    told = {
        "image": str(target),
        "signature": str(signature_file),
        "signed_by": keyset.fingerprint(signer.certificate),
    }
    _tell(
        json,
        told,
        f"{target}: signed by {signer.certificate.subject.rfc4514_string()}\n{signature_file}: signature",
    )


@app.command("sign-modules")
def sign_modules(
    folder: _Folder,
    modules: Annotated[
        list[Path], typer.Argument(metavar="MODULE...", help="unsigned kernel modules (NAME.ko)")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where the signatures go (default: beside the first)"),
    ] = None,
    module: Module = None,
    passphrase_env: PassphraseName = None,
    json: _Json = False,
) -> None:
    """Sign kernel modules with a key set's db key: NAME.ko.p7s of each, and modules.pem (build --module-signatures)."""
    target = out or modules[0].parent
    files: dict[Path, bytes] = {}
    passphrase = passphrase_of(passphrase_env)
    with open_tokens(pin=passphrase, module=module) as tokens:
        signer = key_set_signer(folder, "db", passphrase, tokens)
        for path in modules:
            name = path.name.removesuffix(".ko")
            if name == path.name:
                raise UsageError(f"{path}: expected a kernel module, NAME.ko")
            signature_file = target / f"{name}{SIGNATURE_SUFFIX}"
            if signature_file in files:
                raise UsageError(f"{path}: {signature_file.name} would be of two modules")
            content = read_limited(path, MAX_MODULE_SIZE)
            with about(path):
                _, files[signature_file] = sign_module(content, signer)
    files[target / MODULE_CERTIFICATE] = certificate_pem(signer)
    target.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_atomic(path, content)
    told = {"files": [str(path) for path in files], "signed_by": keyset.fingerprint(signer.certificate)}
    _tell(json, told, "\n".join(map(str, files)))


@app.command()
def attach(
    image: _Image,
    signature: Annotated[Path, typer.Argument(metavar="P7S", help="its published signature")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="signed image to write")],
    json: _Json = False,
) -> None:
    """Put a published signature into the unsigned UKI: the signed UKI byte for byte, without a key."""
    _keep(image, out)
    _keep(signature, out)
    content, detached = read_limited(image, MAX_IMAGE_SIZE), read_limited(signature, MAX_SIGNATURE_SIZE)
    with about(image, signature):
        signed = attach_signature(content, detached)
    write_atomic(out, signed)
    _tell(json, {"image": str(out)}, f"{out}: signed")


def _keep(source: Path, *outputs: Path) -> None:
    """Refuse outputs that are the input under any name: it is what others reproduce."""
    for output in outputs:
        if output == source or (source.exists() and output.exists() and output.samefile(source)):
            raise UsageError(f"{source} would be overwritten", hint="another --out FILE")


def _tell(json: bool, value: dict[str, Any], text: str) -> None:
    if json:
        console.emit_json(value)
    else:
        console.out(text)


def _places(values: list[str]) -> dict[str, TokenUri]:
    """Return where the key of each role is: what is said of it, or what is said of all."""
    places: dict[str, TokenUri] = {}
    for value in values:
        role, equals, uri = ("", "", value) if value.startswith(SCHEME) else value.partition("=")
        if equals and role not in keyset.ROLES:
            raise UsageError(f"--pkcs11 {role[:40]}=…: expected one of {', '.join(keyset.ROLES)}")
        if role in places:
            raise UsageError(f"--pkcs11 is given twice for {role or 'all keys'}")
        places[role] = named_token(uri)
    if "" in places and places[""].names_a_key:
        raise UsageError(
            "--pkcs11 names one key for three roles", hint="a token alone, or PK=URI, KEK=URI and db=URI"
        )
    missing = [role for role in keyset.ROLES if role not in places and "" not in places]
    if missing:
        raise UsageError(
            f"--pkcs11 does not say where {', '.join(missing)} is", hint="add a token for all, or each"
        )
    return {role: places.get(role, places.get("", TokenUri())) for role in keyset.ROLES}


def _certificate(path: Path) -> x509.Certificate:
    pem = read_limited(path, MAX_PEM_BYTES)
    with about(path):
        return load_certificate(pem)


def _digest(item: str) -> bytes:
    """Return the SHA-256 Authenticode digest that is written there, or of the image that is named."""
    if _HASH.fullmatch(item):
        return bytes.fromhex(item)
    path = Path(item)
    if not path.exists():
        raise UsageError(f"--forbid {item}: neither 64 hex digits nor a file")
    content = read_limited(path, MAX_IMAGE_SIZE)
    with about(path):
        return pe.parse(content).authenticode(HashAlgorithm.SHA256).value
