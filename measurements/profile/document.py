"""Platform profiles as JSON (docs/platform-profiles.md): the launches of a golden document with slots in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import rfc8785

from measurements.errors import FormatError, LimitError
from measurements.events import HashAlgorithm
from measurements.golden import model as golden
from measurements.golden import sev_snp, tdx
from measurements.golden.read import read_banks, read_shape
from measurements.golden.registers import Table, identifier, read_exactly, read_ids
from measurements.golden.sev_snp import Step
from measurements.golden.write import pretty, write_shape
from measurements.profile.model import (
    FORMAT,
    FORMAT_VERSION,
    MAX_PROFILE_BYTES,
    PCRS,
    RTMRS,
    HashesPage,
    PlatformProfile,
    SevSnpTemplate,
    TdxTemplate,
    TpmTemplate,
)
from measurements.profile.template import RegisterTemplate, read_table, write_table
from measurements.snp.pages import PAGE_SIZE
from measurements.strictjson import Fields, loads

_WHAT = "platform profile"
_KERNEL_HASHES = "kernel-hashes"
_MAX_ADDRESS = 1 << 52


def to_canonical(profile: PlatformProfile) -> bytes:
    """Return the profile in canonical JSON (RFC 8785): what is signed, and what is hashed."""
    return rfc8785.dumps(to_value(profile))


def to_pretty(profile: PlatformProfile) -> bytes:
    """Return the same JSON value, indented, with a final newline: the file that people read."""
    return pretty(to_value(profile))


def to_value(profile: PlatformProfile) -> dict[str, Any]:
    """Return the profile as JSON values; registers that several launches share are written once."""
    table: Table[RegisterTemplate] = {}
    platforms: dict[str, list[Any]] = {}
    for template in profile.tpm:
        shape = write_shape(template.shape) | {"registers": _identifiers(template.registers, table)}
        platforms.setdefault(template.shape.platform, []).append(shape)
    rtmrs: Table[RegisterTemplate] = {}
    domains = [
        tdx.write_launch(domain.launch) | {"registers": _identifiers(domain.registers, rtmrs)}
        for domain in profile.tdx
    ]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": profile.name,
        "banks": [bank.value for bank in profile.banks],
        "platforms": [{"name": name, "shapes": shapes} for name, shapes in platforms.items()],
        "registers": write_table(table, profile.banks),
        "sev_snp": [_write_sev_snp(template) for template in profile.sev_snp],
        "tdx": {"shapes": domains, "registers": write_table(rtmrs, tdx.BANKS)},
    }


def _identifiers(registers: Iterable[RegisterTemplate], table: Table[RegisterTemplate]) -> list[str]:
    return [identifier(register, table) for register in registers]


def _write_sev_snp(template: SevSnpTemplate) -> dict[str, Any]:
    steps = [sev_snp.write_step(step) for step in template.launch.steps]
    page = template.hashes
    if page is not None:
        slot = {
            "slot": _KERNEL_HASHES,
            "address": page.address,
            "offset": page.offset,
            "cause": page.cause,
        }
        steps.insert(page.position, slot)
    return sev_snp.write_launch(template.launch) | {"steps": steps}


def parse(data: bytes) -> PlatformProfile:
    """Parse a platform profile in any JSON layout.

    Raises:
        FormatError: not a profile of this version; a name missing, unknown or doubled; a wrong type; a launch that
            does not bind the image, or has events of one; a table that is not in the order the format prescribes.
        LimitError: a named limit of ``measurements.golden.model`` or ``measurements.profile.model`` is exceeded.
    """
    return parse_value(loads(data, what=_WHAT, max_bytes=MAX_PROFILE_BYTES))


def parse_value(value: Any) -> PlatformProfile:
    """Parse a profile that was read as JSON values by ``strictjson.loads`` (a statement's predicate).

    Raises:
        FormatError, LimitError: as ``parse``.
    """
    return read_exactly(value, _profile, to_value, what=_WHAT)


def _profile(value: Any) -> PlatformProfile:
    fields = Fields(value, _WHAT)
    if fields.raw("format") != FORMAT:
        raise FormatError(f"{_WHAT}: format is {str(fields.raw('format'))[:40]!r}; expected {FORMAT!r}")
    version = fields.integer("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{_WHAT}: format_version {version}; this program reads {FORMAT_VERSION}: update goldsmith"
        )
    banks = read_banks(fields)
    profile = PlatformProfile(
        name=fields.text("name", max_length=golden.MAX_NAME, pattern=golden.NAME),
        banks=banks,
        tpm=_tpm(fields, banks),
        sev_snp=tuple(
            _sev_snp(Fields(item, f"{_WHAT}: sev_snp[{position}]"))
            for position, item in enumerate(fields.array("sev_snp", max_items=golden.MAX_CONFIDENTIAL))
        ),
        tdx=_tdx(fields.fields("tdx")),
    )
    fields.end()
    return profile


def _tpm(fields: Fields, banks: tuple[HashAlgorithm, ...]) -> tuple[TpmTemplate, ...]:
    registers = read_table(fields, banks, last_index=PCRS[-1])
    found: list[TpmTemplate] = []
    folds = 0
    for item in fields.array("platforms", max_items=golden.MAX_SHAPES):
        platform = Fields(item, f"{_WHAT}: platforms")
        name = platform.text("name", max_length=golden.MAX_NAME, pattern=golden.NAME)
        for value in platform.array("shapes", max_items=golden.MAX_SHAPES, min_items=1):
            entry = Fields(value, f"{_WHAT}: {name}: shape")
            chosen = read_ids(entry, registers, max_items=len(PCRS))
            folds = _spent(folds, chosen)
            found.append(TpmTemplate(shape=read_shape(name, entry), registers=chosen))
            entry.end()
            if len(found) > golden.MAX_SHAPES:
                raise LimitError(f"{_WHAT}: more than {golden.MAX_SHAPES} launch shapes")
        platform.end()
    return tuple(found)


def _sev_snp(fields: Fields) -> SevSnpTemplate:
    steps: list[Step] = []
    page: HashesPage | None = None
    for position, item in enumerate(fields.array("steps", max_items=sev_snp.MAX_STEPS, min_items=1)):
        entry = Fields(item, f"{fields.where}: steps[{position}]")
        if not entry.has("slot"):
            steps.append(sev_snp.read_step(entry))
            continue
        if entry.raw("slot") != _KERNEL_HASHES or page is not None:
            raise FormatError(f"{entry.where}: expected one slot, {_KERNEL_HASHES!r}")
        page = HashesPage(
            position=position,
            address=entry.integer("address", maximum=_MAX_ADDRESS - PAGE_SIZE),
            offset=entry.integer("offset", maximum=PAGE_SIZE),
            cause=entry.text("cause", max_length=golden.MAX_TEXT),
        )
        entry.end()
    launch = replace(sev_snp.read_launch(fields), steps=tuple(steps))
    fields.end()
    return SevSnpTemplate(launch=launch, hashes=page)


def _tdx(fields: Fields) -> tuple[TdxTemplate, ...]:
    registers = read_table(fields, tdx.BANKS, last_index=RTMRS[-1])
    found = []
    folds = 0
    for position, item in enumerate(fields.array("shapes", max_items=golden.MAX_CONFIDENTIAL)):
        entry = Fields(item, f"{fields.where}: shapes[{position}]")
        chosen = read_ids(entry, registers, max_items=len(RTMRS))
        folds = _spent(folds, chosen)
        found.append(TdxTemplate(launch=tdx.read_launch(entry), registers=chosen))
        entry.end()
    fields.end()
    return tuple(found)


def _spent(folds: int, registers: Iterable[RegisterTemplate]) -> int:
    """Add what a launch gives to fold: launches share registers, and are filled each for itself."""
    folds += sum(len(course.events) for register in registers for course in register.alternatives)
    if folds > golden.MAX_FOLDS:
        raise LimitError(f"{_WHAT}: more than {golden.MAX_FOLDS} events to fold, all launches together")
    return folds
