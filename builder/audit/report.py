"""``audit.json``: a release's audit, and what it was held against (docs/audit.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from builder.audit.model import AuditReport, Declared, Outcome, PolicyOption, Result
from measurements.errors import FormatError
from measurements.strictjson import Fields, kind_of, loads

FORMAT: Final = "goldsmith-audit/1"
FILE_NAME: Final = "audit.json"
MAX_DOCUMENT: Final = 8 << 20
MAX_TEXT: Final = 2000
MAX_CERTIFICATE: Final = 1 << 14
_MAX_ITEMS = 10_000
_TREES = ("root", "initrd")


def dump_report(report: AuditReport) -> bytes:
    """Return the report as JSON: sorted keys, two spaces, one newline at the end; no clock, no place."""
    value = to_json(report)
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def to_json(report: AuditReport) -> dict[str, Any]:
    """Return the report as a JSON object."""
    return {
        "format": FORMAT,
        "image": {"name": report.declared.name, "version": report.declared.version},
        "files": dict(report.files),
        "kernel_package": report.kernel_package,
        "verdict": "fail" if report.failed else "pass",
        "summary": {outcome.value: len(report.of(outcome)) for outcome in Outcome},
        "rules": [_result(result) for result in report.results],
        # One decimal as text: JSON's numbers are not exact for every reader.
        "exposure": {unit: f"{value:.1f}" for unit, value in report.exposure.items()},
        "declared": _declared(report.declared),
    }


def read_declared(document: bytes) -> Declared:
    """Return what the image of an ``audit.json`` was held against.

    Raises:
        FormatError: not a document of this format.
        LimitError: larger than the limits of this module.
    """
    fields = Fields(loads(document, what=FILE_NAME, max_bytes=MAX_DOCUMENT), FILE_NAME)
    if fields.text("format", max_length=64) != FORMAT:
        raise FormatError(f"{FILE_NAME}: the format is another than {FORMAT}")
    image, declared = fields.fields("image"), fields.fields("declared")
    policy = declared.raw("kernel_policy")
    return Declared(
        name=image.text("name", max_length=64),
        version=image.text("version", max_length=64),
        command_line=_texts(declared, "command_line"),
        debug_command_line=declared.text("debug_command_line", max_length=4096),
        modules={tree: _texts(declared.fields("modules"), tree) for tree in _TREES},
        interpreters={tree: _mapping(declared.fields("interpreters"), tree) for tree in _TREES},
        setuid={tree: _mapping(declared.fields("setuid"), tree) for tree in _TREES},
        ports=_mapping(declared, "ports"),
        kernel_policy=None if policy is None else tuple(_option(item) for item in _list(policy)),
        waivers=_mapping(declared, "waivers"),
        # Absent from reports of versions that knew no such signatures.
        module_certificate=declared.text("module_certificate", max_length=MAX_CERTIFICATE)
        if declared.has("module_certificate")
        else "",
    )


def plain(text: str) -> str:
    """Return text that any JSON reader takes, of at most `MAX_TEXT` characters."""
    return text.encode("utf-8", "backslashreplace").decode()[:MAX_TEXT]


def _result(result: Result) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": result.rule.id,
        "title": result.rule.title,
        "outcome": result.outcome.value,
        "findings": [
            {key: plain(text) for key, text in asdict(finding).items()} for finding in result.findings
        ],
    }
    return {**value, "reason": result.reason} if result.reason else value


def _declared(declared: Declared) -> dict[str, Any]:
    value = asdict(declared)
    del value["name"], value["version"]
    return value


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    items = fields.array(name, max_items=_MAX_ITEMS)
    if not all(isinstance(item, str) for item in items):
        raise FormatError(f"{fields.where}: {name!r} holds something else than text")
    return tuple(items)


def _mapping(fields: Fields, name: str) -> Mapping[str, str]:
    value = fields.fields(name).value
    if not all(isinstance(item, str) for item in value.values()):
        raise FormatError(f"{fields.where}: {name!r} holds something else than text")
    return dict(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise FormatError(f"{FILE_NAME}: the kernel policy is {kind_of(value)}, or too long")
    return value


def _option(value: Any) -> PolicyOption:
    fields = Fields(value, f"{FILE_NAME}: kernel_policy")
    option = PolicyOption(
        option=fields.text("option", max_length=128),
        value=fields.text("value", max_length=128),
        wanted=fields.optional_text("wanted", max_length=128),
        reason=fields.text("reason", max_length=MAX_TEXT),
    )
    fields.end()
    return option
