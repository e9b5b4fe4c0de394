"""The firmware's identity in a golden document; every kind of launch has one."""

from __future__ import annotations

from typing import Any

from measurements.golden import model
from measurements.prediction import FirmwareIdentity
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
