"""An OVMF variable store with keys in it: what a virtual machine starts with.

Layout: `measurements.formats.varstore`; records: AUTHENTICATED_VARIABLE_HEADER of edk2's
MdeModulePkg/Include/Guid/VariableFormat.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from builder.errors import ImageError
from builder.image.secureboot.variables import ATTRIBUTES, AuthenticatedVariable
from measurements.formats import varstore

_VARIABLE_START, _VAR_ADDED = 0x55AA, 0x3F
_ALIGNMENT = 4
_FREE = 0xFF
_STORE_HEADER_SIZE, _STORE_SIZE = 28, 16
_VOLUME_HEADER_LENGTH = 48


def enrol(store: bytes, variables: Sequence[AuthenticatedVariable]) -> bytes:
    """Return a store of the same size that holds the variables; with a PK among them Secure Boot is on.

    Firmware adds SecureBootEnable and its own bookkeeping on the first start (edk2 SecurityPkg/Library/
    AuthVariableLib/AuthService.c, InitAuthVariables), so a machine with this store measures the same from its
    first start on.

    Args:
        store: an empty one (OVMF_VARS_4M.fd), so that nothing else decides what the machine does.

    Raises:
        ImageError: the store holds variables already, or has no room.
        FormatError: it is no variable store.
    """
    present = varstore.parse(store)
    if present:
        names = ", ".join(sorted(name for _, name in present)[:8])
        raise ImageError(
            f"the variable store holds {len(present)} variables ({names}): expected an empty one",
            hint="take the firmware package's OVMF_VARS_4M.fd",
        )
    # varstore.parse has checked both lengths.
    (header,) = struct.unpack_from("<H", store, _VOLUME_HEADER_LENGTH)
    (size,) = struct.unpack_from("<I", store, header + _STORE_SIZE)
    start, end = header + _STORE_HEADER_SIZE, header + size
    if store[start:end].strip(bytes((_FREE,))):
        raise ImageError(
            "the variable store has remains of deleted variables: expected an empty one",
            hint="take the firmware package's OVMF_VARS_4M.fd",
        )
    result = bytearray(store)
    offset = start + -start % _ALIGNMENT
    for variable in variables:
        record = _record(variable)
        if offset + len(record) > end:
            raise ImageError(
                f"the variable store of {size} bytes has no room for {variable.name} of "
                f"{len(variable.data)} bytes"
            )
        result[offset : offset + len(record)] = record
        offset += len(record) + -len(record) % _ALIGNMENT
    return bytes(result)


def _record(variable: AuthenticatedVariable) -> bytes:
    name = (variable.name + "\0").encode("utf-16-le")
    # Time-based authentication uses neither the monotonic count nor the public key index.
    head = struct.pack("<HBxIQ", _VARIABLE_START, _VAR_ADDED, ATTRIBUTES, 0)
    sizes = struct.pack("<III", 0, len(name), len(variable.data))
    return head + variable.time + sizes + variable.guid.bytes_le + name + variable.data
