"""goldsmith snp id-block."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from builder.cli import console
from builder.cli.arguments import split_names
from builder.cli.files import golden_document, public_keys
from builder.cli.signing import Module, open_tokens, signing_keys
from builder.errors import UsageError
from measurements.errors import FormatError
from measurements.golden import SevSnpReference
from measurements.prediction import BootPath
from measurements.snp import idblock
from measurements.snp.idblock import ID_SIZE, IdAuthentication, IdBlock, release_ids
from measurements.snp.pages import DIGEST_SIZE
from measurements.snp.policy import FLAGS, GuestPolicy
from measurements.snp.vmsa import Vmm


def command(
    *,
    launch_digest: Annotated[
        str | None, typer.Argument(metavar="DIGEST", help="launch digest, 96 hex digits")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="golden document or release folder, in place of DIGEST"),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="PEM-or-URI", help="ID key: ECDSA P-384, a PEM file or a PKCS #11 URI")
    ],
    signer: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="public key that must have signed the document; may be repeated"),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="the document's launch; otherwise all of QEMU's")
    ] = None,
    author_key: Annotated[
        str | None, typer.Option(metavar="PEM-or-URI", help="author key, which signs the ID key")
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAMES", help=f"what the policy sets, of {', '.join(FLAGS)}")
    ] = "smt_allowed",
    abi: Annotated[
        str, typer.Option(metavar="MAJOR.MINOR", help="lowest version of the firmware's ABI")
    ] = "0.0",
    family_id: Annotated[str | None, typer.Option(metavar="HEX", help="32 hex digits; zeros")] = None,
    image_id: Annotated[str | None, typer.Option(metavar="HEX", help="32 hex digits; zeros")] = None,
    guest_svn: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="security version of the guest; 0")
    ] = None,
    module: Module = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Sign an ID block: a host that gets it starts no other digest and no other policy.

    With --golden, one for each launch of the document, with its image, version and SVN.
    """
    if (launch_digest is None) is (golden is None):
        raise UsageError("give a launch DIGEST or --golden FILE, and not both")
    if golden is None:
        if signer or shape is not None:
            raise UsageError("--signer and --shape are about the document of --golden")
        digest = _hexadecimal(launch_digest or "", DIGEST_SIZE, "DIGEST")
        blocks = {"": _block(digest, _policy(policy, abi), family_id, image_id, guest_svn)}
        launches: dict[str, SevSnpReference] = {}
    else:
        if (family_id, image_id, guest_svn) != (None, None, None):
            raise UsageError("--family-id, --image-id and --guest-svn follow from the document of --golden")
        blocks, launches = _of_document(golden, signer or [], shape, _policy(policy, abi))
    with open_tokens(module=module) as tokens:
        names = [name for name in (key, author_key) if name is not None]
        signers = signing_keys(names, tokens)
        results = []
        for name, block in blocks.items():
            authentication = idblock.sign(block, *signers)
            authentication.verify(block)
            results.append(_result(block, authentication, launches.get(name)))
    _tell(results, json=json, listed=golden is not None)


def _of_document(
    path: Path, signers: list[Path], shape: str | None, policy: GuestPolicy
) -> tuple[dict[str, IdBlock], dict[str, SevSnpReference]]:
    """Return the ID block of every launch that QEMU starts, or of the one that is named, and the launches."""
    document = golden_document(path, public_keys(signers), "--signer")
    launches = {item.name: item for item in document.sev_snp if item.vmm is Vmm.QEMU}
    if shape is not None:
        if shape not in launches:
            known = ", ".join(launches) or "none"
            raise UsageError(f"{path} has no SEV-SNP launch {shape!r} under QEMU; it has {known}")
        launches = {shape: launches[shape]}
    if not launches:
        raise UsageError(f"{path} has no SEV-SNP launch under QEMU, whose host could be given an ID block")
    family_id, image_id = release_ids(document.image.name, document.image.version)
    blocks = {
        name: IdBlock(
            launch_digest=item.launch_digest.value,
            family_id=family_id,
            image_id=image_id,
            guest_svn=document.image.svn,
            policy=policy,
        )
        for name, item in launches.items()
    }
    return blocks, launches


def _block(
    digest: bytes, policy: GuestPolicy, family_id: str | None, image_id: str | None, svn: int | None
) -> IdBlock:
    try:
        return IdBlock(
            launch_digest=digest,
            family_id=_hexadecimal(family_id or "00" * ID_SIZE, ID_SIZE, "--family-id"),
            image_id=_hexadecimal(image_id or "00" * ID_SIZE, ID_SIZE, "--image-id"),
            guest_svn=svn or 0,
            policy=policy,
        )
    except FormatError as error:
        raise UsageError(str(error)) from error


def _result(
    block: IdBlock, authentication: IdAuthentication, launch: SevSnpReference | None
) -> dict[str, Any]:
    encoded, signed = (base64.b64encode(part).decode() for part in (block.encode(), authentication.encode()))
    author = "on" if authentication.author_key is not None else "off"
    # Properties of QEMU's sev-snp-guest object (qapi/qom.json, SevSnpGuestProperties).
    properties = (
        f"sev-snp-guest,policy=0x{block.policy.value:x},id-block={encoded},id-auth={signed},"
        f"author-key-enabled={author}"
    )
    result: dict[str, Any] = {
        "id_block": encoded,
        "id_auth": signed,
        "launch_digest": block.launch_digest.hex(),
        "policy": block.policy.to_json(),
        "guest_svn": block.guest_svn,
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "id_key_digest": authentication.id_key_digest.hex(),
        "author_key_digest": authentication.author_key_digest.hex(),
    }
    if launch is None:
        return {**result, "qemu": properties}
    hashes = ",kernel-hashes=on" if launch.boot is BootPath.DIRECT else ""
    return {
        "shape": launch.name,
        **result,
        "cpu": launch.cpu,
        "vcpus": launch.vcpus,
        "firmware": {"name": launch.firmware.name, "sha256": launch.firmware.sha256},
        "qemu": properties + hashes,
    }


def _tell(results: list[dict[str, Any]], *, json: bool, listed: bool) -> None:
    if json:
        console.emit_json({"launches": results} if listed else results[0])
        return
    for result in results:
        if not listed:
            console.out(result["qemu"])
            continue
        console.out(f"# {result['shape']}")
        console.out(f"-cpu {result['cpu']} -smp {result['vcpus']} -object {result['qemu']}")


def _policy(names: str, abi: str) -> GuestPolicy:
    major, dot, minor = abi.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"--abi {abi}: expected MAJOR.MINOR", hint="--abi 1.55")
    try:
        return GuestPolicy.of(split_names(names), abi_major=int(major), abi_minor=int(minor))
    except FormatError as error:
        raise UsageError(str(error)) from error


def _hexadecimal(text: str, size: int, what: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{what} {text!r} is not hexadecimal") from None
    if len(value) != size:
        raise UsageError(f"{what} has {len(value)} bytes; expected {size}")
    return value
