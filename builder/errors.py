"""The exceptions of the builder. Each message says what, expected, got, and what to do."""

from __future__ import annotations


class BuilderError(Exception):
    """Root of everything this package raises on purpose.

    Attributes:
        hint: the next command or edit that helps, shown on a line of its own.
    """

    #: Process exit code (docs/cli.md): 1 verification failed, 2 usage, 3 build or environment.
    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BuilderError):
    """The command or the recipe asks for something that makes no sense."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or fragment is wrong; the message starts with ``file:line: key``."""


class LockError(BuilderError):
    """The lock is missing, stale, corrupt, or cannot be resolved."""


class FetchError(BuilderError):
    """An input cannot be had from any source, or is not what the lock says."""


class GoneError(FetchError):
    """Locked archives that every source answered for, and none of them has any more.

    Attributes:
        archives: "package=version" of each.
    """

    def __init__(self, message: str, *, archives: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.archives = archives


class ArchiveError(BuilderError):
    """A package archive is malformed, truncated, or exceeds a limit."""


class ComposeError(BuilderError):
    """The tree does not close: conflicts, missing libraries, dangling links, unpinned users."""


class ImageError(BuilderError):
    """Writing an output failed."""


class AuditError(BuilderError):
    """The final image breaks a rule of the profile, or cannot be audited; the message names rule and place."""


class ToolError(BuilderError):
    """A tool is missing, failed, or ran out of time; the message holds its last lines."""


class TokenError(BuilderError):
    """A PKCS #11 module, token or key is absent, not fit, or refuses."""


class BootError(BuilderError):
    """The machine did not come up, or did not answer; the message holds the last console lines."""


class GoldenMismatchError(BuilderError):
    """The build disagrees with the committed golden document."""

    exit_code = 1


class RimError(BuilderError):
    """A manifest of reference values is not NVIDIA's, not one, or not for this recipe."""

    exit_code = 1


class MissingRimError(BuilderError):
    """A recipe with a GPU holds no reference values for it, and the caller demands them."""


class UntrustedError(BuilderError):
    """A release carries no signature of anybody whom the caller trusts."""

    exit_code = 1
