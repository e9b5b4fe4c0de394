"""Arguments of the verbs that a verifier runs: the standard library's parser, because typer is not installed."""

from __future__ import annotations

import argparse
from typing import NoReturn

from builder.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Reports a bad command line as ``UsageError``, in the words of the other verbs."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"goldsmith {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, hint=f"{self.prog} --help")
