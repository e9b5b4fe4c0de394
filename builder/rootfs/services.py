"""What units, udev rules and tmpfiles.d refer to exists: programs, other units, users and groups."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import ComposeError
from builder.rootfs.accounts import Needs
from builder.rootfs.config import config_files, split_words, text_of
from builder.rootfs.findings import Findings
from builder.rootfs.interpreters import program_path
from builder.rootfs.permits import Missing
from builder.rootfs.unitfile import (
    UNIT_FOLDERS,
    USER_UNIT_FOLDERS,
    Unit,
    find_unit,
    is_masked,
    load_unit,
    unit_names,
)
from builder.tree import Tree

_SECTIONS = ("Service", "Socket", "Mount", "Swap")
_EXEC = (
    "ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPre",
    "ExecStopPost",
)  # fmt: skip
#: systemd.service(5), "Command lines": special executable prefixes.
_PREFIXES = "@-:+!|"
_HARD = ("Requires", "Requisite", "BindsTo")
#: Units that the manager makes itself: from devices, mount tables, slices' names and its own processes.
_IMPLIED = ("device", "slice", "scope", "mount", "automount", "swap")
#: udev(7): KEY{attribute}OPERATOR"value"; a value after e is C-escaped.
_RULE = re.compile(r'([A-Z]+)(?:\{([^}]*)\})?\s*(\+=|-=|:=|==|!=|=)\s*e?"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the checks of this module share."""

    tree: Tree
    needs: Needs
    missing: Missing
    findings: Findings


def check_units(refs: References) -> None:
    """Find unmasked units whose program, required unit, user or group is absent.

    User units count only where the tree can start a user manager.
    """
    managers = [UNIT_FOLDERS]
    if find_unit(refs.tree, "user@.service") and not is_masked(refs.tree, "user@.service"):
        managers.append(USER_UNIT_FOLDERS)
    for folders in managers:
        for name in unit_names(refs.tree, folders):
            try:
                unit = load_unit(refs.tree, name, folders)
            except ComposeError as error:
                refs.findings.caught(error)
                continue
            if unit is not None:
                where = f"{unit.path} ({unit.node.origin})"
                _check_programs(refs, unit, where)
                _check_accounts(refs, unit, where)
                _check_dependencies(refs, unit, where, folders)


def check_udev(refs: References) -> None:
    """Find udev rules that run an absent program, or give a device to an unpinned user or group (udev(7))."""
    for path, node in config_files(refs.tree, "udev/rules.d", ".rules"):
        try:
            text = text_of(path, node).replace("\\\n", "")
        except ComposeError as error:
            refs.findings.caught(error)
            continue
        for line in text.splitlines():
            if line.lstrip().startswith("#"):
                continue
            for key, attribute, operator, value in _RULE.findall(line):
                where = f"{path} ({node.origin})"
                runs = (key == "RUN" and attribute in ("", "program")) or key == "PROGRAM"
                if runs or (key, attribute) == ("IMPORT", "program"):
                    _check_rule_program(refs, value, where)
                elif key in ("OWNER", "GROUP") and operator in ("=", ":="):
                    _check_name(refs, "user" if key == "OWNER" else "group", value, where)


def check_tmpfiles(refs: References) -> None:
    """Find tmpfiles.d lines whose user or group the recipe does not pin (tmpfiles.d(5))."""
    for path, node in config_files(refs.tree, "tmpfiles.d", ".conf"):
        try:
            for number, line in enumerate(text_of(path, node).splitlines(), 1):
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                words = split_words(line, f"{path}:{number}")
                for kind, word in zip(("user", "group"), words[3:5], strict=False):
                    _check_name(refs, kind, word.lstrip(":"), f"{path} ({node.origin})")
        except ComposeError as error:
            refs.findings.caught(error)


def _check_programs(refs: References, unit: Unit, where: str) -> None:
    for section in _SECTIONS:
        for key in _EXEC:
            for command in unit.values(section, key):
                words = command.split(maxsplit=1)[0]
                program = words.lstrip(_PREFIXES).strip("\"'")
                if "%" in program or "$" in program or program_path(refs.tree, program) is not None:
                    continue
                if refs.missing.permits(program, program.rpartition("/")[2]):
                    continue
                tolerated = "-" in words[: len(words) - len(words.lstrip(_PREFIXES))]
                message = f"{where} runs {program} ({key}=), which the tree does not have as a program"
                if tolerated and key != "ExecStart":
                    refs.findings.note(message)
                else:
                    refs.findings.error(
                        message, hint="mask or exclude the unit, or list the program in `missing`"
                    )


def _check_accounts(refs: References, unit: Unit, where: str) -> None:
    for section in _SECTIONS:
        if unit.value(section, "DynamicUser").lower() in ("yes", "true", "1", "on", "y", "t"):
            continue
        for key, kind in (
            ("User", "user"),
            ("SocketUser", "user"),
            ("Group", "group"),
            ("SocketGroup", "group"),
        ):
            value = unit.value(section, key)
            if value:
                _check_name(refs, kind, value, where)
        for name in unit.words(section, "SupplementaryGroups"):
            _check_name(refs, "group", name, where)


def _check_dependencies(refs: References, unit: Unit, where: str, folders: tuple[str, ...]) -> None:
    for key in (*_HARD, "Wants", "Upholds"):
        for name in unit.words("Unit", key):
            absent = find_unit(refs.tree, name, folders) is None
            if "%" in name or name.rpartition(".")[2] in _IMPLIED:
                continue
            if not absent and not is_masked(refs.tree, name, folders):
                continue
            state = "absent" if absent else "masked"
            if key in _HARD and absent and not refs.missing.permits(name):
                refs.findings.error(
                    f"{where}: {key}={name}, and the tree has no unit of this name",
                    hint="mask or exclude the unit, or list the required one in `missing`",
                )
            else:
                refs.findings.note(f"{where}: {key}={name}, which is {state}")


def _check_rule_program(refs: References, value: str, where: str) -> None:
    words = value.split(maxsplit=1)
    if not words or "$" in words[0] or "%" in words[0]:
        return
    program = words[0].strip("'\"")
    path = program if program.startswith("/") else f"/usr/lib/udev/{program}"
    if program_path(refs.tree, path) is None and not refs.missing.permits(program, path):
        refs.findings.error(
            f"{where} runs {path}, which the tree does not have as a program",
            hint="exclude the rules, or list the program in `missing`",
        )


def _check_name(refs: References, kind: str, name: str, where: str) -> None:
    if name in ("", "-") or "%" in name or "$" in name:
        return
    if not name.isdigit():
        refs.needs.expect(kind, name, where)
        return
    accounts = refs.needs.accounts
    numbers = {user.uid for user in accounts.users.values()} if kind == "user" else accounts.groups.values()
    if int(name) not in numbers:
        refs.findings.error(f"{where} names the {kind} id {name}, which the recipe does not pin")
