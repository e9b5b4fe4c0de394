"""Reads the hardening back from the running kernel and fails where it did not take; the unit then powers off.

What was asked for comes from the verity root (``sysctl.d``, the sealed command line), what is, from the kernel
itself. Only modules that are built into the interpreter are imported. docs/hardening.md names each check.
"""

import os
import sys

HARDENING = "usr/lib/goldsmith/hardening"
SYSCTL = "usr/lib/sysctl.d"
MAX_FILE = 1 << 20
ATTEMPTS = 10
_MOUNTINFO = "mountinfo"
_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
_DIGITS = frozenset("0123456789abcdef")
_ROOT_HASH, _ROOT_HASH_LENGTH = "roothash=", 64
_OPTIONS = frozenset(("noexec", "nosuid", "nodev"))
#: Where device nodes belong.
_DEVICES = ("/dev", "/dev/pts")


def main() -> int:
    """Print what is not as asked for, one line each, and return the exit status."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    mounts = read_descriptor(_FIRST_DESCRIPTOR + names.index(_MOUNTINFO))
    problems = [*command_line("/"), *kernel("/"), *settings("/"), *mount_options(mounts)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def command_line(root: str) -> list[str]:
    """Compare /proc/cmdline with the words that the recipe sealed; the root hash is their only unknown."""
    sealed, debug = (line.split() for line in read(f"{root}{HARDENING}/command-line").splitlines())
    words = read(f"{root}proc/cmdline").split()
    if len(words) > len(sealed) and well_formed(words[len(sealed)]):
        rest = words[len(sealed) + 1 :]
        if words[: len(sealed)] == sealed and rest in ([], debug):
            return []
    extra = " ".join(word for word in words if word not in sealed and not well_formed(word))
    return [
        f"the command line is not the sealed one; it differs in: {extra or 'what is missing or repeated'}"
    ]


def well_formed(word: str) -> bool:
    """Whether this is a root hash, of which dm-verity has proven that it is the right one."""
    digest = word.removeprefix(_ROOT_HASH)
    return word.startswith(_ROOT_HASH) and len(digest) == _ROOT_HASH_LENGTH and _DIGITS.issuperset(digest)


def kernel(root: str) -> list[str]:
    """Check what only the command line can switch on."""
    wanted = {
        "sys/kernel/security/lockdown": "[confidentiality]",
        "sys/module/module/parameters/sig_enforce": "Y",
    }
    return [
        f"/{path} lacks {value}"
        for path, value in wanted.items()
        if value not in read_or_empty(root + path).split()
    ]


def settings(root: str) -> list[str]:
    """Compare every setting of sysctl.d with the kernel's value; blanks between numbers are alike."""
    problems = []
    for pattern, value in wanted_settings(root).items():
        found = current_values(f"{root}proc/sys", pattern.replace(".", "/").split("/"))
        if not found:
            problems.append(f"{pattern}: the kernel has no such setting; expected {value!r}")
        problems += [
            f"{path.removeprefix(root)}: expected {value!r}, got {got!r}"
            for path, got in found.items()
            if got != value
        ]
    return problems


def current_values(folder: str, parts: list[str]) -> dict[str, str]:
    """Return path -> value of the files that a setting means, all of one moment."""
    for _ in range(ATTEMPTS):
        found = {}
        try:
            for path in matching(folder, parts):
                found[path] = " ".join(read(path).split())
        except FileNotFoundError:
            continue  # udev has given a network interface its name meanwhile
        except OSError as error:
            found[path] = error.strerror or "unreadable"
        return found
    return {}


def wanted_settings(root: str) -> dict[str, str]:
    """Return setting -> value of all files of sysctl.d in their order (sysctl.d(5)): the last one counts."""
    wanted = {}
    for name in sorted(entry.name for entry in os.scandir(root + SYSCTL)):
        if name.endswith(".conf"):
            for line in read(f"{root}{SYSCTL}/{name}").splitlines():
                key, equals, value = line.partition("=")
                if equals and key.strip()[:1] not in ("#", ";"):
                    wanted[key.strip().removeprefix("-")] = " ".join(value.split())
    return wanted


def matching(folder: str, parts: list[str]) -> list[str]:
    """Return the files that a setting's path means; ``*`` is any one folder."""
    first, rest = parts[0], parts[1:]
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    found = [f"{folder}/{name}" for name in names if first in ("*", name)]
    return [path for place in found for path in matching(place, rest)] if rest else found


def mount_options(mountinfo: str) -> list[str]:
    """Check every mount (proc_pid_mountinfo(5)): the root is read only, no other place runs programs."""
    problems = []
    for line in mountinfo.splitlines():
        place, options = line.split()[4], set(line.split()[5].split(","))
        wanted = {"ro"} if place == "/" else _OPTIONS - ({"nodev"} if place in _DEVICES else set())
        if missing := wanted - options:
            problems.append(f"{place} is mounted without {', '.join(sorted(missing))}")
    return problems if mountinfo else ["no mounts were passed"]


def read(path: str) -> str:
    """Return a file's text."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_descriptor(descriptor)
    finally:
        os.close(descriptor)


def read_or_empty(path: str) -> str:
    """Return a file's text; nothing where it cannot be read."""
    try:
        return read(path)
    except OSError:
        return ""


def read_descriptor(descriptor: int) -> str:
    """Return what is left to read, as far as `MAX_FILE`."""
    data = b""
    while len(data) < MAX_FILE and (chunk := os.read(descriptor, MAX_FILE - len(data))):
        data += chunk
    return data.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
