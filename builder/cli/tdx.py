"""goldsmith tdx: what belongs to TDX beside predictions. Each sub-verb has a module of its own."""

from __future__ import annotations

from builder.cli import SUB_VERBS, console
from builder.errors import UsageError

_HELP = """usage: goldsmith tdx {{{names}}} [arguments]

  quote   print a quote
  verify  decide whether a quote comes from a trust domain that is as expected
"""


def main(arguments: list[str]) -> int:
    """Say which sub-verbs there are."""
    names = ",".join(sub for verb, sub in SUB_VERBS if verb == "tdx")
    if arguments and arguments[0] in ("-h", "--help"):
        console.out(_HELP.format(names=names).rstrip())
        return 0
    found = f"there is no {arguments[0]!r}" if arguments else "a sub-verb is missing"
    raise UsageError(f"tdx: {found}; known are {names.replace(',', ', ')}", hint="goldsmith tdx --help")
