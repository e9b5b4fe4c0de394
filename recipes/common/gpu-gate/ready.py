"""goldsmith-gpu-ready.service: let the GPUs accept work, if the gate's checks all hold; take it back otherwise.

The one program with a capability, and so with nothing in it that reads what a GPU wrote.
"""

import os
import sys

sys.path.append(__file__.rpartition("/")[0])

from gpugate.gate import OPENING, close_gate, open_gate
from gpugate.nvml import Nvml
from gpugate.steps import CHECKS, Steps, complete, read, reason
from gpugate.steps import OPENING as RECORD


def main() -> int:
    """Open the gate and return the exit status."""
    if open_gate(Nvml, read(CHECKS), Steps(RECORD)):
        return 0
    print(reason(read(RECORD), OPENING), file=sys.stderr)
    return 1


def after(result: str) -> int:
    """Close the gate where the service ended in another way than by opening it: a step hung, and was ended."""
    steps = read(RECORD)
    if result != "success" and steps and not complete(steps, OPENING):
        close_gate(Nvml)
    return 0


if __name__ == "__main__":
    sys.exit(after(os.environ.get("SERVICE_RESULT", "")) if sys.argv[1:] == ["--after"] else main())
