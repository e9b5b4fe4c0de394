"""goldsmith snp: what belongs to SEV-SNP beside predictions. Each sub-verb has a module of its own."""

from __future__ import annotations

from builder.cli import SUB_VERBS, console
from builder.errors import UsageError

_HELP = """usage: goldsmith snp {{{names}}} [arguments]

  id-block  sign what may be launched, for QEMU's sev-snp-guest object
  report    print an attestation report
  verify    decide whether a report comes from a guest that was launched as expected
"""


def main(arguments: list[str]) -> int:
    """Say which sub-verbs there are."""
    names = ",".join(sub for verb, sub in SUB_VERBS if verb == "snp")
    if arguments and arguments[0] in ("-h", "--help"):
        console.out(_HELP.format(names=names).rstrip())
        return 0
    found = f"there is no {arguments[0]!r}" if arguments else "a sub-verb is missing"
    raise UsageError(f"snp: {found}; known are {names.replace(',', ', ')}", hint="goldsmith snp --help")
