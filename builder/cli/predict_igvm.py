"""goldsmith predict igvm; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.reading import parse_file
from builder.errors import BuilderError
from measurements.errors import MeasurementError
from measurements.formats import igvm
from measurements.formats.igvmheaders import (
    GuestPolicy,
    Header,
    IdBlock,
    Other,
    PageData,
    PageKind,
    ParameterArea,
    ParameterInsert,
    SupportedPlatform,
    VpContext,
    header_name,
    platform_name,
    runs,
)
from measurements.snp.igvm import Loader, compatibility_mask, regions
from measurements.snp.pages import PAGE_SIZE, walk
from measurements.snp.policy import GuestPolicy as SnpPolicy


def main(arguments: list[str]) -> int:
    """Predict the SEV-SNP launch digest of an IGVM file, and list its headers."""
    parser = Parser(
        "predict igvm", "Predict the SEV-SNP launch digest of an IGVM file, and list its headers."
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="IGVM file, version 1 or 2")
    add(
        "--loader",
        choices=[str(loader) for loader in Loader],
        default="specification",
        help="qemu: pages without data are zero pages, and KVM's conditions hold (default: specification)",
    )
    add("--list", action="store_true", help="list the headers and measure nothing, whatever the platform")
    add("--explain", action="store_true", help="print every page, and the digest after it")
    add("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    file = parse_file(given.file, igvm.MAX_FILE_SIZE, igvm.parse)
    result: dict[str, Any] = {} if given.list else _measured(given, file)
    result |= {
        "version": file.version,
        "platforms": [platform_name(item.platform) for item in file.platforms()],
        "directives": [_directive(header, count) for header, count in runs(file.headers)],
    }
    if given.json:
        console.emit_json(result)
        return 0
    _print(given, result)
    return 0


def _measured(given: argparse.Namespace, file: igvm.IgvmFile) -> dict[str, Any]:
    loader = Loader(given.loader)
    try:
        pages = tuple(walk(regions(file, loader)))
        mask = compatibility_mask(file)
        policy = _policy(file, mask)
    except MeasurementError as error:
        raise BuilderError(f"{given.file}: {error}") from error
    digest = pages[-1].digest
    result: dict[str, Any] = {
        "launch_digest": digest.hex(),
        "pages": len(pages),
        "loader": str(loader),
        "policy": None if policy is None else policy.to_json(),
        "id_block": _id_block(file, mask, digest),
    }
    if given.explain:
        result["measured"] = [page.to_json() for page in pages]
    return result


def _policy(file: igvm.IgvmFile, mask: int) -> SnpPolicy | None:
    found = [item.policy for item in file.headers if isinstance(item, GuestPolicy) and item.mask & mask]
    return SnpPolicy.parse(found[-1]) if found else None


def _id_block(file: igvm.IgvmFile, mask: int, digest: bytes) -> dict[str, Any] | None:
    blocks = [item for item in file.headers if isinstance(item, IdBlock) and item.mask & mask]
    if not blocks:
        return None
    block = blocks[-1]
    return {
        "launch_digest": block.launch_digest.hex(),
        "matches": block.launch_digest == digest,
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "guest_svn": block.guest_svn,
        "author_key_enabled": block.author_key_enabled,
    }


def _directive(header: Header, count: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    match header:
        case SupportedPlatform():
            fields = {"platform": platform_name(header.platform), "mask": header.mask}
        case GuestPolicy():
            fields = {"policy": f"0x{header.policy:x}", "mask": header.mask}
        case ParameterArea():
            fields = {"index": header.index, "size": header.size}
        case ParameterInsert():
            fields = {"gpa": f"0x{header.address:x}", "index": header.index, "mask": header.mask}
        case PageData():
            kind = PageKind(header.kind).name.lower() if header.kind in set(PageKind) else str(header.kind)
            fields = {
                "gpa": f"0x{header.address:x}",
                "pages": count * header.size // PAGE_SIZE,
                "kind": kind,
                "data": header.data is not None,
                "unmeasured": header.unmeasured,
                "shared": header.shared,
                "mask": header.mask,
            }
        case VpContext():
            fields = {"gpa": f"0x{header.address:x}", "vcpu": header.index, "mask": header.mask}
        case IdBlock():
            fields = {"launch_digest": header.launch_digest.hex(), "mask": header.mask}
        case Other():
            fields = {"size": header.size, "known": header.known, "ignorable": header.ignorable}
    return {"type": header_name(header)} | fields


def _print(given: argparse.Namespace, result: dict[str, Any]) -> None:
    rows = []
    for directive in result["directives"]:
        details = ", ".join(
            f"{name} {value}" for name, value in directive.items() if name not in ("type", "gpa")
        )
        rows.append([directive["type"], directive.get("gpa", ""), details])
    console.table("", ["directive", "gpa", ""], rows)
    console.out("")
    if given.list:
        return
    if given.explain:
        measured = result["measured"]
        console.table("", list(measured[0]), [list(page.values()) for page in measured])
        console.out("")
    block = result["id_block"]
    if block is not None and not block["matches"]:
        console.warn(
            f"the ID block in the file is for {block['launch_digest']}, so the guest would not start"
        )
    console.out(result["launch_digest"])
