"""The machine as the gate sees it: the one boundary to sysfs, /proc, device nodes, clock and NVML.

Everything above it is pure, and tested with a stand-in that replays recorded reports and failures.
"""

import datetime
import os
import stat

from gpugate import nvml

_NVIDIA = "0x10de"
_DISPLAY, _NVSWITCH = (
    "0x03",
    "0x0680",
)  # PCI class: display controllers of any kind, and bridges of the kind "other"
_DAEMON, _PID_FILE = "nvidia-persistenced", "run/nvidia-persistenced/nvidia-persistenced.pid"
_MAX_FILE = 1 << 16


class Machine:
    """This machine, or one below another root in tests."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def gpus(self) -> tuple[str, ...]:
        """Return the PCI addresses of NVIDIA's GPUs."""
        return self._devices(_DISPLAY)

    def nvswitches(self) -> tuple[str, ...]:
        """Return the PCI addresses of NVIDIA's NVSwitches."""
        return self._devices(_NVSWITCH)

    def modules(self) -> frozenset[str]:
        """Return the names of loaded kernel modules, and of built-in ones that have parameters."""
        return frozenset(_names(f"{self._root}sys/module"))

    def module_version(self) -> str | None:
        """Return the version of the loaded driver; None where it is not loaded."""
        return self._line("sys/module/nvidia/version")

    def has_device_node(self, name: str) -> bool:
        """Whether /dev/NAME is a character device."""
        try:
            return stat.S_ISCHR(os.stat(f"{self._root}dev/{name}").st_mode)
        except OSError:
            return False

    def persistence_daemon(self) -> tuple[str, ...] | None:
        """Return the arguments that the persistence daemon was started with; None where it does not run."""
        number = self._line(_PID_FILE)
        if number is None or not number.isdigit():
            return None
        words = (self._read(f"proc/{number}/cmdline") or b"").decode("utf-8", "replace").split("\0")
        return tuple(words[1:]) if words[0].rpartition("/")[2] == _DAEMON else None

    def driver(self) -> nvml.Nvml:
        """Open a session with the driver (`nvml.Nvml`)."""
        return nvml.Nvml()

    def nonce(self) -> bytes:
        """Return 32 bytes that nobody could know before."""
        return os.urandom(nvml.NONCE_SIZE)

    def now(self) -> datetime.datetime:
        """Return the clock's time, which the host set: good for nothing but what a wrong time only makes fail."""
        return datetime.datetime.now(datetime.UTC)

    def _devices(self, kind: str) -> tuple[str, ...]:
        folder = "sys/bus/pci/devices"
        return tuple(
            name
            for name in _names(f"{self._root}{folder}")
            if self._line(f"{folder}/{name}/vendor") == _NVIDIA
            and (self._line(f"{folder}/{name}/class") or "").startswith(kind)
        )

    def _line(self, path: str) -> str | None:
        data = self._read(path)
        return None if data is None else data.decode("utf-8", "replace").strip()

    def _read(self, path: str) -> bytes | None:
        try:
            with open(self._root + path, "rb") as file:
                return file.read(_MAX_FILE)
        except OSError:
            return None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
