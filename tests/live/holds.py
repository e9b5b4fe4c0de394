"""Points at which a boot with the test extension stops until the test lets it go on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from channel import Channel
from guest import hold as guest

_POLL = 0.2  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One such point, between units of sysinit.target.

    Attributes:
        name: letters.
        after: units that have started by then.
        before: units that wait.
    """

    name: str
    after: tuple[str, ...]
    before: tuple[str, ...]

    @property
    def unit(self) -> str:
        """The unit's name."""
        return f"goldsmith-live-hold-{self.name}.service"

    def content(self) -> bytes:
        """Return the unit file."""
        return (
            "[Unit]\n"
            f"Description=Hold of the live tests: {self.name}\n"
            "DefaultDependencies=no\n"
            f"After={' '.join(self.after)}\n"
            f"Before={' '.join(self.before)}\n"
            "[Service]\n"
            "Type=oneshot\n"
            f"ExecStart=/usr/bin/python3.13 -I -S -B {guest.FOLDER}/hold.py {self.name}\n"
            "TimeoutStartSec=infinity\n"
            "StandardError=journal+console\n"
        ).encode()

    def reach(self, channel: Channel, deadline: float) -> None:
        """Wait until the boot is there; ``deadline`` is `time.monotonic` time."""
        while channel.run("test", "-e", f"{guest.FOLDER}/at-{self.name}").status != 0:
            assert time.monotonic() < deadline, f"the boot does not reach {self.name}"
            time.sleep(_POLL)

    def release(self, channel: Channel) -> None:
        """Let the boot go on."""
        ran = channel.run("touch", f"{guest.FOLDER}/go-{self.name}")
        assert ran.status == 0, ran.stderr.decode()
