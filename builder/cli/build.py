"""goldsmith build."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from builder.artifacts import Lock
from builder.cli import console
from builder.cli.signing import (
    KeyNames,
    Module,
    PassphraseName,
    key_set_signer,
    open_tokens,
    passphrase_of,
    published_module_signatures,
    signing_keys,
)
from builder.errors import GoneError, UsageError
from builder.fetch import fetch
from builder.image.secureboot.keyset import fingerprint
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock, resolve_scratch
from builder.modulesigning import ModuleSigning
from builder.pipeline import Release, build
from builder.recipe import find_recipe, load_recipe
from builder.rims import check_rims
from builder.store import Store
from measurements.golden import GoldenDocument
from measurements.prediction import Prediction


class DiskFormat(StrEnum):
    """Disk image formats beside each other."""

    RAW = "raw"
    QCOW2 = "qcow2"


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="name below recipes/, or a path")],
    out: Annotated[Path | None, typer.Option(help="release folder (default: dist/RECIPE)")] = None,
    key: KeyNames = None,
    module: Module = None,
    module_keys: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYS", help="folder of a key set; its db key signs the modules that are compiled"
        ),
    ] = None,
    module_signatures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="published signatures of the modules (a release), in place of a key"
        ),
    ] = None,
    module_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM", help="what published signatures must verify with (default: FOLDER/modules.pem)"
        ),
    ] = None,
    passphrase_env: PassphraseName = None,
    format: Annotated[  # noqa: A002
        DiskFormat, typer.Option(help="qcow2 adds disk.qcow2 to disk.raw")
    ] = DiskFormat.RAW,
    accept: Annotated[
        bool, typer.Option("--accept", help="write the values to the recipe's golden.json")
    ] = False,
    quickstart: Annotated[
        bool,
        typer.Option(
            "--quickstart",
            help="when locked archives have left every source, build from a fresh scratch lock",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="compilers at a time for kernel modules (default: one a processor)"),
    ] = None,
    require_rim: Annotated[
        bool,
        typer.Option("--require-rim", help="fail where no reference values of the recipe's GPU are held"),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="use the store alone")] = False,
    mirror: Annotated[str | None, typer.Option(help="archive to use in place of the host's")] = None,
    vault: Annotated[Path | None, typer.Option(help="folder that was filled with `goldsmith vault`")] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Compose an image, assemble its disk, predict its registers, and sign the golden document."""
    if module_keys is not None and module_signatures is not None:
        raise UsageError("expected either --module-keys KEYS or --module-signatures FOLDER")
    if module_certificate is not None and module_signatures is None:
        raise UsageError("--module-certificate says what --module-signatures FOLDER must verify with")
    reporter = console.reporter()
    wanted = load_recipe(find_recipe(recipe))
    for warning in check_rims(wanted, required=require_rim):
        console.warn(warning)
    lock = load_lock(wanted)
    store = Store.default()
    options = InputOptions(mirror=mirror, vault=vault)

    def bring(wanted_lock: Lock) -> None:
        with open_sources(options, wanted_lock) as sources:
            fetch(wanted_lock.archives, store, sources, recipe=wanted.name, reporter=reporter)

    if not offline:
        try:
            bring(lock)
        except GoneError as gone:
            if not quickstart:
                raise
            for name in gone.archives:
                reporter.note(f"{name} has left every source")
            reporter.note(
                "building from a freshly resolved scratch lock; its values are not the published ones"
            )
            lock = resolve_scratch(
                wanted, options.mirrors(), previous=lock, gone=gone.archives, reporter=reporter
            )
            bring(lock)
    passphrase = passphrase_of(passphrase_env)
    with open_tokens(pin=passphrase, module=module) as tokens:
        signing: ModuleSigning | None = None
        if module_keys is not None:
            signing = key_set_signer(module_keys, "db", passphrase, tokens)
        elif module_signatures is not None:
            signing = published_module_signatures(module_signatures, module_certificate)
        release = build(
            wanted,
            lock,
            store=store,
            out=out or Path("dist") / wanted.name,
            keys=signing_keys(key or [], tokens),
            signing=signing,
            qcow2=format is DiskFormat.QCOW2,
            accept=accept,
            jobs=jobs,
            reporter=reporter,
        )
    if json:
        console.emit_json(_summary(release, signing, scratch=lock.scratch))
    else:
        _print(release, signing, scratch=lock.scratch)


def _summary(release: Release, signing: ModuleSigning | None, *, scratch: bool) -> dict[str, object]:
    document = release.document
    return {
        "folder": str(release.folder),
        "image": {
            "name": document.image.name,
            "version": document.image.version,
            "svn": document.image.svn,
        },
        "scratch": scratch,
        "throwaway_key": release.throwaway_key,
        "modules_signed_by": None if signing is None else fingerprint(signing.certificate),
        "outputs": [
            {"name": output.name, "size": output.size, "sha256": output.sha256} for output in document.outputs
        ],
        "shapes": list(_shapes(document)),
        "notes": list(release.notes),
        "warnings": list(release.warnings),
    }


def _print(release: Release, signing: ModuleSigning | None, *, scratch: bool) -> None:
    document = release.document
    first = document.predictions[0]
    bank = document.banks[0]
    rows = [
        [
            str(register.index),
            register.stability.value,
            ("\n".join(value.hex() for value in register.values(bank)) or "-"),
            register.reason or _moves(document, first, register.index),
        ]
        for register in first.registers
    ]
    console.table(f"{first.shape.name}, {bank}", ["PCR", "depends on", "predicted", "note"], rows)
    console.out("")
    for name in _shapes(document):
        console.out(f"predicted: {name}")
    for warning in release.warnings:
        console.out(f"WARNING: {warning}")
    if scratch:
        console.out("SCRATCH BUILD: inputs were resolved anew for this build; do not publish its values")
    if signing is not None:
        subject = signing.certificate.subject.rfc4514_string()
        console.out(f"modules signed by {subject}, certificate SHA-256 {fingerprint(signing.certificate)}")
    if release.throwaway_key:
        console.out("signed with a throw-away key (--key signs with yours)")
    console.out(f"golden document: {release.folder / 'golden.dsse.json'}")


def _shapes(document: GoldenDocument) -> Iterator[str]:
    yield from (prediction.shape.name for prediction in document.predictions)
    yield from (reference.name for reference in document.sev_snp)
    yield from (reference.name for reference in document.tdx)


def _moves(document: GoldenDocument, first: Prediction, index: int) -> str:
    """Say in which other launches a register has another value."""
    bank = document.banks[0]
    value = first.register(index).values(bank)
    others = [
        prediction.shape.name
        for prediction in document.predictions
        if prediction.register(index).values(bank) != value
    ]
    return f"differs in {len(others)} other launches" if others else ""
