"""goldsmith boot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from builder.atomic import write_atomic
from builder.boot.profiles import load_profiles, profiles_folder
from builder.cli import console
from builder.cli.files import public_keys
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lockfile import read_lock
from builder.prove import Proof, Trial, prove
from builder.release import manifest as manifests
from builder.release.golden import PUBLIC_KEY
from builder.store import Store
from measurements.verify.gpu import to_json as gpu_to_json
from measurements.verify.verdict import to_json


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="release folder")],
    firmware: Annotated[
        str | None, typer.Option(metavar="NAME-or-FILE", help="a firmware of the release, or a firmware file")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="start uki.efi with -kernel")] = False,
    secure_boot: Annotated[
        bool,
        typer.Option("--secure-boot", help="with the keys of a sealed release, and firmware that verifies"),
    ] = False,
    memory: Annotated[int | None, typer.Option(metavar="MiB", help="RAM, in place of the shape's")] = None,
    vcpus: Annotated[
        int | None, typer.Option(metavar="N", help="virtual CPUs, in place of the shape's")
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="who may have signed (default: DIR/release.pub); may be repeated"),
    ] = None,
    save_evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keep what the guest sent")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="add a console; PCR 12 moves, so this never verifies")
    ] = False,
    serial: Annotated[
        bool, typer.Option("--serial", help="fetch the evidence over virtio-serial in place of the network")
    ] = False,
    console_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keep what the console said")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="how long the machine may take to answer")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> int:
    """Boot a release in QEMU with a software TPM, and verify that it measures what was predicted."""
    reporter = console.reporter()
    manifest = manifests.load(folder)
    lock = read_lock(folder / "lock.json", recipe=manifest.name)
    store = Store.default()
    needed = [
        archive
        for name in lock.sets
        if name == "toolbox" or name.startswith("firmware/")
        for archive in lock.members(name)
    ]
    with open_sources(InputOptions(), lock) as sources:
        fetch(needed, store, sources, recipe=manifest.name, reporter=reporter)
    proof = prove(
        folder,
        manifest,
        lock,
        Trial(
            firmware=firmware,
            direct=direct,
            secure_boot=secure_boot,
            memory_mib=memory,
            vcpus=vcpus,
            debug=debug,
            transport="serial" if serial else "network",
            timeout=timeout,
            console_log=console_log,
        ),
        keys=public_keys(key or [folder / PUBLIC_KEY]),
        store=store,
        profiles=load_profiles(profiles_folder()),
        reporter=reporter,
    )
    if save_evidence is not None and proof.boot is not None:
        write_atomic(save_evidence, proof.boot.evidence)
        write_atomic(
            save_evidence.with_name(f"{save_evidence.name}.ak.pem"), proof.boot.attestation_key.encode()
        )
    for warning in proof.verdict.warnings if proof.verdict else ():
        if not warning.startswith("validity"):  # a boot of one's own asks no clock
            console.warn(f"UNPROVEN {warning}")
    if json:
        console.emit_json(_object(proof))
    else:
        _print(proof)
    return 0 if proof.passed else 1


def _object(proof: Proof) -> dict[str, Any]:
    verified = to_json(proof.verdict) if proof.verdict else {"registers": {}, "checks": [], "shape": None}
    return {
        "verdict": "pass" if proof.passed else "fail",
        "seconds": round(proof.boot.seconds, 2) if proof.boot else None,
        "firmware": proof.firmware_sha256,
        "shape": verified["shape"],
        "accelerator": proof.boot.accelerator if proof.boot else None,
        "published": proof.published,
        "registers": verified["registers"],
        "checks": verified["checks"],
        "gpu": gpu_to_json(proof.verdict.gpu) if proof.verdict else None,
        "warnings": list(proof.verdict.warnings) if proof.verdict else [],
        "changed": list(proof.changed),
        "failure": proof.failure,
        "reasons": list(proof.reasons),
    }


def _print(proof: Proof) -> None:
    if proof.verdict:
        for bank in dict.fromkeys(register.bank for register in proof.verdict.registers):
            rows = [
                [
                    str(register.index),
                    "equal" if register.equal else "DIFFERS" if register.pinned else "not pinned",
                    register.observed or "-",
                    register.reason or "",
                ]
                for register in proof.verdict.registers
                if register.bank is bank
            ]
            console.table(f"{proof.verdict.shape}, {bank}", ["PCR", "", "observed", "note"], rows)
            console.out("")
        for check in proof.verdict.checks:
            console.out(f"{check.number:>2}. {check.status.value:<8} {check.name}: {check.detail}")
    for reason in proof.reasons:
        console.out(f"why: {reason}")
    took = f" in {proof.boot.seconds:.1f} s ({proof.boot.accelerator})" if proof.boot else ""
    console.out(f"verdict: {'pass' if proof.passed else 'FAIL'}{took}")
