"""PCR 15: the identity of the machine: its id, its file systems, its volume keys."""

from __future__ import annotations

from measurements.events import RegisterPrediction, Stability
from measurements.tpm.boot import Boot, not_pinned, pinned

_PCR = 15


def predict(boot: Boot) -> RegisterPrediction:
    """Zero when the image measures nothing into it (systemd-pcrmachine, systemd-pcrfs masked), else not
    pinned.

    systemd-pcrphase.service(8): the machine id is random for every instance.
    """
    if boot.inputs.measures_machine:
        return not_pinned(
            _PCR, "systemd-pcrmachine extends the machine id, which is random for every instance"
        )
    return pinned(_PCR, Stability.IMAGE, ())
