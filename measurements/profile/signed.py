"""A signed platform profile: the predicate of an in-toto Statement v1 in a DSSE envelope, as a golden document is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from measurements.envelope import (
    VerifiedPayload,
    add_signatures,
    read_statement,
    sign_payload,
    unverified_payload,
    write_statement,
)
from measurements.errors import FormatError
from measurements.keys import SigningKey
from measurements.profile.document import parse_value, to_value
from measurements.profile.model import PlatformProfile

PREDICATE_TYPE: Final = "urn:goldsmith:profile:v1"


def sign_profile(profile: PlatformProfile, keys: Iterable[SigningKey]) -> bytes:
    """Sign a profile with every key; returns the envelope as one line of JSON with a final newline.

    Raises:
        SignatureError: no key, one key twice, or a key that cannot sign deterministically.
    """
    return sign_payload(write_statement(PREDICATE_TYPE, _subjects(profile), to_value(profile)), keys)


def sign_again(data: bytes, keys: Iterable[SigningKey]) -> bytes:
    """Add signatures to a profile's envelope; raises as ``measurements.envelope.add_signatures``."""
    return add_signatures(data, keys, check=_parse)


def parse_statement(verified: VerifiedPayload) -> PlatformProfile:
    """Parse the profile out of a verified payload.

    Raises:
        FormatError: not the canonical JSON of an in-toto Statement v1 about a platform profile, or its subjects are
            not the profile's firmware files.
        LimitError: a named limit is exceeded.
    """
    return _parse(verified.payload)


def unverified_profile(data: bytes) -> PlatformProfile:
    """Return the profile in an envelope without verifying any signature: for those who are about to sign it.

    Raises:
        FormatError, LimitError: as ``parse_statement``.
    """
    return _parse(unverified_payload(data))


def _parse(payload: bytes) -> PlatformProfile:
    subjects, predicate = read_statement(payload, PREDICATE_TYPE)
    profile = parse_value(predicate)
    if subjects != _subjects(profile):
        raise FormatError("in-toto statement: its subjects are not the firmware files of the profile")
    return profile


def _subjects(profile: PlatformProfile) -> list[Any]:
    return [
        {"name": each.name, "digest": {"sha256": each.sha256, "sha384": each.sha384}}
        for each in dict.fromkeys(profile.firmware)
    ]
