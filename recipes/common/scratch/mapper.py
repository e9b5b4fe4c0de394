"""The kernel's device mapper, as far as scratch space needs it, over its control device.

Layouts and numbers: Linux include/uapi/linux/dm-ioctl.h (struct dm_ioctl, struct dm_target_spec), native byte order.
"""

import fcntl
import os
import struct

SECTOR = 512

_HEADER = struct.Struct("=3I2I I i 3I Q 128s 129s 7x")  # struct dm_ioctl, 312 bytes
_TARGET = struct.Struct("=QQiI16s")  # struct dm_target_spec
_VERSION = (4, 0, 0)
_CREATE, _RESUME, _LOAD, _TABLE_STATUS = 3, 6, 9, 12  # DM_DEV_CREATE, DM_DEV_SUSPEND without its flag, ...
_INACTIVE = 1 << 12  # DM_QUERY_INACTIVE_TABLE_FLAG
_BUFFER_FULL = 1 << 8
_BUFFER = 4096
_ALIGNMENT = 8


class Mapping:
    """One mapped device: created without a table, gone at power-off."""

    def __init__(self, control: int, name: str) -> None:
        self._control = control
        self._name = name.encode()
        _, number = self._call(_CREATE)
        self.number = f"{os.major(number)}:{os.minor(number)}"
        self.path = f"/dev/dm-{os.minor(number)}"

    def load(self, sectors: int, target: str, parameters: str) -> None:
        """Put a table of one target in place, to be used from the next `resume`."""
        text = parameters.encode() + b"\0"
        text += bytes(-len(text) % _ALIGNMENT)
        self._call(_LOAD, _TARGET.pack(0, sectors, 0, 0, target.encode()) + text, targets=1)

    def loaded_status(self) -> list[str]:
        """Return what the target of the loaded table, not resumed yet, says of itself."""
        answer, _ = self._call(_TABLE_STATUS, flags=_INACTIVE)
        return answer[_TARGET.size :].partition(b"\0")[0].decode().split()

    def resume(self) -> None:
        """Switch to the loaded table."""
        self._call(_RESUME)

    def _call(
        self, command: int, data: bytes = b"", *, targets: int = 0, flags: int = 0
    ) -> tuple[bytes, int]:
        """Return the answer's data and the device's number."""
        header = _HEADER.pack(
            *_VERSION, _BUFFER, _HEADER.size, targets, 0, flags, 0, 0, 0, self._name, b""
        )  # fmt: skip
        buffer = bytearray((header + data).ljust(_BUFFER, b"\0"))
        try:
            # _IOWR(DM_IOCTL, command, struct dm_ioctl)
            fcntl.ioctl(self._control, 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | command, buffer)
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, f"device mapper, {self._name.decode()}, command {command}"
            ) from None
        fields = _HEADER.unpack_from(buffer)
        start, answered, number = fields[4], fields[7], fields[10]
        if answered & _BUFFER_FULL:
            raise OSError(
                f"the device mapper's answer about {self._name.decode()} is longer than {_BUFFER} bytes"
            )
        return bytes(buffer[start:]), number
