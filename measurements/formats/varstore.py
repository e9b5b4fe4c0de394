"""OVMF variable store files (OVMF_VARS*.fd): a firmware volume that holds UEFI variables.

Layout: EFI_FIRMWARE_VOLUME_HEADER (PI 1.8, volume 3, 3.2.1) of the NV data file system, then edk2's
authenticated variable store (MdeModulePkg/Include/Guid/VariableFormat.h). The fault-tolerant-write areas
behind the store are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from measurements.errors import LimitError
from measurements.formats.reader import Reader

MAX_FILE_SIZE: Final = 64 << 20
MAX_VARIABLES: Final = 8192
#: Bytes of one variable's name (UTF-16LE, with terminator).
MAX_NAME_SIZE: Final = 2048

SYSTEM_NV_DATA_FV: Final = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
AUTHENTICATED_VARIABLE_STORE: Final = UUID("aaf32c78-947b-439a-a180-2e144ec37792")

_VOLUME_SIGNATURE = b"_FVH"
_STORE_HEADER_SIZE = 28
_STORE_FORMATTED = 0x5A
_STORE_HEALTHY = 0xFE
_VARIABLE_START = 0x55AA
_VARIABLE_HEADER_SIZE = 60
_VAR_ADDED = 0x3F
#: A variable that is about to be replaced and whose successor was not completed: it is still the live one.
_VAR_IN_DELETED_TRANSITION = 0x3E

Variables = Mapping[tuple[UUID, str], bytes]


def parse(data: bytes) -> Variables:
    """Return contents of every live variable, by (vendor GUID, name).

    Args:
        data: a whole OVMF_VARS file or a combined OVMF.fd that starts with its variable store.

    Raises:
        FormatError: not an authenticated variable store, or one that is corrupt.
        LimitError: a limit of this module is exceeded.
    """
    if len(data) > MAX_FILE_SIZE:
        raise LimitError(f"variable store has {len(data)} bytes; the limit is {MAX_FILE_SIZE}")
    store = _store(data)
    live: dict[tuple[UUID, str], bytes] = {}
    replaced: dict[tuple[UUID, str], bytes] = {}
    for count in range(MAX_VARIABLES + 1):
        # Variables are 4-byte aligned within the file; free space is ff.
        store.skip(min(-store.offset % 4, store.remaining))
        start = int.from_bytes(store.peek(2), "little")
        if store.remaining < _VARIABLE_HEADER_SIZE or start == 0xFFFF:
            return replaced | live
        if start != _VARIABLE_START:
            raise store.error(f"expected a variable (aa55) or free space (ffff), got {store.peek(2).hex()}")
        if count == MAX_VARIABLES:
            break
        state, key, value = _variable(store)
        if state == _VAR_ADDED:
            if key in live:
                raise store.error(f"variable {key[1]} of {key[0]} is stored twice")
            live[key] = value
        elif state == _VAR_IN_DELETED_TRANSITION:
            replaced[key] = value
    raise LimitError(f"variable store holds more than {MAX_VARIABLES} variables")


def _store(data: bytes) -> Reader:
    """Return a reader over the variables, without volume and store headers."""
    volume = Reader(data, "variable store volume")
    volume.skip(16, "zero vector")
    if (file_system := volume.guid("file system")) != SYSTEM_NV_DATA_FV:
        raise volume.error(
            f"file system is {file_system}, expected {SYSTEM_NV_DATA_FV}: not a variable store", offset=16
        )
    volume_size = volume.u64("volume length")
    if (signature := volume.take(4, "signature")) != _VOLUME_SIGNATURE:
        raise volume.error(f"signature is {signature.hex()}, expected {_VOLUME_SIGNATURE.hex()}", offset=40)
    volume.skip(4, "attributes")
    header_size = volume.u16("header length")
    if header_size % 2 or not volume.offset < header_size <= min(volume_size, len(data)):
        raise volume.error(f"header length {header_size} does not fit the volume of {volume_size} bytes")
    words = memoryview(data[:header_size]).cast("H")
    if sum(words) & 0xFFFF:
        raise volume.error("the checksum of the volume header does not hold", offset=0)
    volume.skip(header_size - volume.offset, "block map")

    if (store_guid := volume.guid("store signature")) != AUTHENTICATED_VARIABLE_STORE:
        raise volume.error(
            f"store signature is {store_guid}, expected {AUTHENTICATED_VARIABLE_STORE} "
            "(authenticated variables)"
        )
    size = volume.u32("store size")
    store_format, state = volume.u8("format"), volume.u8("state")
    if (store_format, state) != (_STORE_FORMATTED, _STORE_HEALTHY):
        raise volume.error(f"store format and state are {store_format:02x} {state:02x}, expected 5a fe")
    volume.skip(6, "reserved")
    if not _STORE_HEADER_SIZE <= size <= volume_size - header_size:
        raise volume.error(f"store size {size} does not fit the volume of {volume_size} bytes")
    return volume.part(size - _STORE_HEADER_SIZE, "variable store")


def _variable(store: Reader) -> tuple[int, tuple[UUID, str], bytes]:
    store.skip(2, "start")
    state = store.u8("state")
    store.skip(1 + 4 + 8 + 16 + 4, "attributes, monotonic count, time stamp and key index")
    name_size, data_size = store.u32("name size"), store.u32("data size")
    guid = store.guid("vendor GUID")
    if name_size > MAX_NAME_SIZE:
        raise LimitError(
            f"variable at offset {store.offset} has a name of {name_size} bytes; the limit is {MAX_NAME_SIZE}"
        )
    raw_name = store.take(name_size, "variable name")
    value = store.take(data_size, "variable data")
    if name_size % 2 or not raw_name.endswith(b"\0\0"):
        raise store.error(f"variable name {raw_name[:32].hex()} does not end with a NUL character")
    return state, (guid, raw_name[:-2].decode("utf-16-le", "surrogatepass")), value
