"""goldsmith sign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.atomic import write_atomic
from builder.cli import console
from builder.cli.files import is_envelope, read_limited
from builder.cli.signing import KEY_VARIABLE, KeyNames, Module, open_tokens, signing_keys
from builder.errors import BuilderError, UsageError
from measurements import golden
from measurements.envelope import (
    MAX_ENVELOPE_BYTES,
    add_signatures,
    sign_document,
    unverified_document,
)
from measurements.errors import FormatError
from measurements.golden import GoldenDocument
from measurements.keys import SigningKey


def command(
    document: Annotated[
        Path, typer.Argument(metavar="GOLDEN", help="golden.json, or an envelope to sign once more")
    ],
    key: KeyNames = None,
    module: Module = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="envelope to write (default: golden.json gives golden.dsse.json)"),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="add signatures to an envelope that exists, of the same document")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Sign a golden document into a DSSE envelope, or add signatures to an envelope.

    Signatures that an envelope holds already are kept and not judged: goldsmith verify does that.
    """
    with open_tokens(module=module) as tokens:
        keys = signing_keys(key or [], tokens)
        if not keys:
            raise UsageError("no key to sign with", hint=f"--key PEM, or the PEM text in {KEY_VARIABLE}")
        data = read_limited(document, MAX_ENVELOPE_BYTES)
        try:
            signed, envelope, target = _sign(document, data, keys, out, append=append)
        except FormatError as error:
            raise BuilderError(f"{document}: {error}") from error
    write_atomic(target, envelope)
    ids = [item.public().key_id for item in keys]
    image = signed.image
    if json:
        console.emit_json(
            {
                "envelope": str(target),
                "image": {"name": image.name, "version": image.version, "svn": image.svn},
                "signed_by": ids,
            }
        )
        return
    console.out(f"{target}: {image.name} {image.version}, SVN {image.svn}")
    for key_id in ids:
        console.out(f"signed by {key_id}")


def _sign(
    path: Path, data: bytes, keys: list[SigningKey], out: Path | None, *, append: bool
) -> tuple[GoldenDocument, bytes, Path]:
    """Return what was signed, the envelope, and where it belongs."""
    if is_envelope(data):
        target = out or path
        if target != path and target.exists():
            raise UsageError(f"{target} exists, and its signatures would be lost", hint="another --out FILE")
        return unverified_document(data), add_signatures(data, keys), target
    document = golden.parse(data)
    target = out or path.with_name(f"{path.name.removesuffix('.json')}.dsse.json")
    if not target.exists():
        return document, sign_document(document, keys), target
    if not append:
        raise UsageError(
            f"{target} exists, and its signatures would be lost",
            hint="--append adds to them, --out FILE writes another envelope",
        )
    present = read_limited(target, MAX_ENVELOPE_BYTES)
    if unverified_document(present) != document:
        raise UsageError(f"{target} is the envelope of another document than {path}")
    return document, add_signatures(present, keys), target
