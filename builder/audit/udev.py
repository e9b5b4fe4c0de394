"""udev rules (udev(7)) as far as the audit needs them: keys, operators, values, and the rule that reads PCR 12."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from measurements.errors import FormatError, LimitError

MAX_RULES = 20_000
_PAIR = re.compile(
    r'\s*([A-Z]+)(?:\{([^}"]*)\})?\s*(==|!=|\+=|-=|:=|=)\s*(?:e|i|ei|ie)?"((?:[^"\\]|\\.)*)"\s*(?:,|\Z)\s*'
)
_POWER_OFF = re.compile(r"/usr/bin/systemctl (?:--force |-f ){1,2}(?:poweroff|halt)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class UdevRule:
    """One line: (key, attribute, operator, value) in order.

    Attributes:
        where: file and line.
        text: the line.
        pairs: its keys.
    """

    where: str
    text: str
    pairs: tuple[tuple[str, str, str, str], ...]

    def values(self, key: str, operator: str, attribute: str | None = None) -> list[str]:
        """Return the values of a key with an operator."""
        return [
            value
            for name, other, used, value in self.pairs
            if name == key and used == operator and attribute in (None, other)
        ]

    def refused(self, attribute: str) -> frozenset[str]:
        """Return the values of a device's attribute that keep the rule from applying."""
        return frozenset(self.values("ATTR", "!=", attribute))


def parse_rules(path: str, text: str) -> list[UdevRule]:
    """Return the rules of a file.

    Raises:
        FormatError: a line is not made of KEY operator "value".
        LimitError: too many rules.
    """
    found: list[UdevRule] = []
    pending, begun = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#") or (not line and not pending):
            continue
        begun = begun or number
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        whole, where = (pending + line).strip(), f"{path}:{begun}"
        pending, begun = "", 0
        found.append(UdevRule(where=where, text=whole, pairs=_pairs(whole, where)))
        if len(found) > MAX_RULES:
            raise LimitError(f"{path}: more than {MAX_RULES} rules")
    if pending:
        raise FormatError(f"{path}: the last rule is cut")
    return found


def _pairs(line: str, where: str) -> tuple[tuple[str, str, str, str], ...]:
    pairs, position = [], 0
    while position < len(line):
        match = _PAIR.match(line, position)
        if match is None:
            raise FormatError(f'{where}: expected KEY=="value", got {line[position:][:60]!r}')
        position = match.end()
        pairs.append((match[1], match[2] or "", match[3], match[4]))
    return tuple(pairs)


def accepted_pcr_12(bank: str, debug_command_line: str) -> frozenset[str]:
    """Return the values of PCR 12, as sysfs prints them, with which a machine may go on.

    systemd-stub(7): an extended command line is one event, its text in UTF-16 with the end; TPM 2.0 Part 1, 17.2.
    """
    zero = bytes(hashlib.new(bank).digest_size)
    values = {zero.hex().upper()}
    if debug_command_line:
        event = hashlib.new(bank, f"{debug_command_line}\0".encode("utf-16-le")).digest()
        values.add(hashlib.new(bank, zero + event).hexdigest().upper())
    return frozenset(values)


def guards_pcr_12(rule: UdevRule, bank: str) -> bool:
    """Whether a rule powers off by this bank's PCR 12 whenever the TPM appears, on no further condition."""
    conditions = {
        (key, attribute, operator, value)
        for key, attribute, operator, value in rule.pairs
        if operator in ("==", "!=") and (key, attribute) != ("ATTR", f"pcr-{bank}/12")
    }
    expected = {("ACTION", "", "!=", "remove"), ("SUBSYSTEM", "", "==", "tpm"), ("KERNEL", "", "==", "tpm0")}
    runs = rule.values("RUN", "+=", "") + rule.values("RUN", "+=", "program")
    return (
        bool(rule.refused(f"pcr-{bank}/12"))
        and not rule.values("ATTR", "==", f"pcr-{bank}/12")
        and conditions <= expected
        and any(_POWER_OFF.match(run) for run in runs)
    )


def takes_commands_away(rule: UdevRule) -> bool:
    """Whether a rule could undo the guard: it assigns RUN afresh, or ends the rules of TPM devices."""
    resets = any(key == "RUN" and operator in ("=", ":=", "-=") for key, _, operator, _ in rule.pairs)
    last = any("last_rule" in value for value in rule.values("OPTIONS", "+=") + rule.values("OPTIONS", "="))
    tpm = any(value == "tpm" for value in rule.values("SUBSYSTEM", "=="))
    return (resets and tpm) or last
