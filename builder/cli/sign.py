"""goldsmith sign."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from builder.atomic import write_atomic
from builder.cli import console
from builder.cli.files import is_envelope, read_limited
from builder.cli.signing import KEY_VARIABLE, KeyNames, Module, open_tokens, signing_keys
from builder.errors import BuilderError, UsageError
from measurements import golden, profile
from measurements.envelope import (
    MAX_ENVELOPE_BYTES,
    add_signatures,
    sign_document,
    unverified_document,
    unverified_payload,
)
from measurements.errors import FormatError
from measurements.golden import GoldenDocument
from measurements.keys import SigningKey
from measurements.profile import PlatformProfile
from measurements.profile import signed as profile_envelope
from measurements.strictjson import loads

_Document: TypeAlias = GoldenDocument | PlatformProfile


def command(
    document: Annotated[
        Path,
        typer.Argument(
            metavar="DOCUMENT",
            help="golden.json or a platform profile, or the envelope of one to sign once more",
        ),
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
    """Sign a golden document or a platform profile into a DSSE envelope, or add signatures to an envelope.

    Signatures that an envelope holds already are kept and not judged: goldsmith verify does that.
    """
    with open_tokens(module=module) as tokens:
        keys = signing_keys(key or [], tokens)
        if not keys:
            raise UsageError("no key to sign with", hint=f"--key PEM, or the PEM text in {KEY_VARIABLE}")
        data = read_limited(document, MAX_ENVELOPE_BYTES)
        try:
            signed, envelope, target = _sign(_kind(data), document, data, keys, out, append=append)
        except FormatError as error:
            raise BuilderError(f"{document}: {error}") from error
    write_atomic(target, envelope)
    ids = [item.public().key_id for item in keys]
    if json:
        console.emit_json({"envelope": str(target), **_object(signed), "signed_by": ids})
        return
    if isinstance(signed, PlatformProfile):
        console.out(f"{target}: platform profile {signed.name}, {len(signed.names)} launches")
    else:
        image = signed.image
        console.out(f"{target}: {image.name} {image.version}, SVN {image.svn}")
    for key_id in ids:
        console.out(f"signed by {key_id}")


def _object(signed: _Document) -> dict[str, object]:
    if isinstance(signed, PlatformProfile):
        return {"profile": {"name": signed.name, "launches": list(signed.names)}}
    image = signed.image
    return {"image": {"name": image.name, "version": image.version, "svn": image.svn}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How documents of one kind are read and signed."""

    parse: Callable[[bytes], _Document]
    unverified: Callable[[bytes], _Document]
    sign: Callable[[Any, Iterable[SigningKey]], bytes]
    sign_again: Callable[[bytes, Iterable[SigningKey]], bytes]


_GOLDEN = _Kind(
    parse=golden.parse, unverified=unverified_document, sign=sign_document, sign_again=add_signatures
)
_PROFILE = _Kind(
    parse=profile.parse,
    unverified=profile_envelope.unverified_profile,
    sign=profile_envelope.sign_profile,
    sign_again=profile_envelope.sign_again,
)


def _kind(data: bytes) -> _Kind:
    """Return the kind of a document or of an envelope's, which reading it then checks."""
    value = loads(
        unverified_payload(data) if is_envelope(data) else data, what="document", max_bytes=MAX_ENVELOPE_BYTES
    )
    found = isinstance(value, dict) and value.get("predicateType") == profile_envelope.PREDICATE_TYPE
    named = isinstance(value, dict) and value.get("format") == profile.FORMAT
    return _PROFILE if found or named else _GOLDEN


def _sign(
    kind: _Kind,
    path: Path,
    data: bytes,
    keys: list[SigningKey],
    out: Path | None,
    *,
    append: bool,
) -> tuple[_Document, bytes, Path]:
    """Return what was signed, the envelope, and where it belongs."""
    if is_envelope(data):
        target = out or path
        if target != path and target.exists():
            raise UsageError(f"{target} exists, and its signatures would be lost", hint="another --out FILE")
        return kind.unverified(data), kind.sign_again(data, keys), target
    document = kind.parse(data)
    target = out or path.with_name(f"{path.name.removesuffix('.json')}.dsse.json")
    if not target.exists():
        return document, kind.sign(document, keys), target
    if not append:
        raise UsageError(
            f"{target} exists, and its signatures would be lost",
            hint="--append adds to them, --out FILE writes another envelope",
        )
    present = read_limited(target, MAX_ENVELOPE_BYTES)
    if kind.unverified(present) != document:
        raise UsageError(f"{target} is the envelope of another document than {path}")
    return document, kind.sign_again(present, keys), target
