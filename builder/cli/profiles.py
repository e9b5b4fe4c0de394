"""Platform profiles that a verifier names: read, and verified where somebody must have signed them."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.arguments import Parser
from builder.cli.files import is_envelope, public_keys, read_limited
from builder.errors import BuilderError, UntrustedError, UsageError
from measurements import profile
from measurements.envelope import MAX_ENVELOPE_BYTES, verify_envelope
from measurements.errors import MeasurementError, SignatureError
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
