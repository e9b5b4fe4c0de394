"""goldsmith-gpu-gate.service: judge the GPUs. Ends with 0 if every check holds; the record says which did not."""

import sys

sys.path += [__file__.rpartition("/")[0], "/usr/lib/goldsmith/python", "/usr/lib/python3/dist-packages"]

from gpugate.gate import CHECKS, check
from gpugate.judge import Judge
from gpugate.machine import Machine
from gpugate.steps import CHECKS as RECORD
from gpugate.steps import Steps, read, reason


def main() -> int:
    """Run the checks and return the exit status."""
    machine = Machine()
    if check(machine, Judge(machine), Steps(RECORD)):
        return 0
    print(reason(read(RECORD), CHECKS), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
