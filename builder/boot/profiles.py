"""Calibrated firmware profiles on disk: one JSON file per firmware build, named by the SHA-384 of its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from builder.atomic import write_atomic
from builder.errors import BuilderError, UsageError
from measurements.errors import MeasurementError
from measurements.platforms.calibration import merge_observations
from measurements.platforms.firmware import FirmwareProfile

MAX_PROFILE_BYTES = 1 << 20
MAX_PROFILES = 1000


def profiles_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return where this user's profiles are: ``goldsmith/profiles`` in the XDG data directory.

    Raises:
        UsageError: neither XDG_DATA_HOME nor HOME says where that is.
    """
    env = os.environ if environment is None else environment
    data = env.get("XDG_DATA_HOME", "")
    if Path(data).is_absolute():
        return Path(data) / "goldsmith/profiles"
    if not env.get("HOME"):
        raise UsageError("no place for firmware profiles: HOME is not set", hint="set XDG_DATA_HOME=DIR")
    return Path(env["HOME"]) / ".local/share/goldsmith/profiles"


def load_profiles(folder: Path) -> tuple[FirmwareProfile, ...]:
    """Return the profiles in ``folder``, sorted by file name; none if there is no such folder.

    Raises:
        BuilderError: a file is no profile, or there are more than `MAX_PROFILES`.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if len(paths) > MAX_PROFILES:
        raise BuilderError(f"{folder} holds {len(paths)} profiles; the limit is {MAX_PROFILES}")
    return tuple(load_profile(path) for path in paths)


def load_profile(path: Path) -> FirmwareProfile:
    """Return the profile in a file.

    Raises:
        BuilderError: it cannot be read, is larger than `MAX_PROFILE_BYTES`, or is no profile.
    """
    hint = "make it anew with goldsmith calibrate"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROFILE_BYTES + 1)
        if len(data) > MAX_PROFILE_BYTES:
            raise BuilderError(f"{path} is larger than {MAX_PROFILE_BYTES} bytes", hint=hint)
        return FirmwareProfile.from_json(json.loads(data))
    except (OSError, ValueError, RecursionError, MeasurementError) as error:
        raise BuilderError(f"{path} is no firmware profile: {error}", hint=hint) from error


def save_profile(profile: FirmwareProfile, path: Path) -> FirmwareProfile:
    """Write a profile, joined with what the file already knows of other machine shapes; return the result.

    Raises:
        BuilderError: the file holds something else.
        PredictionError: it contradicts the new profile.
    """
    if path.exists():
        profile = merge_observations([load_profile(path), profile])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(profile.to_json(), indent=2).encode() + b"\n")
    return profile
