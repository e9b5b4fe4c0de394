"""goldsmith keygen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from builder.atomic import write_atomic
from builder.cli import console
from builder.errors import UsageError
from measurements.keys import KeyAlgorithm, generate


def command(
    key: Annotated[
        Path, typer.Argument(metavar="FILE", help="private key to write, as PKCS#8 PEM, mode 0600")
    ],
    algorithm: Annotated[KeyAlgorithm, typer.Option(help="what to sign with")] = KeyAlgorithm.ED25519,
    passphrase_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="environment variable that holds a passphrase for the key"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Make a signing key: FILE gets the private key, FILE.pub the public one."""
    public = key.with_name(f"{key.name}.pub")
    for path in (key, public):
        if path.exists():
            raise UsageError(f"{path} exists; a key is never overwritten", hint="choose another name")
    passphrase = None
    if passphrase_env is not None:
        if not os.environ.get(passphrase_env):
            raise UsageError(f"the environment variable {passphrase_env} is not set")
        passphrase = os.environ[passphrase_env].encode()
    made = generate(algorithm)
    write_atomic(key, made.pem(passphrase), mode=0o600)
    write_atomic(public, made.public().pem(), mode=0o644)
    if json:
        console.emit_json(
            {"key": str(key), "public": str(public), "algorithm": algorithm, "keyid": made.public().key_id}
        )
    else:
        console.out(f"{key}: {algorithm} private key\n{public}: public key, keyid {made.public().key_id}")
