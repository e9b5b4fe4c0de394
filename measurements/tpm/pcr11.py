"""PCR 11: the UKI's sections, then the phases of the boot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.errors import NotPredictableError
from measurements.events import Event, EventType, RegisterPrediction, Sequence, Stability
from measurements.formats.uki import ImageKind
from measurements.platforms.stubs import PICKED_BY_MACHINE
from measurements.tpm import stub
from measurements.tpm.boot import Boot, not_pinned, pinned

_PCR = 11

#: systemd-pcrphase.service(8): the words, in order; "ready" is the steady state of a running machine.
PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")
STEADY: Final = "ready"


def predict(boot: Boot) -> RegisterPrediction:
    """Predict from the UKI's sections, for an image that runs systemd-pcrphase throughout."""
    try:
        boot.require_known_loader()
        if boot.image.kind is ImageKind.LINUX:
            # Without StubPcrKernelImage systemd-pcrphase does not run either
            # (ConditionSecurity=measured-uki).
            return pinned(_PCR, Stability.IMAGE, ())
        sections = tuple(section_events(boot))
    except NotPredictableError as error:
        return not_pinned(_PCR, str(error))
    words = tuple(_phase(boot, word) for word in PHASES)
    prefixes = {
        count: Sequence(label=":".join(PHASES[:count]), events=(*sections, *words[:count]))
        for count in range(1, len(PHASES) + 1)
    }
    steady = prefixes.pop(PHASES.index(STEADY) + 1)
    return RegisterPrediction(
        index=_PCR, stability=Stability.PHASE, alternatives=(steady,), phases=tuple(prefixes.values())
    )


def section_events(boot: Boot) -> Iterator[Event]:
    """Yield two events for each section of a UKI that its stub measures: name, contents.

    Raises:
        NotPredictableError: the stub's release is not known, or which section it takes is the machine's choice.
    """
    image = boot.image
    # systemd-stub(7), "TPM PCR Notes"; systemd src/boot/stub.c measure_sections: for each section in
    # the order of unified_sections its name with NUL, then its contents. Order is the specification.
    for name in stub.require_generation(image).sections:
        if name not in image.sections:
            continue
        if name in PICKED_BY_MACHINE:
            raise NotPredictableError(
                f"not predictable: the UKI has {name} sections, of which the stub picks one by the "
                "machine's hardware id"
            )
        logged = name.encode("utf-16-le") + b"\0\0"
        yield boot.event(
            _PCR,
            EventType.IPL,
            name.encode("ascii") + b"\0",
            description=f"name of section {name}",
            cause=f"uki {name}",
            data=logged,
        )
        yield Event(
            register=_PCR,
            type=EventType.IPL,
            digests=boot.facts.sections[name],
            description=f"section {name}",
            cause=f"uki {name}",
            data=logged,
        )


def _phase(boot: Boot, word: str) -> Event:
    # systemd-pcrextend: the word without NUL; logged by userspace alone.
    return boot.event(
        _PCR, None, word.encode("ascii"), description=f"phase {word}", cause=f"systemd-pcrphase {word}"
    )
