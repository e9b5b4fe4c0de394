"""User space: no privilege to gain, no shell, nothing to write to (docs/hardening.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.audit import modules
from builder.audit.model import Finding, Subject
from builder.audit.readers.tree import FileTree
from builder.audit.rules.registry import RuleSet, absent_names
from builder.audit.units import load_units

RULES = RuleSet("File systems")

_SHELLS = re.compile(
    r"(?:r?bash|dash|r?sh|ash|sash|zsh\d*|[lmpo]?ksh(?:93)?|yash|posh|fish|t?csh|elvish|nu|xonsh|busybox|toybox|klibc)\Z"
)
_INTERPRETERS = re.compile(
    r"(?:perl[\d.]*|python[\d.]*|pypy[\d.]*|ruby[\d.]*|lua(?:jit)?[\d.]*|node(?:js)?|php[\d.]*|[gm]?awk|original-awk|tclsh[\d.]*"
    r"|wish[\d.]*|expect|guile[\d.-]*|gjs|qjs|gdb|java|mono|ocaml|ghc|gforth|bc|dc|sed|make|m4|vim?|ed|emacs|systemd-bless-boot)\Z"
)
_TOOLS = frozenset(
    [
        "dpkg", "dpkg-deb", "apt", "apt-get", "apt-key", "rpm", "snap", "pip", "pip3", "gcc", "cc", "ld",
        "as", "objdump", "strace", "ltrace", "gdbserver", "curl", "wget", "nc", "ncat", "socat", "tar",
        "cp", "dd", "chroot", "env", "xargs", "find", "cron", "crond", "atd", "dbus-daemon", "dbus-broker",
        "polkitd", "nsenter", "unshare", "setpriv", "capsh", "insmod", "systemctl-shell", "unix_chkpwd",
        "newgrp", "chsh", "ld.so.preload",
    ]
)  # fmt: skip
_TABLES = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/veritytab",
    "/etc/integritytab",
    "/etc/inittab",
    "/etc/rc.local",
)
_NO_LOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
_SCRATCH, _SCRATCH_SERVICE = "/dev/goldsmith/scratch", "goldsmith-scratch.service"
_CLOSED = frozenset(["noexec", "nosuid", "nodev"])
#: What binds PID 1's own places, closed, before it runs in the root: mount point -> options.
_HANDED_OVER = {
    "/sysroot/dev": _CLOSED - {"nodev"},
    "/sysroot/dev/shm": _CLOSED,
    "/sysroot/run": _CLOSED,
    "/sysroot/etc/machine-id": _CLOSED | {"ro"},
}


def _everything(subject: Subject) -> Iterator[tuple[str, FileTree]]:
    yield from subject.image.trees.items()


@RULES.rule(
    "GS-USER-001", "No file is setuid or setgid",
    "strip_setuid in the recipe, or setuid with a reason",
)  # fmt: skip
def setuid(subject: Subject) -> Iterator[Finding]:
    """No inode of either tree has the bit, but those that the recipe lists under `setuid` with a reason;
    and each listed one is there."""
    for tree, files in _everything(subject):
        declared = subject.declared.setuid[tree]
        for path, file in files.items():
            if file.mode & 0o6000 and not file.is_link and path not in declared:
                yield Finding(
                    place=f"{tree}:{path}", expected="no setuid or setgid bit", got=f"{file.permissions:04o}"
                )
        for path in declared:
            found = files.follow(path)
            if found is None or not found.mode & 0o6000:
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="what the recipe lists under setuid",
                    got="no such file or no bit",
                )


@RULES.rule(
    "GS-USER-002", "No file has a capability or another extended attribute",
    "take the attribute away; a service gets capabilities from its unit",
)  # fmt: skip
def capabilities(subject: Subject) -> Iterator[Finding]:
    """No inode has extended attributes: no `security.capability`, no ACL; read from the inodes
    themselves."""
    for tree, files in _everything(subject):
        for path, file in files.items():
            for name, value in file.xattrs.items():
                yield Finding(
                    place=f"{tree}:{path}", expected="no extended attribute", got=f"{name}={value[:32].hex()}"
                )


@RULES.rule(
    "GS-USER-003", "There is no shell",
    "exclude it in the recipe",
)  # fmt: skip
def shells(subject: Subject) -> Iterator[Finding]:
    """Neither tree has an executable file, or a link to one, with the name of a shell, unless listed
    under `interpreters`."""
    yield from _named(subject, _SHELLS, "shell")


@RULES.rule(
    "GS-USER-004", "There is no interpreter but those that the recipe gives a reason for",
    "exclude it, or list it under interpreters with a reason",
)  # fmt: skip
def interpreters(subject: Subject) -> Iterator[Finding]:
    """Executable files with the name of an interpreter, debugger or editor, and those that a script names
    after `#!`, are listed under `interpreters`; each listed one is there."""
    yield from _named(subject, _INTERPRETERS, "interpreter")
    for tree, files in _everything(subject):
        for path, file in files.items():
            if file.is_program and file.content[:2] == b"#!":
                program = (file.content[2:256].split(b"\n")[0].split() or [b""])[0].decode("utf-8", "replace")
                if files.resolve(program) not in _permitted(subject, tree):
                    yield Finding(
                        place=f"{tree}:{path}",
                        expected="no script of an interpreter that is not listed",
                        got=f"#!{program}",
                    )
        for path in subject.declared.interpreters[tree]:
            if files.resolve(path) is None:
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="what the recipe lists under interpreters",
                    got="no such file",
                )


@RULES.rule(
    "GS-USER-005", "Nobody but the owner writes, and everything belongs to root",
    "mode and owner in the recipe",
)  # fmt: skip
def writable(subject: Subject) -> Iterator[Finding]:
    """No file or folder may be written by group or others but `/tmp` and `/var/tmp` (1777); every inode
    belongs to 0:0."""
    for tree, files in _everything(subject):
        for path, file in files.items():
            if path in ("/tmp", "/var/tmp") and file.is_directory and file.permissions == 0o1777:  # noqa: S108
                continue
            if file.mode & 0o022 and not file.is_link:
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="not writable for group or others",
                    got=f"{file.permissions:04o}",
                )
            if (file.uid, file.gid) != (0, 0):
                yield Finding(place=f"{tree}:{path}", expected="0:0", got=f"{file.uid}:{file.gid}")


@RULES.rule(
    "GS-USER-006", "There are files, folders and links, and nothing else",
    "take the node out; devices come from devtmpfs",
)  # fmt: skip
def kinds(subject: Subject) -> Iterator[Finding]:
    """No device, FIFO or socket lies in either tree."""
    for tree, files in _everything(subject):
        for path, file in files.items():
            if not (file.is_file or file.is_directory or file.is_link):
                yield Finding(
                    place=f"{tree}:{path}", expected="file, folder or link", got=f"st_mode {file.mode:o}"
                )


@RULES.rule(
    "GS-USER-007", "Mounts are units alone",
    "take the file out, and write a .mount unit",
)  # fmt: skip
def tables(subject: Subject) -> Iterator[Finding]:
    """There is no fstab, crypttab, veritytab or the like, from which a generator would make units."""
    for tree, files in _everything(subject):
        for path in _TABLES:
            if path in files:
                yield Finding(place=f"{tree}:{path}", expected="no such file", got="it is there")


@RULES.rule(
    "GS-USER-008", "What is mounted runs no program, no setuid bit, no device",
    "Options=noexec,nosuid,nodev in the unit or a drop-in",
)  # fmt: skip
def mounts(subject: Subject) -> Iterator[Finding]:
    """Every `.mount` unit has noexec, nosuid and nodev; `/tmp` and `/var` are such units with a limit of
    size; mount units of the initrd, required there, bind `/dev`, `/dev/shm`, `/run` and `/etc/machine-id`
    closed before PID 1 runs in the root."""
    for tree, files in _everything(subject):
        places: dict[str, set[str]] = {}
        units = {
            name: unit for name, unit in load_units(files).items() if unit.kind == "mount" and not unit.masked
        }
        for unit in units.values():
            where = unit.value("Mount", "Where")
            options = set(unit.value("Mount", "Options").split(","))
            places[where] = options
            if missing := _HANDED_OVER.get(where, _CLOSED) - options:
                yield Finding(
                    place=f"{tree}:{unit.path}",
                    expected=",".join(sorted(missing)),
                    got=",".join(sorted(options)),
                )
            if tree == "initrd" and "initrd-root-fs.target" not in unit.words("Install", "RequiredBy"):
                yield Finding(
                    place=f"{tree}:{unit.path}", expected="RequiredBy=initrd-root-fs.target", got="another"
                )
        if tree == "root":
            for where in ("/tmp", "/var"):  # noqa: S108 - mount points
                if not any(option.startswith("size=") for option in places.get(where, ())):
                    yield Finding(place=f"root:{where}", expected="a mount unit with size=", got="none")
        else:
            requires = {
                name
                for name in units
                if f"/etc/systemd/system/initrd-root-fs.target.requires/{name}" in files
            }
            bound = {units[name].value("Mount", "Where") for name in requires}
            for where in _HANDED_OVER:
                if where not in bound:
                    yield Finding(
                        place=f"initrd:{where}",
                        expected="a mount unit that initrd-root-fs.target requires",
                        got="none",
                    )


@RULES.rule(
    "GS-USER-009", "/etc is the verity root's own",
    "take the unit out; what must change at run time lives in /run or /var",
)  # fmt: skip
def etc(subject: Subject) -> Iterator[Finding]:
    """`/etc` and `/usr` are folders of the root, not links; no unit mounts over them, and no tmpfiles.d
    line writes there."""
    files = subject.image.root
    for path in ("/etc", "/usr"):
        found = files.get(path)
        if found is None or not found.is_directory:
            yield Finding(place=f"root:{path}", expected="a folder", got="a link or nothing")
    for unit in load_units(files).values():
        where = unit.value("Mount", "Where") or unit.value("Automount", "Where")
        if where.partition("/")[2].split("/")[0] in ("etc", "usr", "bin", "lib") or where == "/":
            yield Finding(
                place=f"root:{unit.path}", expected="no mount over /etc or /usr", got=f"Where={where}"
            )
    for folder in ("/usr/lib/tmpfiles.d", "/etc/tmpfiles.d"):
        for path in files.children(folder):
            for line in (files.text(path) or "").splitlines():
                words = line.split()
                if (
                    len(words) > 1
                    and not words[0].startswith("#")
                    and words[1].startswith(("/etc/", "/usr/"))
                ):
                    yield Finding(place=f"root:{path}", expected="no line for /etc or /usr", got=line[:120])


@RULES.rule(
    "GS-USER-010", "Every account is locked and has no shell",
    "declare users in the recipe; the builder locks them",
)  # fmt: skip
def accounts(subject: Subject) -> Iterator[Finding]:
    """In passwd each password is in shadow and each shell is nologin or false; in shadow each password
    begins with `!` or is `*`; both name the same accounts; only the owner reads shadow and gshadow."""
    for tree, files in _everything(subject):
        passwd, shadow = _table(files, "/etc/passwd"), _table(files, "/etc/shadow")
        if not passwd or {row[0] for row in passwd} != {row[0] for row in shadow}:
            yield Finding(
                place=f"{tree}:/etc/shadow", expected="the accounts of /etc/passwd", got="others, or none"
            )
        for row in passwd:
            if len(row) != 7 or row[1] != "x" or row[6] not in _NO_LOGIN:
                yield Finding(
                    place=f"{tree}:/etc/passwd", expected="x, and nologin as the shell", got=":".join(row)
                )
        for row in shadow:
            if len(row) != 9 or not (row[1].startswith("!") or row[1] == "*"):
                yield Finding(place=f"{tree}:/etc/shadow", expected=f"{row[0]} is locked", got="a password")
        for path in ("/etc/shadow", "/etc/gshadow"):
            found = files.get(path)
            if found is None or not found.is_file or found.mode & 0o077:
                yield Finding(
                    place=f"{tree}:{path}", expected="a file with mode 0600",
                    got="none" if found is None else f"{found.permissions:04o}",
                )  # fmt: skip


@RULES.rule(
    "GS-USER-011", "Each id belongs to one account",
    "give every user and group of the recipe an id of its own",
)  # fmt: skip
def ids(subject: Subject) -> Iterator[Finding]:
    """No name and no id is twice in passwd or group, and only root has 0."""
    for tree, files in _everything(subject):
        for path in ("/etc/passwd", "/etc/group"):
            rows = _table(files, path)
            for column, what in ((0, "name"), (2, "id")):
                values = [row[column] if len(row) > column else "" for row in rows]
                for value in dict.fromkeys(values):
                    if values.count(value) > 1 or not value:
                        yield Finding(
                            place=f"{tree}:{path}",
                            expected=f"each {what} once",
                            got=f"{value or 'an empty field'}",
                        )
            zero = {row[0] for row in rows if len(row) > 2 and row[2].lstrip("0") == ""}
            if zero != {"root"}:
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="root alone has the id 0",
                    got=", ".join(sorted(zero)) or "nobody",
                )


@RULES.rule(
    "GS-USER-012", "No package manager, compiler, debugger, copying or scheduling tool",
    "exclude it in the recipe",
)  # fmt: skip
def tools(subject: Subject) -> Iterator[Finding]:
    """Neither tree has a file with the name of a tool by which an intruder brings, makes or starts other
    programs; nor `/etc/ld.so.preload`."""
    yield from absent_names(subject, _TOOLS, "tool of this kind")


@RULES.rule(
    "GS-USER-013", "What a disk of the host keeps is encrypted and authenticated, and no memory is swapped to it",
    "include common/scratch, and mount its /dev/goldsmith/scratch",
)  # fmt: skip
def scratch(subject: Subject) -> Iterator[Finding]:
    """A mount unit of the root whose source is a device has `/dev/goldsmith/scratch`, comes after
    goldsmith-scratch.service and requires it, and dm_crypt, dm_integrity, authenc and xts are there; no swap unit."""
    files = subject.image.root
    found = {modules.name_of(path) for path, _ in files.items()}
    for unit in load_units(files).values():
        place, source = f"root:{unit.path}", unit.value("Mount", "What")
        if unit.kind == "swap" and not unit.masked:
            yield Finding(place=place, expected="no swap space", got=unit.name)
        if not source.startswith("/dev/"):
            continue
        if source != _SCRATCH:
            yield Finding(place=place, expected=f"What={_SCRATCH}, or no device", got=f"What={source}")
        for key in ("Requires", "After"):
            if _SCRATCH_SERVICE not in unit.words("Unit", key):
                yield Finding(place=place, expected=f"{key}={_SCRATCH_SERVICE}", got="another")
        if missing := sorted({"dm_crypt", "dm_integrity", "authenc", "xts"} - found):
            yield Finding(place=place, expected=f"the modules {', '.join(missing)}", got="not in the root")


def _permitted(subject: Subject, tree: str) -> set[str | None]:
    files = subject.image.trees[tree]
    return {files.resolve(path) for path in subject.declared.interpreters[tree]} - {None}


def _named(subject: Subject, names: re.Pattern[str], what: str) -> Iterator[Finding]:
    for tree, files in subject.image.trees.items():
        permitted = _permitted(subject, tree)
        for path, file in files.items():
            if (file.is_program or file.is_link) and names.match(path.rpartition("/")[2]):
                real = files.resolve(path)
                found = files.get(real) if real else None
                if found is not None and found.is_program and real not in permitted:
                    yield Finding(
                        place=f"{tree}:{path}",
                        expected=f"no {what} that the recipe does not list",
                        got="an executable file",
                    )


def _table(files: FileTree, path: str) -> list[list[str]]:
    return [line.split(":") for line in (files.text(path) or "").splitlines() if line]
