"""A place in which locked programs run as if on a machine of their own: bubblewrap, out of the same archives.

Inside there is one path for everything (`WORK`), one user, no network, no clock setting, no file of the host. So
what a compiler writes cannot depend on where, by whom and on what it is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ToolError
from builder.tools import Completed, Tools

#: Where the writable folder is inside.
WORK = "/build"
_USER = "1000"
_TEMPORARY = "/tmp"  # noqa: S108  the sandbox's own
_MERGED = ("bin", "lib", "lib64", "sbin")
_NO_NAMESPACE = ("No permissions to create", "Creating new namespace failed", "setting up uid map")
_HOUR = 3600.0
#: The one date that a compiler may write, and not the lock's: a lock made anew for another package's sake then compiles
#: nothing anew, since compiler and source are what they were.
_EPOCH = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """Programs and where they may write.

    Attributes:
        tools: unpacked archives, bubblewrap among them; what runs sees them as its /usr and /etc.
        work: folder on the host that is `WORK` inside, the one place that can be written to.
    """

    tools: Tools
    work: Path

    def run(
        self,
        command: Sequence[str],
        *,
        folder: str = "",
        environment: Mapping[str, str] | None = None,
        feed: bytes | None = None,
        timeout: float = _HOUR,
    ) -> Completed:
        """Run a command to its end.

        Args:
            command: program and arguments, by the names they have inside.
            folder: current folder, below `WORK`.
            environment: beside PATH, HOME, locale, time zone and SOURCE_DATE_EPOCH; nothing of the caller's.
            feed: standard input.
            timeout: seconds.

        Raises:
            ToolError: it failed, or this host gives no namespaces to this user.
        """
        root = self.tools.path("usr").parent
        arguments = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
        arguments += ["--uid", _USER, "--gid", _USER, "--hostname", "build", "--cap-drop", "ALL"]
        arguments += ["--ro-bind", str(root / "usr"), "/usr"]
        if (root / "etc").is_dir():
            arguments += ["--ro-bind", str(root / "etc"), "/etc"]
        for name in _MERGED:
            arguments += ["--symlink", f"usr/{name}", f"/{name}"]
        arguments += [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            _TEMPORARY,
            "--bind",
            str(self.work),
            WORK,
        ]
        variables = {
            "PATH": "/usr/bin:/usr/sbin",
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": _EPOCH,
            **(environment or {}),
        }
        for name, value in variables.items():
            arguments += ["--setenv", name, value]
        arguments += ["--chdir", f"{WORK}/{folder}".rstrip("/"), "--", *command]
        try:
            return self.tools.run("bwrap", *arguments, feed=feed, timeout=timeout)
        except ToolError as error:
            if any(text in str(error) for text in _NO_NAMESPACE):
                raise ToolError(
                    f"this host gives no user namespaces to this user, and kernel modules are compiled in one\n{error}",
                    hint="allow them (sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces=1000; a "
                    "container's seccomp profile), or build an image that compiles nothing: make image RECIPE=base",
                ) from error
            raise
