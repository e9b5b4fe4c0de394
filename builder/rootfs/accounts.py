"""Users and groups with fixed ids: what the recipe pins becomes passwd, group, shadow and gshadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.recipe.model import Layer
from builder.rootfs.findings import Findings, join
from builder.tree import Kind, Node, Origin, Tree

#: systemd's "Users, Groups, UIDs and GIDs": always defined, and never anything else.
NOBODY = 65534
#: Every account's shell. It need not exist: every password is locked, and nothing in the image logs in.
SHELL = "/usr/sbin/nologin"
#: "!" locks the account, "*" is no hash of any password (shadow(5)).
_LOCKED = "!*"
_SYSTEM_IDS = range(999, 99, -1)
_ORIGIN = Origin(kind="generated", name="users and groups of the recipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One user: its ids, home directory and description."""

    name: str
    uid: int
    gid: int
    home: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Every account of an image.

    Attributes:
        users: name -> user.
        groups: name -> gid.
        members: group name -> names of its further members.
    """

    users: Mapping[str, Account]
    groups: Mapping[str, int]
    members: Mapping[str, tuple[str, ...]]

    def has(self, uid: int, gid: int) -> bool:
        """Say whether some user has this uid and some group this gid."""
        return any(user.uid == uid for user in self.users.values()) and gid in self.groups.values()


def read_accounts(layer: Layer) -> Accounts:
    """Return the accounts that a layer pins, with root and nobody.

    Raises:
        ComposeError: an id or name is used twice, a group or member is unknown, or a field cannot be
            written to passwd(5).
    """
    findings = Findings()
    users: dict[str, Account] = {}
    groups: dict[str, int] = {"root": 0, "nogroup": NOBODY}
    members: dict[str, tuple[str, ...]] = {}
    for group in layer.groups:
        if groups.get(group.name, group.gid) != group.gid:
            findings.error(f"group {group.name} has gid {group.gid} and gid {groups[group.name]}")
        groups[group.name] = group.gid
        members[group.name] = tuple(sorted({*members.get(group.name, ()), *group.members}))
    for user in layer.users:
        if user.group is None:
            groups.setdefault(user.name, user.uid)
    for user in layer.users:
        group_name = user.group or user.name
        if group_name not in groups:
            findings.error(
                f"user {user.name} has the primary group {group_name}, which the recipe does not pin"
            )
            continue
        account = Account(
            name=user.name,
            uid=user.uid,
            gid=groups[group_name],
            home=user.home,
            description=user.description,
        )
        if users.setdefault(user.name, account) != account:
            findings.error(f"user {user.name} is pinned twice, differently")
        if any(sign in user.description + user.home for sign in ":\n"):
            findings.error(f"user {user.name}: a colon or line break fits in no field of passwd")
    users.setdefault("root", Account(name="root", uid=0, gid=0, home="/root", description="root"))
    users.setdefault(
        "nobody", Account(name="nobody", uid=NOBODY, gid=NOBODY, home="/nonexistent", description="nobody")
    )
    if (users["root"].uid, users["nobody"].uid, groups["root"]) != (0, NOBODY, 0):
        findings.error("root has id 0 and nobody 65534; the recipe pins them differently")
    _unique(findings, "uid", {name: user.uid for name, user in users.items()})
    _unique(findings, "gid", groups)
    for name, names in members.items():
        for member in names:
            if member not in users:
                findings.error(f"group {name} has the member {member}, which the recipe does not pin")
    findings.raise_errors("users and groups")
    return Accounts(users=users, groups=groups, members=members)


class Needs:
    """Collects users and groups that packages expect and the recipe does not pin; one error for each."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._wanted: dict[tuple[str, str], tuple[list[str], int | None]] = {}

    def expect(self, kind: str, name: str, where: str, number: int | None = None) -> bool:
        """Say whether the user or group ("user", "group") is pinned, and remember it if not.

        Args:
            kind: "user" or "group".
            name: of the account.
            where: the file that expects it, with its origin.
            number: the id that the file fixes, if it does.
        """
        known = self.accounts.users if kind == "user" else self.accounts.groups
        if name in known:
            return True
        places, fixed = self._wanted.get((kind, name), ([], None))
        self._wanted[kind, name] = ([*places, where], fixed if fixed is not None else number)
        return False

    def report(self, findings: Findings) -> None:
        """Turn what was collected into errors, with the YAML that would pin it."""
        used = {user.uid for user in self.accounts.users.values()} | set(self.accounts.groups.values())
        used |= {number for _, number in self._wanted.values() if number is not None}
        free = (number for number in _SYSTEM_IDS if number not in used)
        lines: dict[str, list[str]] = {"users": [], "groups": []}
        for (kind, name), (places, fixed) in sorted(self._wanted.items()):
            findings.error(f"the {kind} {name} is not pinned by the recipe; expected by {join(places)}")
            if kind == "group" and ("user", name) in self._wanted:
                continue  # the user's line pins its group as well
            number = fixed if fixed is not None else next(free, 0)
            key = "uid" if kind == "user" else "gid"
            lines[f"{kind}s"].append(f"\n  - {{name: {name}, {key}: {number}}}")
        if self._wanted:
            blocks = [f"{key}:{''.join(items)}" for key, items in lines.items() if items]
            findings.hint(
                "pin them in the recipe, or exclude the files that expect them:\n" + "\n".join(blocks)
            )


def write_accounts(tree: Tree, accounts: Accounts) -> None:
    """Add /etc/passwd, group, shadow and gshadow (passwd(5), shadow(5)), sorted by id, all locked.

    The date of the last password change stays empty: it would be the only trace of a clock.

    Raises:
        ComposeError: a package or the recipe ships one of these files.
    """
    users = sorted(accounts.users.values(), key=lambda user: user.uid)
    groups = sorted(accounts.groups.items(), key=lambda item: item[1])
    members = {name: ",".join(accounts.members.get(name, ())) for name in accounts.groups}
    passwd = [f"{u.name}:x:{u.uid}:{u.gid}:{u.description}:{u.home}:{SHELL}" for u in users]
    _write(tree, "/etc/passwd", 0o644, passwd)
    _write(tree, "/etc/group", 0o644, [f"{name}:x:{gid}:{members[name]}" for name, gid in groups])
    _write(tree, "/etc/shadow", 0o600, [f"{user.name}:{_LOCKED}:::::::" for user in users])
    _write(tree, "/etc/gshadow", 0o600, [f"{name}:{_LOCKED}::{members[name]}" for name, _ in groups])


def _write(tree: Tree, path: str, mode: int, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    tree.add(path, Node(kind=Kind.FILE, mode=mode, origin=_ORIGIN, content=content))


def _unique(findings: Findings, what: str, ids: Mapping[str, int]) -> None:
    owners: dict[int, str] = {}
    for name, number in ids.items():
        other = owners.setdefault(number, name)
        if other != name:
            findings.error(f"{what} {number} belongs to both {other} and {name}")
