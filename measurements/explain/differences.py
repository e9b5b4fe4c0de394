"""Which event of a register differs from its prediction, and which input caused it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from measurements.errors import FormatError
from measurements.events import Event, EventType, HashAlgorithm, RegisterPrediction
from measurements.events import Sequence as Course
from measurements.explain.describe import describe, printable
from measurements.explain.observed import ObservedEvent
from measurements.formats import gpt

#: A register with more events than this on either side is compared by position only.
MAX_ALIGNED = 512
#: After this many departures in one register the rest adds nothing.
MAX_EXPLANATIONS = 32


class RegisterKind(StrEnum):
    """What a register is: a PCR of a TPM, or an RTMR of a trust domain."""

    PCR = "PCR"
    RTMR = "RTMR"

    def name_of(self, index: int) -> str:
        """Return a register's name: ``PCR 11``, ``RTMR1``."""
        return f"PCR {index}" if self is RegisterKind.PCR else f"RTMR{index}"

    def pcrs(self, index: int) -> frozenset[int]:
        """Return the PCRs whose events the register holds (edk2 TdTcg2Dxe, TdxMeasurementMapPcrToMrIndex)."""
        return frozenset({index}) if self is RegisterKind.PCR else _RTMR_PCRS.get(index, frozenset())


class Kind(StrEnum):
    """How an event departs from the prediction."""

    DIFFERS = "differs"
    MISSING = "missing"
    EXTRA = "extra"
    PHASE = "phase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One event that is not as predicted.

    Attributes:
        register: PCR or RTMR index.
        of: which of the two.
        bank: the bank in which it shows.
        kind: differs, missing, extra, or the register stands at another boot phase.
        position: place in the register's course of events, from 0.
        cause: the input that decides the event ("uki .cmdline"); for an extra event what brings such one.
        predicted: hex digest, ``None`` for an extra event.
        measured: hex digest, ``None`` for a missing event.
        text: one sentence for a person.
    """

    register: int
    bank: HashAlgorithm
    kind: Kind
    position: int
    cause: str
    predicted: str | None
    measured: str | None
    text: str
    of: RegisterKind = RegisterKind.PCR

    def __str__(self) -> str:
        return f"{self.of.name_of(self.register)}: {self.text}"


def explain(
    prediction: RegisterPrediction,
    observed: Sequence[ObservedEvent],
    bank: HashAlgorithm,
    of: RegisterKind = RegisterKind.PCR,
) -> tuple[Explanation, ...]:
    """Compare a register's logged events with the acceptable course that is nearest to them.

    At most ``MAX_EXPLANATIONS`` departures are listed.

    Args:
        prediction: of that register, with an event digest for ``bank`` everywhere.
        observed: the log's events of that register, in order.
        bank: the bank to compare in; an event without a digest for it never matches.
        of: whether it is a PCR or an RTMR.

    Returns:
        What differs, first event first; empty exactly when one alternative has these events in this order.
    """
    measured = [_digest(event, bank) for event in observed]
    courses = [(course, [event.digest(bank).hex() for event in _extends(course)])
               for course in prediction.alternatives]  # fmt: skip
    if any(digests == measured for _, digests in courses):
        return ()
    phase = _phase(prediction, measured, bank, of)
    if phase is not None:
        return (phase,)
    if not courses:
        return ()
    course, digests = max(courses, key=lambda item: _closeness(item[1], measured))
    events = _extends(course)
    found: list[Explanation] = []
    for tag, start, stop, other_start, other_stop in _align(digests, measured):
        if tag == "equal":
            continue
        pairs = max(stop - start, other_stop - other_start)
        for offset in range(pairs):
            at, other = start + offset, other_start + offset
            expected = events[at] if at < stop else None
            actual = observed[other] if other < other_stop else None
            found.append(_explanation(prediction.index, of, bank, min(at, stop), expected, actual))
            if len(found) == MAX_EXPLANATIONS:
                return tuple(found)
    return tuple(found)


def _extends(course: Course) -> list[Event]:
    return [event for event in course.events if event.type is not EventType.NO_ACTION]


def _digest(event: ObservedEvent, bank: HashAlgorithm) -> str | None:
    digest = event.digests.get(bank)
    return None if digest is None else digest.hex()


def _closeness(predicted: list[str], measured: list[str | None]) -> tuple[int, int, bool, int]:
    """Order alternatives: most events in common, longest common start, all of it there, nearest length."""
    common = len(set(predicted) & set(measured))
    prefix = next(
        (at for at, (left, right) in enumerate(zip(predicted, measured, strict=False)) if left != right),
        min(len(predicted), len(measured)),
    )
    return common, prefix, prefix == len(predicted), -abs(len(predicted) - len(measured))


def _align(predicted: list[str], measured: list[str | None]) -> list[tuple[str, int, int, int, int]]:
    if max(len(predicted), len(measured)) > MAX_ALIGNED:
        return [("replace", 0, len(predicted), 0, len(measured))]
    return list(SequenceMatcher(None, predicted, measured, autojunk=False).get_opcodes())


def _phase(
    prediction: RegisterPrediction, measured: list[str | None], bank: HashAlgorithm, of: RegisterKind
) -> Explanation | None:
    for course in prediction.phases:
        if [event.digest(bank).hex() for event in _extends(course)] == measured:
            return Explanation(
                register=prediction.index,
                of=of,
                bank=bank,
                kind=Kind.PHASE,
                position=len(measured),
                cause="boot phase",
                predicted=None,
                measured=None,
                text=f"the machine stands at boot phase {course.label!r}, which is not the steady state",
            )
    return None


def _explanation(
    register: int,
    of: RegisterKind,
    bank: HashAlgorithm,
    position: int,
    expected: Event | None,
    actual: ObservedEvent | None,
) -> Explanation:
    predicted = None if expected is None else expected.digest(bank).hex()
    measured = None if actual is None else _digest(actual, bank)
    if expected is not None and actual is not None:
        kind, cause = Kind.DIFFERS, expected.cause
        text = (
            f"{cause} differs{_hint(register, of, cause)}: event {expected.description!r} is predicted as "
            f"{bank} {predicted}, "
            f"the machine measured {measured or 'nothing in this bank'} ({actual.text})"
            f"{_detail(expected, actual)}"
        )
    elif expected is not None:
        kind, cause = Kind.MISSING, expected.cause
        text = (
            f"{cause} was not measured{_hint(register, of, cause)}: event {expected.description!r} "
            f"({bank} {predicted}) is missing from the machine's log"
        )
    else:
        assert actual is not None
        kind, cause = Kind.EXTRA, _source_of(actual, register, of)
        text = (
            f"{cause}: the machine measured {bank} {measured or 'nothing in this bank'} ({actual.text}), "
            "which the prediction does not have"
        )
    return Explanation(
        register=register,
        of=of,
        bank=bank,
        kind=kind,
        position=position,
        cause=cause,
        predicted=predicted,
        measured=measured,
        text=text,
    )


_HINTS = {
    1: " (the VM's shape: processors, memory, devices, boot options, or QEMU's version)",
    5: " (the disk's GPT, or the course of the boot)",
    7: " (Secure Boot state or keys)",
}


_RTMR_HINTS = {0: _HINTS[1]}
_RTMR_PCRS = {0: frozenset({1, 7}), 1: frozenset(range(2, 7)), 2: frozenset(range(8, 16))}


def _hint(register: int, of: RegisterKind, cause: str) -> str:
    if ".cmdline" in cause:
        return " (the command line carries the root hash: another root file system is another command line)"
    return (_HINTS if of is RegisterKind.PCR else _RTMR_HINTS).get(register, "")


def _detail(expected: Event, actual: ObservedEvent) -> str:
    """Say more where both sides carry data that can be decoded."""
    if expected.data is None or expected.type is None or expected.type != actual.type:
        return ""
    if expected.type is EventType.EFI_GPT_EVENT:
        return _partitions(expected.data, actual.data)
    text = describe(expected.type, expected.data)
    return "" if text == actual.text else f"; predicted was {text}"


def _partitions(expected: bytes, actual: bytes) -> str:
    try:
        before, after = gpt.parse_event(expected), gpt.parse_event(actual)
    except FormatError:
        return ""
    said = []
    if before.disk_guid != after.disk_guid:
        said.append(f"disk GUID is {after.disk_guid}, predicted {before.disk_guid}")
    if before.alternate_lba != after.alternate_lba:
        said.append(f"the disk ends at block {after.alternate_lba}, predicted {before.alternate_lba}")
    if len(before.partitions) != len(after.partitions):
        said.append(f"{len(after.partitions)} partitions, predicted {len(before.partitions)}")
    for old, new in zip(before.partitions, after.partitions, strict=False):
        for name in ("name", "type", "unique", "first_lba", "last_lba", "attributes"):
            was, is_now = getattr(old, name), getattr(new, name)
            if was != is_now:
                said.append(f"partition {old.number}: {name} is {printable(str(is_now))}, predicted {was}")
    return "; " + "; ".join(said or ["only other header fields or a checksum differ"])


def _source_of(event: ObservedEvent, register: int, of: RegisterKind) -> str:
    """Name what brings an event that no prediction has: TCG PFP 1.06, 3.3.4; systemd-stub(7)."""
    pcrs = of.pcrs(register)
    for pcr, matches, source in _SOURCES:
        if pcr in pcrs and matches(event):
            return source
    names = _REGISTERS if of is RegisterKind.PCR else _RTMRS
    return names.get(register, f"an event that {of.name_of(register)} should not have")


def _contains(*words: str) -> Callable[[ObservedEvent], bool]:
    return lambda event: any(word in event.text for word in words)


def _of_type(*types: EventType) -> Callable[[ObservedEvent], bool]:
    return lambda event: event.type in types


_COMMAND_LINE = (
    "a command line injected at boot (by an add-on such as a debug image's, by SMBIOS, or by the firmware's "
    "load options)"
)
_SOURCES: tuple[tuple[int, Callable[[ObservedEvent], bool], str], ...] = (
    (12, _contains("Credentials initrd", "Global credentials"), "credentials injected from the ESP"),
    (12, _contains("Configuration extension"), "a configuration extension injected from the ESP"),
    (12, _contains("0x13aed6db"), "another UKI profile selected at boot"),
    (12, _contains("0x6c46f751"), "a device tree add-on injected from the ESP"),
    (12, _contains("0x49dffe0f", "0xdac08e1a"), "an initrd or microcode add-on injected from the ESP"),
    (12, _of_type(EventType.IPL),
     _COMMAND_LINE),
    (4, _contains("Returning from EFI Application"), "another boot option ran first and failed"),
    (4, _contains("Calling EFI Application"), "a second attempt to boot"),
    (4, _of_type(EventType.EFI_BOOT_SERVICES_APPLICATION), "another program was started before the image"),
    (5, _of_type(EventType.EFI_GPT_EVENT), "disk GPT of another disk"),
    (5, _contains("Exit Boot Services"), "another course of ExitBootServices"),
    (7, _of_type(EventType.EFI_VARIABLE_DRIVER_CONFIG), "Secure Boot state or keys"),
    (7, _of_type(EventType.EFI_VARIABLE_AUTHORITY), "Secure Boot state: an image was verified by a key"),
    (11, lambda event: event.type is None, "a boot phase that the prediction does not reach"),
)  # fmt: skip
_REGISTERS = {
    0: "firmware",
    1: "VM shape or firmware configuration",
    2: "an option ROM of a device",
    3: "configuration of an option ROM",
    4: "boot loader code",
    5: "boot loader configuration or disk GPT",
    6: "platform maker's event",
    7: "Secure Boot state or keys",
    8: "a boot loader that measures its commands (GRUB)",
    9: "kernel command line or initrd",
    11: "uki section",
    12: "kernel configuration injected at boot",
    13: "a system extension injected from the ESP",
    14: "shim and its keys",
    15: "system identity",
}
_RTMRS = {
    0: "VM shape, firmware configuration, or Secure Boot keys",
    1: "boot loader code, or disk GPT",
    2: "uki section, kernel command line or initrd",
    3: "an application",
}
