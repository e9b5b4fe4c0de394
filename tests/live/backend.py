"""A testinfra backend that speaks to a running machine over the live tests' command channel."""

from __future__ import annotations

from typing import Any

from channel import Channel
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

#: A user id that no account has.
STRANGER = 65533


class LiveBackend(BaseBackend):
    """Runs testinfra's commands in the guest, through the shell that the extension brought along.

    Args:
        channel: leads to the guest.
        user: user and group id of the commands; they have no other groups. 0 is root with every capability.
    """

    NAME = "live"

    def __init__(self, channel: Channel, *, user: int = 0) -> None:
        super().__init__(f"guest-{user}")
        self._channel, self._user = channel, user

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        command = self.get_command(command, *args)
        ran = self._channel.run("sh", "-c", command, user=self._user)
        return self.result(ran.status, self.encode(command), ran.stdout, ran.stderr)

    def get_encoding(self) -> str:
        return "utf-8"


def live_host(channel: Channel, *, user: int = 0) -> Host:
    """Return testinfra's view of the machine, as a user."""
    return Host(LiveBackend(channel, user=user))
