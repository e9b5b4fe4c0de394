"""Fold an event log into registers, and check every digest that the log's own data can prove.

A log is untrusted: only registers that a quote confirms are. But a digest that is not the hash of the data
beside it makes the log's words worthless, so each is checked where the event type says what was hashed
(TCG PC Client Platform Firmware Profile 1.06, 10.4; systemd-stub and GRUB for their EV_IPL events).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from measurements.errors import FormatError
from measurements.events import Digest, EventType, HashAlgorithm, event_type_name
from measurements.formats import efivar, gpt
from measurements.formats.eventlog import SPEC_ID_SIGNATURE, EventLog, LogKind, LogRecord, startup_locality

#: Localities that StartupLocality may state (PFP 1.06, 10.4.5.3).
_STARTUP_LOCALITIES = (0, 3, 4)

_SEPARATOR_OK = bytes(4)
_SEPARATOR_ERRORS = (b"\xff\xff\xff\xff", b"\x01\x00\x00\x00")

#: PCRs that firmware owns; the separator closes each of them (PFP 1.06, 3.3.4).
_FIRMWARE_PCRS = range(8)
#: Event types that belong after the separator; PCR 4 and 5 go on with boot loaders, actions and the GPT.
_AFTER_SEPARATOR: Mapping[int, frozenset[int]] = {
    0: frozenset(),
    # SMM builds of OVMF measure the SMBIOS table after the separators, systemd-stub >= 261 structures of it.
    1: frozenset({EventType.EFI_HANDOFF_TABLES, EventType.EFI_HANDOFF_TABLES2, EventType.EVENT_TAG}),
    2: frozenset(),
    3: frozenset(),
    6: frozenset(),
    7: frozenset({EventType.EFI_VARIABLE_AUTHORITY}),
}

#: Event types whose digest is the hash of the event field, and nothing else.
_DATA_IS_HASHED: Final = frozenset(
    {
        EventType.SEPARATOR,
        EventType.ACTION,
        EventType.S_CRTM_VERSION,
        EventType.NONHOST_INFO,
        EventType.EFI_ACTION,
        EventType.EFI_GPT_EVENT,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_VARIABLE_AUTHORITY,
    }
)
_VARIABLE_TYPES: Final = frozenset(
    {
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_VARIABLE_AUTHORITY,
    }
)

# systemd-stub (systemd 257, src/boot/stub.c). PCRs 8-15 share RTMR2, index 3 of a CCEL.
_CCEL_RTMR2 = 3
_STUB_SECTIONS_PCR = 11
_STUB_COMMAND_LINE_PCR = 12
_STUB_SECTIONS: Final = frozenset(
    {
        ".linux",
        ".osrel",
        ".cmdline",
        ".initrd",
        ".ucode",
        ".splash",
        ".dtb",
        ".uname",
        ".sbat",
        ".pcrpkey",
        ".profile",
        ".dtbauto",
        ".hwids",
        ".efifw",
    }
)
#: EV_IPL texts of the stub that describe a payload which the log does not carry.
_STUB_PAYLOADS: Final = frozenset(
    {
        "Credentials initrd",
        "Global credentials initrd",
        "Configuration extension initrd",
        "System extension initrd",
    }
)
# GRUB 2.06 and later (grub-core/commands/tpm.c): the text after the prefix is hashed, without its NUL.
_GRUB_PCR = 8
_GRUB_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ")


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # the log contradicts itself or its specification
    WARNING = "warning"  # allowed or harmless, but not what firmware commonly does
    NOTE = "note"  # this package cannot judge it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One remark about one record.

    Attributes:
        record: index into ``EventLog.records``.
        register: as in the record.
        type: as in the record.
        severity: how much it matters.
        message: what is wrong and what was expected.
    """

    record: int
    register: int
    type: int
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a log folds into.

    Attributes:
        registers: value of each register, by bank. For a TPM: PCR 0-15, and others that the log extends.
            For a CCEL: MRTD (which no event extends, so zeros) and RTMR0-2, and RTMR3 when extended. A
            register is missing from a bank when one of its records has no digest for that bank.
        findings: remarks in order of records; empty for a log that is consistent in all that it can prove.
    """

    registers: Mapping[HashAlgorithm, Mapping[int, Digest]]
    findings: tuple[Finding, ...]


def replay(log: EventLog) -> Replay:
    """Fold ``log`` and check it; never raises for what a parsed log may hold."""
    findings = [
        *_structure(log),
        *(finding for index, record in enumerate(log.records) for finding in _contents(log, index, record)),
        *_stub_sections(log),
    ]
    return Replay(
        registers={bank: _fold(log, bank) for bank in log.algorithms},
        findings=tuple(sorted(findings, key=lambda finding: finding.record)),
    )


def to_json(result: Replay, log: EventLog) -> dict[str, Any]:
    """Return the object that ``goldsmith replay --json`` prints; digests in lower-case hexadecimal."""
    return {
        "registers": {
            bank.value: {log.register_name(index): value.hex() for index, value in sorted(registers.items())}
            for bank, registers in result.registers.items()
        },
        "events": len(log.records),
        "findings": [
            {
                "record": finding.record,
                "register": log.register_name(finding.register),
                "type": event_type_name(finding.type),
                "severity": finding.severity.value,
                "message": finding.message,
            }
            for finding in result.findings
        ],
    }


def _fold(log: EventLog, bank: HashAlgorithm) -> dict[int, Digest]:
    always = range(4) if log.kind is LogKind.CCEL else range(16)
    values: dict[int, Digest | None] = {register: _start(log, register, bank) for register in always}
    for record in log.records:
        if not record.extends:
            continue
        value = values.setdefault(record.register, _start(log, record.register, bank))
        digest = record.digests.get(bank)
        # A register with a gap has no value in this bank; going on would report a wrong one.
        values[record.register] = value.extend(digest) if value is not None and digest is not None else None
    return {register: value for register, value in values.items() if value is not None}


def _start(log: EventLog, register: int, bank: HashAlgorithm) -> Digest:
    # PC Client Platform TPM Profile 1.05, 4.6.2: PCR 17-22 reset to ff; PFP 1.06, 10.4.5.3 for PCR 0.
    if log.kind is not LogKind.CCEL:
        if 17 <= register <= 22:
            return Digest(bank, b"\xff" * bank.size)
        if register == 0 and log.startup_locality:
            return Digest(bank, log.startup_locality.to_bytes(bank.size, "big"))
    return Digest.zero(bank)


def _finding(index: int, record: LogRecord, severity: Severity, message: str) -> Finding:
    return Finding(
        record=index, register=record.register, type=record.type, severity=severity, message=message
    )


def _structure(log: EventLog) -> Iterator[Finding]:
    """Check what concerns the order of records."""
    separated: set[int] = set()
    extended: set[int] = set()
    localities = 0
    for index, record in enumerate(log.records):
        if record.data.startswith(SPEC_ID_SIGNATURE) and index and not record.extends:
            yield _finding(
                index, record, Severity.ERROR, "second Spec ID header; only the first record may be one"
            )
        locality = startup_locality(record)
        if locality is not None:
            localities += 1
            if localities > 1:
                yield _finding(
                    index, record, Severity.ERROR, "second StartupLocality event; the first one counts"
                )
            if 0 in extended:
                yield _finding(
                    index,
                    record,
                    Severity.ERROR,
                    "StartupLocality after PCR 0 was extended; it must come first",
                )
            if locality not in _STARTUP_LOCALITIES:
                yield _finding(
                    index, record, Severity.ERROR, f"StartupLocality is {locality}; expected 0, 3 or 4"
                )
        if not record.extends:
            continue
        extended.add(record.register)
        # A CCEL joins several PCRs, each with its own separator, in one register.
        if log.kind is LogKind.CCEL or record.register not in _FIRMWARE_PCRS:
            continue
        if record.type == EventType.SEPARATOR:
            if record.register in separated:
                yield _finding(index, record, Severity.WARNING, f"second separator in PCR {record.register}")
            separated.add(record.register)
        elif record.register in separated:
            allowed = _AFTER_SEPARATOR.get(record.register)
            if allowed is not None and record.type not in allowed:
                yield _finding(
                    index,
                    record,
                    Severity.WARNING,
                    f"{event_type_name(record.type)} in PCR {record.register} after its separator",
                )


def _contents(log: EventLog, index: int, record: LogRecord) -> Iterator[Finding]:
    """Check one record by itself."""
    if not record.extends:
        # The header's digest field and every informative event hold zeros (PFP 1.06, 10.4.5).
        if any(any(digest.value) for digest in record.digests.values()):
            yield _finding(index, record, Severity.WARNING, "EV_NO_ACTION with a digest that is not zero")
        return
    for bank in log.algorithms:
        if bank not in record.digests:
            yield _finding(
                index, record, Severity.ERROR, f"no {bank} digest, though the header declares that bank"
            )
        elif not any(record.digests[bank].value):
            yield _finding(
                index, record, Severity.ERROR, f"the {bank} digest is zero, which no data hashes to"
            )
    if record.type not in EventType.__members__.values():
        yield _finding(index, record, Severity.NOTE, f"event type 0x{record.type:08x} is not known")
    yield from _malformed(index, record)
    inputs = _provable_inputs(log, record)
    if inputs:
        yield from _prove(index, record, inputs)


def _prove(index: int, record: LogRecord, inputs: tuple[bytes, ...]) -> Iterator[Finding]:
    for bank, digest in record.digests.items():
        expected = [Digest.of(bank, data) for data in inputs]
        if digest not in expected:
            yield _finding(
                index,
                record,
                Severity.ERROR,
                f"{bank} digest {digest.hex()} is not that of the event's data; expected "
                f"{' or '.join(value.hex() for value in expected)}",
            )


def _provable_inputs(log: EventLog, record: LogRecord) -> tuple[bytes, ...]:
    """Return the bytes of which one must have been hashed; empty when the event's data cannot tell."""
    if record.type in _DATA_IS_HASHED:
        return (record.data,)
    if record.type == EventType.EFI_VARIABLE_BOOT:
        # The profile says the variable's data, and edk2 follows it; some firmware hashes the whole structure.
        try:
            return (efivar.parse_variable(record.data).data, record.data)
        except FormatError:
            return (record.data,)
    if record.type == EventType.IPL:
        return _provable_ipl(log, record)
    return ()


def _provable_ipl(log: EventLog, record: LogRecord) -> tuple[bytes, ...]:
    if _is_register(log, record, _GRUB_PCR):
        for prefix in _GRUB_PREFIXES:
            if record.data.startswith(prefix):
                return (record.data[len(prefix) :].removesuffix(b"\0"),)
    text = _utf16_text(record.data)
    if text is None or text in _STUB_PAYLOADS or _stub_section(log, record) is not None:
        return ()
    # What else the stub measures as EV_IPL is a command line: hash and event are the same UTF-16LE text.
    return (record.data,) if _is_register(log, record, _STUB_COMMAND_LINE_PCR) else ()


def _stub_sections(log: EventLog) -> Iterator[Finding]:
    """Check the pairs that systemd-stub measures: a section's name, provable, then its contents, not."""
    open_name: str | None = None
    for index, record in enumerate(log.records):
        name = _stub_section(log, record)
        if name is None:
            continue
        if name == open_name:
            open_name = None
            continue
        if open_name is not None:
            yield _finding(
                index, record, Severity.ERROR, f"section {open_name} has a name event and no contents"
            )
        open_name = name
        yield from _prove(index, record, (name.encode("ascii") + b"\0",))


def _stub_section(log: EventLog, record: LogRecord) -> str | None:
    if record.type != EventType.IPL or not _is_register(log, record, _STUB_SECTIONS_PCR):
        return None
    text = _utf16_text(record.data)
    return text if text in _STUB_SECTIONS else None


def _is_register(log: EventLog, record: LogRecord, pcr: int) -> bool:
    return record.register == (_CCEL_RTMR2 if log.kind is LogKind.CCEL else pcr)


def _utf16_text(data: bytes) -> str | None:
    """Return printable UTF-16LE text that ends with its only NUL, or ``None``."""
    if len(data) < 4 or len(data) % 2 or data[-2:] != b"\0\0":
        return None
    try:
        text = data[:-2].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _malformed(index: int, record: LogRecord) -> Iterator[Finding]:
    """Check that the event's data has the structure that its type demands."""
    if record.type == EventType.SEPARATOR:
        if record.data in _SEPARATOR_ERRORS:
            yield _finding(index, record, Severity.ERROR, "error separator: firmware failed before it")
        elif record.register in _FIRMWARE_PCRS and record.data != _SEPARATOR_OK:
            yield _finding(
                index, record, Severity.ERROR, f"separator holds {record.data[:16].hex()}, expected 00000000"
            )
        return
    try:
        if record.type in _VARIABLE_TYPES:
            efivar.parse_variable(record.data)
        elif record.type == EventType.EFI_GPT_EVENT:
            gpt.parse_event(record.data)
    except FormatError as error:
        yield _finding(index, record, Severity.ERROR, f"malformed event: {error}")
