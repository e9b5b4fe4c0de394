"""Event data in readable words. Hostile data gives odd words, never an exception or control characters.

Layouts: TCG PC Client Platform Firmware Profile 1.06, 10.2; UEFI 2.10, 3.1.3 (EFI_LOAD_OPTION), 5.3 (GPT),
10.3 (device paths).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from measurements.errors import FormatError
from measurements.events import EventType, event_type_name
from measurements.formats import bootoption, efivar, gpt

#: Longest text shown of one event.
MAX_SHOWN = 300

_BOOT_OPTION = re.compile(r"Boot[0-9A-F]{4}")


def printable(text: str) -> str:
    """Return ``text`` without characters that could steer a terminal, cut to ``MAX_SHOWN``."""
    clean = "".join(item if item.isprintable() else "\N{REPLACEMENT CHARACTER}" for item in text[:MAX_SHOWN])
    return clean + ("…" if len(text) > MAX_SHOWN else "")


def describe(event_type: int, data: bytes) -> str:
    """Return the type's name and what the event data says, on one line."""
    name = event_type_name(event_type)
    decode = _DECODERS.get(event_type)
    if decode is None or not data:
        return name
    try:
        text = decode(data)
    except (FormatError, ValueError, struct.error):  # UnicodeDecodeError is a ValueError
        return f"{name} of {len(data)} bytes that do not follow its layout"
    return f"{name} {printable(text)}"


def utf16(data: bytes) -> str:
    """Decode UTF-16LE up to its NUL."""
    return data[: len(data) & ~1].decode("utf-16-le").split("\0", 1)[0]


def _gpt(data: bytes) -> str:
    event = gpt.parse_event(data)
    listed = "; ".join(
        f"{item.name!r} {item.first_lba}-{item.last_lba} {item.unique}" for item in event.partitions
    )
    return f"disk {event.disk_guid}: {listed}"


def _variable(data: bytes) -> str:
    variable = efivar.parse_variable(data)
    value = f"{len(variable.data)} bytes"
    if variable.name == "SecureBoot":
        value = {b"\1": "on", b"\0": "off", b"": "absent"}.get(variable.data, variable.data[:8].hex())
    elif variable.name == "BootOrder":
        value = " ".join(f"{item:04X}" for (item,) in struct.iter_unpack("<H", variable.data))
    elif _BOOT_OPTION.fullmatch(variable.name):
        value = repr(bootoption.parse_load_option(variable.data).text())
    return f"{variable.name} = {value}"


def _tagged(data: bytes) -> str:
    tag, length = struct.unpack_from("<II", data)
    payload = data[8 : 8 + length]
    wide = len(payload) >= 2 and payload[1::2].count(0) > len(payload) // 4
    text = utf16(payload) if wide else payload.rstrip(b"\0").decode("utf-8")
    return f"0x{tag:08x} {text!r}"


def _image(data: bytes) -> str:
    """UEFI_IMAGE_LOAD_EVENT (PFP 1.06, 10.2.3)."""
    length, path_length = struct.unpack_from("<8xQ8xQ", data)
    path = bootoption.parse_device_path(data[32 : 32 + path_length])
    return f"{bootoption.device_path_text(path) or 'image'} ({length} bytes)"


def _ascii(data: bytes) -> str:
    return repr(data.rstrip(b"\0").decode("ascii"))


def _blob(data: bytes) -> str:
    base, length = struct.unpack("<QQ", data)
    return f"at 0x{base:x}, {length} bytes"


_DECODERS: dict[int, Callable[[bytes], str]] = {
    EventType.SEPARATOR: bytes.hex,
    EventType.ACTION: _ascii,
    EventType.EFI_ACTION: _ascii,
    EventType.PLATFORM_CONFIG_FLAGS: _ascii,
    EventType.S_CRTM_VERSION: lambda data: repr(utf16(data)),
    EventType.IPL: lambda data: repr(utf16(data)) if data[1:2] == b"\0" else _ascii(data),
    EventType.EVENT_TAG: _tagged,
    EventType.EFI_GPT_EVENT: _gpt,
    EventType.EFI_VARIABLE_DRIVER_CONFIG: _variable,
    EventType.EFI_VARIABLE_BOOT: _variable,
    EventType.EFI_VARIABLE_BOOT2: _variable,
    EventType.EFI_VARIABLE_AUTHORITY: _variable,
    EventType.EFI_BOOT_SERVICES_APPLICATION: _image,
    EventType.EFI_BOOT_SERVICES_DRIVER: _image,
    EventType.EFI_RUNTIME_SERVICES_DRIVER: _image,
    EventType.EFI_PLATFORM_FIRMWARE_BLOB: _blob,
}
