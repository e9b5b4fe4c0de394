"""goldsmith snp id-block."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import typer

from builder.cli import console
from builder.cli.arguments import split_names
from builder.cli.signing import Module, open_tokens, signing_keys
from builder.errors import UsageError
from measurements.errors import FormatError
from measurements.snp import idblock
from measurements.snp.idblock import ID_SIZE, IdAuthentication, IdBlock
from measurements.snp.pages import DIGEST_SIZE
from measurements.snp.policy import FLAGS, GuestPolicy


def command(
    launch_digest: Annotated[str, typer.Argument(metavar="DIGEST", help="launch digest, 96 hex digits")],
    key: Annotated[
        str, typer.Option(metavar="PEM-or-URI", help="ID key: ECDSA P-384, a PEM file or a PKCS #11 URI")
    ],
    author_key: Annotated[
        str | None, typer.Option(metavar="PEM-or-URI", help="author key, which signs the ID key")
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAMES", help=f"what the policy sets, of {', '.join(FLAGS)}")
    ] = "smt_allowed",
    abi: Annotated[
        str, typer.Option(metavar="MAJOR.MINOR", help="lowest version of the firmware's ABI")
    ] = "0.0",
    family_id: Annotated[str, typer.Option(metavar="HEX", help="32 hex digits")] = "00" * ID_SIZE,
    image_id: Annotated[str, typer.Option(metavar="HEX", help="32 hex digits")] = "00" * ID_SIZE,
    guest_svn: Annotated[int, typer.Option(metavar="N", min=0, help="security version of the guest")] = 0,
    module: Module = None,
    json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Sign an ID block: a host that gets it starts no other digest and no other policy."""
    try:
        block = IdBlock(
            launch_digest=_hexadecimal(launch_digest, DIGEST_SIZE, "DIGEST"),
            family_id=_hexadecimal(family_id, ID_SIZE, "--family-id"),
            image_id=_hexadecimal(image_id, ID_SIZE, "--image-id"),
            guest_svn=guest_svn,
            policy=_policy(policy, abi),
        )
    except FormatError as error:
        raise UsageError(str(error)) from error
    with open_tokens(module=module) as tokens:
        names = [name for name in (key, author_key) if name is not None]
        signers = signing_keys(names, tokens)
        authentication = idblock.sign(block, *signers)
    authentication.verify(block)
    result = _result(block, authentication)
    if json:
        console.emit_json(result)
        return
    console.out(result["qemu"])


def _result(block: IdBlock, authentication: IdAuthentication) -> dict[str, Any]:
    encoded, signed = (base64.b64encode(part).decode() for part in (block.encode(), authentication.encode()))
    author = "on" if authentication.author_key is not None else "off"
    return {
        "id_block": encoded,
        "id_auth": signed,
        "launch_digest": block.launch_digest.hex(),
        "policy": block.policy.to_json(),
        "guest_svn": block.guest_svn,
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "id_key_digest": authentication.id_key_digest.hex(),
        "author_key_digest": authentication.author_key_digest.hex(),
        # Properties of QEMU's sev-snp-guest object (qapi/qom.json, SevSnpGuestProperties).
        "qemu": f"sev-snp-guest,policy=0x{block.policy.value:x},id-block={encoded},id-auth={signed},"
        f"author-key-enabled={author}",
    }


def _policy(names: str, abi: str) -> GuestPolicy:
    major, dot, minor = abi.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"--abi {abi}: expected MAJOR.MINOR", hint="--abi 1.55")
    return GuestPolicy.of(split_names(names), abi_major=int(major), abi_minor=int(minor))


def _hexadecimal(text: str, size: int, what: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{what} {text!r} is not hexadecimal") from None
    if len(value) != size:
        raise UsageError(f"{what} has {len(value)} bytes; expected {size}")
    return value
