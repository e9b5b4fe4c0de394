"""goldsmith seal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.boot.profiles import load_profile
from builder.cli import console
from builder.cli.files import read_limited
from builder.cli.signing import (
    KeyNames,
    Module,
    PassphraseName,
    about,
    key_set_signer,
    open_tokens,
    passphrase_of,
    signing_keys,
)
from builder.errors import UsageError
from builder.fetch import fetch
from builder.image.secureboot.authenticode import MAX_SIGNATURE_SIZE
from builder.image.secureboot.enrolment import read_enrolment
from builder.image.secureboot.signer import Signer
from builder.image.secureboot.variables import MAX_UPDATE_SIZE, VENDORS
from builder.inputs import InputOptions, open_sources
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.seal import SealedRelease, seal
from builder.store import Store
from builder.tokens.ring import Tokens


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the unsigned release")],
    keys: Annotated[
        Path | None, typer.Option(metavar="KEYS", help="folder of a key set, with the private key of db")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="P7S", help="the published signature, in place of a key")
    ] = None,
    enrolment: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="PK.auth, KEK.auth, db.auth and dbx.auth (default: KEYS)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="sealed release (default: DIR-sealed)")] = None,
    key: KeyNames = None,
    module: Module = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="calibrated firmware profile; may be repeated"),
    ] = None,
    passphrase_env: PassphraseName = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Sign a finished release for Secure Boot: UKI, disk, enrolled variable stores, and what they measure."""
    if (keys is None) == (signature is None):
        raise UsageError("expected either --keys KEYS or --signature P7S")
    public = enrolment or keys
    if public is None:
        raise UsageError(
            "a signature alone does not say whose keys machines have",
            hint="--enrolment FOLDER; a sealed release is one",
        )
    updates = {name: read_limited(public / f"{name}.auth", MAX_UPDATE_SIZE) for name in VENDORS}
    with about(public):
        read_enrolment(updates)
    reporter = console.reporter()
    manifest = manifests.load(folder)
    lock = read_lock(folder / "lock.json", recipe=manifest.name)
    store = Store.default()
    needed = [
        archive
        for name in lock.sets
        if name in ("toolbox", "root", "kernel") or name.startswith(("firmware/", "emulator/"))
        for archive in lock.members(name)
    ]
    with open_sources(InputOptions(), lock) as sources:
        fetch(needed, store, sources, recipe=manifest.name, reporter=reporter)
    passphrase = passphrase_of(passphrase_env)
    with open_tokens(pin=passphrase, module=module) as tokens:
        release = seal(
            folder,
            manifest,
            lock,
            signing=_signing(signature, keys, passphrase, tokens),
            updates=updates,
            out=out or folder.absolute().with_name(f"{folder.absolute().name}-sealed"),
            store=store,
            keys=signing_keys(key or [], tokens),
            profiles=tuple(load_profile(path) for path in profile or ()),
            reporter=reporter,
        )
    if json:
        console.emit_json(_summary(release))
    else:
        _print(release)


def _signing(
    signature: Path | None, keys: Path | None, passphrase: bytes | None, tokens: Tokens
) -> Signer | bytes:
    if signature is not None:
        return read_limited(signature, MAX_SIGNATURE_SIZE)
    assert keys is not None
    return key_set_signer(keys, "db", passphrase, tokens)


def _summary(release: SealedRelease) -> dict[str, object]:
    document = release.document
    return {
        "folder": str(release.folder),
        "throwaway_key": release.throwaway_key,
        "outputs": [
            {"name": output.name, "size": output.size, "sha256": output.sha256} for output in document.outputs
        ],
        "shapes": [prediction.shape.name for prediction in document.predictions],
        "sealed": list(release.sealed),
        "open": list(release.open_registers),
    }


def _print(release: SealedRelease) -> None:
    for prediction in release.document.predictions:
        console.out(f"predicted: {prediction.shape.name}")
    for line in release.open_registers:
        console.out(f"not pinned: {line}")
    if release.throwaway_key:
        console.out("signed with a throw-away key (--key signs with yours)")
    console.out(f"golden document: {release.folder / 'golden.dsse.json'}")
