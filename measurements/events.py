"""Events and the registers they fold into.

A prediction is never a bare value: it is the list of events that produce it, each naming the input that
caused it. The register is the fold of those events (TCG PC Client Platform Firmware Profile 1.06, 3.3.4;
TPM 2.0 Library Part 1, 17.2 "Extend").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from measurements.errors import FormatError, PredictionError


class HashAlgorithm(StrEnum):
    """A PCR bank's hash; the value is the name used in documents and by hashlib."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Digest length in bytes."""
        return _SIZES[self]

    @property
    def tcg_id(self) -> int:
        """TPM_ALG_ID (TCG Algorithm Registry 1.34, table 3)."""
        return _TCG_IDS[self]

    @classmethod
    def from_tcg_id(cls, value: int) -> HashAlgorithm:
        """Return the algorithm with this TPM_ALG_ID.

        Raises:
            FormatError: the identifier names no hash that this package knows.
        """
        for algorithm, identifier in _TCG_IDS.items():
            if identifier == value:
                return algorithm
        raise FormatError(f"unknown hash algorithm 0x{value:04x}; known are sha1, sha256, sha384, sha512")


_SIZES = {
    HashAlgorithm.SHA1: 20,
    HashAlgorithm.SHA256: 32,
    HashAlgorithm.SHA384: 48,
    HashAlgorithm.SHA512: 64,
}
_TCG_IDS = {
    HashAlgorithm.SHA1: 0x0004,
    HashAlgorithm.SHA256: 0x000B,
    HashAlgorithm.SHA384: 0x000C,
    HashAlgorithm.SHA512: 0x000D,
}

#: The banks every prediction carries. SHA-1 is added where a TPM has that bank active.
DEFAULT_BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384)
ALL_BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)


class EventType(IntEnum):
    """TCG PC Client Platform Firmware Profile 1.06, table 27; unknown types stay plain integers in a log."""

    PREBOOT_CERT = 0x00000000
    POST_CODE = 0x00000001
    UNUSED = 0x00000002
    NO_ACTION = 0x00000003
    SEPARATOR = 0x00000004
    ACTION = 0x00000005
    EVENT_TAG = 0x00000006
    S_CRTM_CONTENTS = 0x00000007
    S_CRTM_VERSION = 0x00000008
    CPU_MICROCODE = 0x00000009
    PLATFORM_CONFIG_FLAGS = 0x0000000A
    TABLE_OF_DEVICES = 0x0000000B
    COMPACT_HASH = 0x0000000C
    IPL = 0x0000000D
    IPL_PARTITION_DATA = 0x0000000E
    NONHOST_CODE = 0x0000000F
    NONHOST_CONFIG = 0x00000010
    NONHOST_INFO = 0x00000011
    OMIT_BOOT_DEVICE_EVENTS = 0x00000012
    POST_CODE2 = 0x00000013
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EFI_HANDOFF_TABLES2 = 0x8000000B
    EFI_VARIABLE_BOOT2 = 0x8000000C
    EFI_HCRTM_EVENT = 0x80000010
    EFI_VARIABLE_AUTHORITY = 0x800000E0
    EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


def event_type_name(value: int) -> str:
    """Return the specification's name (``EV_SEPARATOR``), or the hexadecimal code of an unknown type."""
    try:
        return f"EV_{EventType(value).name}"
    except ValueError:
        return f"0x{value:08x}"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """One hash value; its length always fits its algorithm."""

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.size:
            raise FormatError(
                f"a {self.algorithm} digest has {self.algorithm.size} bytes, this one has {len(self.value)}"
            )

    @classmethod
    def of(cls, algorithm: HashAlgorithm, data: bytes | bytearray | memoryview) -> Digest:
        """Hash ``data``."""
        return cls(algorithm, hashlib.new(algorithm.value, data, usedforsecurity=False).digest())

    @classmethod
    def zero(cls, algorithm: HashAlgorithm) -> Digest:
        """Return the start value of PCR 0-16 and of every RTMR."""
        return cls(algorithm, bytes(algorithm.size))

    def extend(self, digest: Digest) -> Digest:
        """Return ``H(self ‖ digest)``, the only operation a register knows."""
        if digest.algorithm is not self.algorithm:
            raise FormatError(f"cannot extend a {self.algorithm} register with a {digest.algorithm} digest")
        return Digest.of(self.algorithm, self.value + digest.value)

    def hex(self) -> str:
        """Lower-case hexadecimal."""
        return self.value.hex()


Digests = Mapping[HashAlgorithm, Digest]


def digests_of(data: bytes | bytearray | memoryview, banks: Iterable[HashAlgorithm] = ALL_BANKS) -> Digests:
    """Hash ``data`` once per bank."""
    return {bank: Digest.of(bank, data) for bank in banks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One extend of one register.

    Attributes:
        register: PCR index 0-23, or RTMR index.
        type: TCG event type; ``None`` for an extend that only userspace logs (systemd's phases).
        digests: what is extended, per bank.
        description: what happened, in the log's own words ("Calling EFI Application from Boot Option").
        cause: the input that decides the digest ("uki .cmdline", "firmware DXEFV", "disk GPT"); a mismatch
            is reported in these words.
        data: the event field as the log carries it, where that is predictable; ``None`` otherwise.
    """

    register: int
    type: EventType | None
    digests: Digests
    description: str
    cause: str
    data: bytes | None = field(default=None, repr=False)

    def digest(self, bank: HashAlgorithm) -> Digest:
        """Return the digest for ``bank``.

        Raises:
            PredictionError: the event was not computed for that bank.
        """
        try:
            return self.digests[bank]
        except KeyError:
            raise PredictionError(f"event {self.description!r} has no {bank} digest") from None


def fold(events: Iterable[Event], bank: HashAlgorithm, *, start: Digest | None = None) -> Digest:
    """Fold the events of *one* register, in order, into its value."""
    value = start or Digest.zero(bank)
    for event in events:
        if event.type is not EventType.NO_ACTION:  # TCG PFP 1.06, 10.4.5: never extended
            value = value.extend(event.digest(bank))
    return value


class Stability(StrEnum):
    """What a register's value depends on beside the image: the reader's guide to what may be pinned."""

    IMAGE = "image"
    PHASE = "phase"
    KEYS = "keys"
    FIRMWARE = "firmware"
    VM_SHAPE = "vm-shape"
    NOT_PINNED = "not-pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One complete course of events of one register, with the label that tells it from its alternatives."""

    label: str
    events: tuple[Event, ...]

    def value(self, bank: HashAlgorithm) -> Digest:
        """Return the register's value after these events."""
        return fold(self.events, bank)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterPrediction:
    """What one register may hold once the machine is up, and why.

    Attributes:
        index: PCR index.
        stability: what the value depends on; NOT_PINNED exactly when ``alternatives`` is empty or the
            register must not be compared.
        reason: why it is not pinned, or what a reader must know; ``None`` when there is nothing to say.
        alternatives: every acceptable course of events, the usual one first.
        phases: values at other points in time (PCR 11 before and after "ready"); never accepted as steady.
    """

    index: int
    stability: Stability
    alternatives: tuple[Sequence, ...]
    reason: str | None = None
    phases: tuple[Sequence, ...] = ()

    def __post_init__(self) -> None:
        if self.stability is Stability.NOT_PINNED and self.reason is None:
            raise PredictionError(f"register {self.index} is not pinned and says no reason")
        if self.stability is not Stability.NOT_PINNED and not self.alternatives:
            raise PredictionError(f"register {self.index} is pinned and has no value")

    def values(self, bank: HashAlgorithm) -> tuple[Digest, ...]:
        """Return every acceptable value in ``bank``, the usual one first, without repeats."""
        return tuple(dict.fromkeys(sequence.value(bank) for sequence in self.alternatives))
