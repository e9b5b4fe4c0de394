"""What both parts of the gate wrote down, as one record for the evidence."""

from gpugate.gate import CHECKS, OPENING
from gpugate.steps import CHECKS as CHECKS_FILE
from gpugate.steps import OPENING as OPENING_FILE
from gpugate.steps import complete, read, reason
from measurements.gpu.evidence import GateRecord, GateStep, tidy


def gate_record(checks_file: str = CHECKS_FILE, opening_file: str = OPENING_FILE) -> GateRecord:
    """Return the record. It says ready only where every step of both parts held; what cannot be read does not."""
    try:
        checks, opening = read(checks_file), read(opening_file)
    except (OSError, ValueError) as error:
        return GateRecord(ready=False, reason=tidy(f"the gate's record cannot be read: {error}"))
    names = (*CHECKS, *OPENING)
    steps = [*checks, *opening]
    return GateRecord(
        ready=complete(steps, names),
        reason=None if complete(steps, names) else tidy(reason(steps, names)),
        steps=tuple(GateStep(name=str(s["name"]), ok=bool(s["ok"]), detail=str(s["detail"])) for s in steps),
    )
