"""An audit as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format, errata 01), for code scanning tools."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any, Final

from builder.audit.model import AuditReport, Finding, Outcome, Result, Rule
from builder.audit.report import plain

VERSION: Final = "2.1.0"
SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: Which published file holds what a place names.
_FILES = {"root": "disk.raw", "initrd": "uki.efi"}


def dump_sarif(report: AuditReport) -> bytes:
    """Return the report as a SARIF log: one run, a rule descriptor for each rule, a result for each finding.

    A rule that holds has one result of the kind "pass" (3.27.9); a waived one carries its reason as an accepted
    suppression (3.35).
    """
    artifacts = sorted(report.files.items())
    indexes = {name: index for index, (name, _) in enumerate(artifacts)}
    results = [
        item
        for index, result in enumerate(report.results)
        for item in _results(result, index, indexes, report)
    ]
    log = {
        "$schema": SCHEMA,
        "version": VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "goldsmith audit",
                        "version": metadata.version("goldsmith"),
                        "rules": [_descriptor(result.rule) for result in report.results],
                    }
                },
                "artifacts": [
                    {"location": {"uri": name}, "hashes": {"sha-256": digest}} for name, digest in artifacts
                ],
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
    return (json.dumps(log, indent=2, ensure_ascii=False) + "\n").encode()


def _descriptor(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.checks},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": "error"},
        "properties": {"section": f"docs/hardening.md: {rule.section}"},
    }


def _results(
    result: Result, index: int, artifacts: dict[str, int], report: AuditReport
) -> list[dict[str, Any]]:
    base: dict[str, Any] = {"ruleId": result.rule.id, "ruleIndex": index}
    if result.outcome is Outcome.PASS:
        return [{**base, "kind": "pass", "level": "none", "message": {"text": f"{result.rule.title}: holds"}}]
    found = []
    for finding in result.findings:
        item = {**base, "kind": "fail", "level": "error", **_place(finding, artifacts, report)}
        if result.outcome is Outcome.WAIVED:
            item["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": result.reason}
            ]
        found.append(item)
    return found


def _place(finding: Finding, artifacts: dict[str, int], report: AuditReport) -> dict[str, Any]:
    tree, _, path = finding.place.partition(":")
    file = _FILES.get(tree, tree)
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": plain(finding.place), "kind": "resource"}]
    }
    if file in artifacts:
        location["physicalLocation"] = {"artifactLocation": {"uri": file, "index": artifacts[file]}}
    return {
        "message": {"text": plain(f"{finding.place}: expected {finding.expected}, got {finding.got}")},
        "locations": [location],
        "partialFingerprints": {"place/v1": plain(f"{report.declared.name}:{tree}:{path or finding.place}")},
    }
