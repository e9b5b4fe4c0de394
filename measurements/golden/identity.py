"""What launches of several kinds say alike in a golden document: the firmware's identity, and how many GPUs."""

from __future__ import annotations

from typing import Any

from measurements.golden import model
from measurements.prediction import MAX_GPUS, FirmwareIdentity
from measurements.strictjson import Fields


def write_firmware(firmware: FirmwareIdentity) -> dict[str, Any]:
    """Return a firmware as JSON values."""
    return {"name": firmware.name, "sha256": firmware.sha256, "sha384": firmware.sha384}


def read_firmware(fields: Fields) -> FirmwareIdentity:
    """Read the member ``firmware`` of a launch shape.

    Raises:
        FormatError: a member is missing, unknown or of the wrong type.
    """
    entry = fields.fields("firmware")
    firmware = FirmwareIdentity(
        name=entry.text("name", max_length=model.MAX_NAME, pattern=model.NAME),
        sha256=entry.hex("sha256", size=32).hex(),
        sha384=entry.hex("sha384", size=48).hex(),
    )
    entry.end()
    return firmware


def read_gpus(fields: Fields) -> int:
    """Read how many GPUs a launch has; the name is absent where it has none.

    Raises:
        FormatError: not a number from 1 to ``MAX_GPUS``.
    """
    return fields.integer("gpus", minimum=1, maximum=MAX_GPUS) if fields.has("gpus") else 0
