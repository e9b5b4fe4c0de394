"""The guest's serial console: followed while it boots, kept for error messages. The guest is not trusted."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import IO

_CHUNK = 4096
_MAX_LINE = 400  # characters; longer lines are cut
_KEPT_LINES = 200
_TAIL_LINES = 15
_MAX_LOG = 16 << 20  # bytes written to the log file

#: ECMA-48 control sequences, and every other control character.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x1f\x7f-\x9f]")

#: The phases of a boot in order, each with what its beginning prints; silent images skip the later ones.
PHASES = (
    ("firmware", None),
    ("boot loader", re.compile(r"BdsDxe: starting|EFI stub:")),
    ("kernel", re.compile(r"Linux version |Booting the kernel")),
    ("initrd", re.compile(r"Running in initrd|Run /init as init process")),
    ("userspace", re.compile(r"Switching root|initrd-switch-root|Reached target .*multi-user")),
)


class Console:
    """Reads a stream in the background until it ends."""

    def __init__(self, stream: IO[bytes], log: IO[bytes] | None = None) -> None:
        self._stream = stream
        self._log = log
        self._logged = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = ""
        self._phase = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="console", daemon=True)
        self._thread.start()

    @property
    def phase(self) -> str:
        """How far the boot came, as far as the console tells."""
        with self._lock:
            return PHASES[self._phase][0]

    @property
    def last_line(self) -> str:
        """The last line that says something; empty before the first."""
        with self._lock:
            return _clean(self._partial) or (self._lines[-1] if self._lines else "")

    def tail(self, count: int = _TAIL_LINES) -> str:
        """Return the last ``count`` lines."""
        with self._lock:
            lines = [line for line in (*self._lines, _clean(self._partial)) if line]
        return "\n".join(lines[-count:])

    def contains(self, text: str) -> bool:
        """Whether a kept line holds ``text``."""
        return text in self.tail(_KEPT_LINES)

    def drain(self, timeout: float) -> None:
        """Wait until the stream has ended and all of it is read, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def _follow(self) -> None:
        try:
            while chunk := self._stream.read1(_CHUNK):  # type: ignore[attr-defined]
                self._keep(chunk)
                self._feed(chunk.decode("utf-8", "replace"))
        except (OSError, ValueError):  # closed under us: the machine is being taken down
            return

    def _keep(self, chunk: bytes) -> None:
        if self._log is not None and self._logged < _MAX_LOG:
            self._log.write(chunk)
            self._log.flush()
            self._logged += len(chunk)

    def _feed(self, text: str) -> None:
        with self._lock:
            *complete, partial = (self._partial + text).replace("\r", "\n").split("\n")
            for raw in complete:
                line = _clean(raw)
                if line:
                    self._lines.append(line)
                    self._advance(line)
            # Kept raw: an escape sequence may still be incomplete here.
            self._partial = partial[-_MAX_LINE:]

    def _advance(self, line: str) -> None:
        for index in range(len(PHASES) - 1, self._phase, -1):
            marker = PHASES[index][1]
            if marker is not None and marker.search(line):
                self._phase = index
                return


def _clean(line: str) -> str:
    return _ESCAPES.sub("", line).strip()[:_MAX_LINE]
