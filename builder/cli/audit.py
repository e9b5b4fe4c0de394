"""goldsmith audit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from builder.atomic import write_atomic
from builder.audit import audit_release
from builder.audit.declare import check_waivers, declared_by, with_signed_modules
from builder.audit.model import AuditReport, Declared, Outcome
from builder.audit.modules import read_certificate
from builder.audit.report import (
    FILE_NAME,
    MAX_CERTIFICATE,
    MAX_DOCUMENT,
    dump_report,
    read_declared,
    to_json,
)
from builder.audit.sarif import dump_sarif
from builder.cli import console
from builder.cli.arguments import DEFAULT_RELEASE
from builder.cli.files import parse_file, read_limited
from builder.errors import UsageError
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lockfile import read_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from measurements import golden
from measurements.errors import FormatError
from measurements.golden import GoldenDocument
from measurements.golden.model import MAX_DOCUMENT_BYTES

_DISK, _UKI, _LOCK, _GOLDEN = "disk.raw", "uki.efi", "lock.json", "golden.json"


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="release folder")] = DEFAULT_RELEASE,
    recipe: Annotated[
        str | None,
        typer.Option(help="hold the image against this recipe in place of what its audit.json declares"),
    ] = None,
    module_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="certificate whose key signed the modules that the kernel's own key did not, in place of what the "
            "release declares",
        ),
    ] = None,
    sarif: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a SARIF 2.1.0 log as well")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> int:
    """Read the final bytes of an image and hold them against every rule of the hardening profile."""
    document = parse_file(
        folder / _GOLDEN, MAX_DOCUMENT_BYTES, golden.parse, hint="goldsmith build writes it"
    )
    declared = _declared(folder, recipe, document)
    if module_certificate is not None:
        declared = with_signed_modules(
            declared, parse_file(module_certificate, MAX_CERTIFICATE, _certificate)
        )
    lock = read_lock(folder / _LOCK, recipe=document.image.name)
    store = Store.default()
    needed = [archive for name in ("root", "kernel") for archive in lock.members(name)]
    with open_sources(InputOptions(), lock) as sources:
        fetch(needed, store, sources, recipe=lock.recipe, reporter=console.reporter())
    report = audit_release(disk=folder / _DISK, uki=folder / _UKI, declared=declared, lock=lock, store=store)
    unused = sorted(declared.waivers.keys() - {result.rule.id for result in report.of(Outcome.WAIVED)})
    changed = _changed(folder, report, document)
    if sarif is not None:
        write_atomic(sarif, dump_sarif(report))
    passed = not (report.failed or unused or changed)
    if json:
        verdict = {"verdict": "pass" if passed else "fail", "changed": changed, "unused_waivers": unused}
        console.emit_json(to_json(report) | verdict)
        return 0 if passed else 1
    _print(report)
    for reason in changed:
        console.out(f"why: {reason}")
    for rule in unused:
        console.out(f"why: {rule} is waived and holds; take the waiver out of the recipe")
    counts = ", ".join(f"{len(report.of(outcome))} {outcome.value}" for outcome in Outcome)
    console.out(f"verdict: {'pass' if passed else 'FAIL'} ({counts})")
    return 0 if passed else 1


def _certificate(pem: bytes) -> bytes:
    if read_certificate(pem.decode("ascii", "backslashreplace")) is None:
        raise FormatError("an empty file; expected a certificate in PEM")
    return pem


def _declared(folder: Path, recipe: str | None, document: GoldenDocument) -> Declared:
    """Take the declarations of the recipe or of the release, and the identity of its golden document."""
    if recipe is not None:
        declared = declared_by(load_recipe(find_recipe(recipe)))
    elif (folder / FILE_NAME).exists():
        declared = parse_file(folder / FILE_NAME, MAX_DOCUMENT, read_declared)
        check_waivers(declared.waivers)
    else:
        raise UsageError(
            f"{folder} has no {FILE_NAME}, so it does not say what it is held against", hint="--recipe RECIPE"
        )
    return replace(declared, name=document.image.name, version=document.image.version)


def _changed(folder: Path, report: AuditReport, document: GoldenDocument) -> list[str]:
    """Say which of the audited files are not those of the golden document beside them."""
    promised = {output.name: output.sha256 for output in document.outputs}
    found = dict(report.files)
    found[_LOCK] = hashlib.sha256(read_limited(folder / _LOCK, MAX_DOCUMENT)).hexdigest()
    if (folder / FILE_NAME).exists():
        recorded = read_limited(folder / FILE_NAME, MAX_DOCUMENT)
        found[FILE_NAME] = hashlib.sha256(recorded).hexdigest()
        if recorded != dump_report(report) and not report.failed:
            console.warn(
                f"{FILE_NAME} says something else than this audit: made by another version, or for another recipe"
            )
    return [
        f"{name}: SHA-256 {digest}, the golden document lists {promised.get(name, 'no such file')}"
        for name, digest in sorted(found.items())
        if promised.get(name) != digest
    ]


def _print(report: AuditReport) -> None:
    rows = [
        [
            result.rule.id,
            result.outcome.value if result.outcome is not Outcome.FAIL else "FAIL",
            result.rule.title,
        ]
        for result in report.results
    ]
    console.table(f"{report.declared.name} {report.declared.version}", ["rule", "", ""], rows)
    console.out("")
    for result in report.results:
        if result.outcome is Outcome.PASS:
            continue
        console.out(f"{result.rule.id} {result.outcome.value}: {result.rule.title}")
        if result.reason:
            console.out(f"  because {result.reason}")
        for finding in result.findings:
            console.out(f"  {finding.place}: expected {finding.expected}, got {finding.got}")
        if result.outcome is Outcome.FAIL:
            console.out(f"  to do: {result.rule.remedy}")
    exposed = [[name, f"{value:.1f}"] for name, value in report.exposure.items()]
    console.table("exposure of services, 0 to 10 (systemd-analyze security)", ["service", ""], exposed)
    console.out("")
