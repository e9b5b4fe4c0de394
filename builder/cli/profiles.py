"""Platform profiles on the command line: read, verified where somebody must have signed them, and written."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from builder.atomic import write_atomic
from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.files import is_envelope, public_keys, read_limited
from builder.errors import BuilderError, UntrustedError, UsageError
from measurements import profile
from measurements.envelope import MAX_ENVELOPE_BYTES, verify_envelope
from measurements.errors import MeasurementError, SignatureError
from measurements.golden.model import MAX_NAME, NAME
from measurements.keys import PublicKey
from measurements.profile import PlatformProfile, signed


def add_profile_options(parser: Parser, *, required: bool = False) -> None:
    """Add the options that name profiles, and who must have signed them."""
    add = parser.add_argument
    add("--profile", metavar="FILE", type=Path, action="append", default=[], required=required,
        help="platform profile: firmware that you vouch for beside the document's; may be repeated")  # fmt: skip
    add("--profile-key", metavar="PEM", type=Path, action="append", default=[],
        help="public key of which one must have signed each profile; without, they are your own word")  # fmt: skip


def read_profiles(given: argparse.Namespace) -> tuple[PlatformProfile, ...]:
    """Return the profiles that the command line names.

    Raises:
        UsageError: keys without profiles, or a signed profile of which nobody says who must have signed it.
        UntrustedError: a profile is not signed by any of the keys.
        BuilderError: a file is no profile.
    """
    keys = public_keys(given.profile_key)
    if keys and not given.profile:
        raise UsageError("--profile-key goes with --profile")
    return tuple(_read(path, keys) for path in given.profile)


def _read(path: Path, keys: list[PublicKey]) -> PlatformProfile:
    data = read_limited(path, MAX_ENVELOPE_BYTES)
    try:
        if is_envelope(data):
            if not keys:
                raise UsageError(f"{path} is signed: who must have signed it?", hint="--profile-key PEM")
            return signed.parse_statement(verify_envelope(data, keys))
        if keys:
            raise UntrustedError(f"{path} is not signed, and --profile-key asks for a signature")
        return profile.parse(data)
    except SignatureError as error:
        raise UntrustedError(f"{path}: {error}", hint="--profile-key names who must have signed") from error
    except MeasurementError as error:
        raise BuilderError(
            f"{path}: {error}", hint="expected what goldsmith predict profile writes"
        ) from error


def profile_name(text: str) -> str:
    """Return a profile's name; raises UsageError unless it is one."""
    if NAME.fullmatch(text) is None or len(text) > MAX_NAME:
        raise UsageError(f"{text[:80]!r} is no name of a profile: expected characters like {NAME.pattern}")
    return text


def tell_profile(made: PlatformProfile, out: Path | None = None, *, json: bool = False) -> None:
    """Print a profile, or write it to ``out`` and say what it holds; warn of registers without a value."""
    for name, registers in (
        *((f"{each.name}: PCR ", each.registers) for each in made.tpm),
        *((f"{each.name}: RTMR", each.registers) for each in made.tdx),
    ):
        for register in registers:
            if not register.pinned:
                console.warn(f"open in this profile: {name}{register.index}: {register.reason}")
    text = profile.to_pretty(made)
    if out is None:
        console.out(text.decode().rstrip("\n"))
        return
    write_atomic(out, text)
    digest = hashlib.sha256(profile.to_canonical(made)).hexdigest()
    if json:
        console.emit_json(
            {"profile": str(out), "name": made.name, "sha256": digest, "launches": list(made.names)}
        )
        return
    console.out(f"{out}: {made.name}, sha256 of the canonical form {digest}")
    for name in made.names:
        console.out(f"  {name}")
