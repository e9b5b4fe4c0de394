"""Dependency resolution by apt, in a state directory of its own.

apt decides what a set of packages needs; it downloads indexes, checks their signatures, and simulates. It
installs nothing, reads no setting of the host but its proxies and date policy, and needs no root.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from builder.artifacts import Archive, SuiteIndex
from builder.debian import parse_stanza
from builder.errors import ArchiveError, LockError, ToolError
from builder.mirror import Mirrors
from builder.store import is_sha256
from builder.tools import HOST, Tools

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAX_INDEX = 1 << 30
_UPDATE_TIMEOUT = 900.0

#: What of the host's configuration says how the network is reached, and how it judges an index's date.
_HOST_KEYS = re.compile(
    r"^Acquire::(https?::Proxy(::[^ ]*)?|Check-Valid-Until|Check-Date|https::(CaInfo|CAInfo)) \"[^\"\n]*\";$",
    re.IGNORECASE,
)
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")
_INSTALLED = re.compile(r"^Inst (?P<name>[a-z0-9][a-z0-9+.-]*)(?::\w+)? \((?P<version>\S+) ")
_POOL_PATH = re.compile(r"pool/[A-Za-z0-9+._~/:%-]+\.deb")


def valid_pool_path(path: str) -> bool:
    """Whether ``path`` stays below ``pool/`` and is written plainly."""
    return bool(_POOL_PATH.fullmatch(path)) and not {"", ".", ".."} & set(path.split("/"))


@dataclass(kw_only=True)
class Apt:
    """One resolver: some pockets of one suite.

    Attributes:
        workdir: an empty directory of its own.
        mirrors: where the archive is.
        pockets: suite names, as they are below ``dists/``.
        components: of every pocket.
        keyring: trusted signing keys.
        tools: the host's; apt is not part of the toolbox, it only resolves.
    """

    workdir: Path
    mirrors: Mirrors
    pockets: Sequence[str]
    components: Sequence[str]
    keyring: Path = KEYRING
    tools: Tools = HOST
    _index: dict[str, list[tuple[str, dict[str, str]]]] = field(default_factory=dict)
    _raw: list[tuple[str, bytes]] = field(default_factory=list)

    def update(self) -> tuple[SuiteIndex, ...]:
        """Download the indexes and check their signatures; return what was signed.

        Raises:
            LockError: no keyring, no apt, no network, or a signature that does not hold.
        """
        if not self.keyring.is_file():
            raise LockError(
                f"the Debian archive's signing keys are not on this machine: {self.keyring} is absent",
                hint="install the package debian-archive-keyring",
            )
        self._configure()
        try:
            self._run("apt-get", "update", timeout=_UPDATE_TIMEOUT)
        except ToolError as error:
            raise LockError(
                f"the index of {', '.join(self.pockets)} could not be had or is not trusted\n{error}",
                hint="is the mirror right? --mirror URL names another",
            ) from error
        lists = self.workdir / "lists"
        indexes = []
        for pocket in self.pockets:
            signed = self._list(lists, f"dists_{pocket}_InRelease")
            raw = signed.read_bytes()
            indexes.append(
                SuiteIndex(pocket=pocket, date=_date(raw, pocket), sha256=hashlib.sha256(raw).hexdigest())
            )
            for component in self.components:
                if _is_empty(raw, component):
                    continue  # apt keeps no file of it
                packages = self._list(lists, f"dists_{pocket}_{component}_binary-amd64_Packages")
                if packages.stat().st_size > MAX_INDEX:
                    raise LockError(f"the index of {pocket} is larger than {MAX_INDEX} bytes")
                self._raw.append((pocket, packages.read_bytes()))
        return tuple(indexes)

    def closure(self, packages: Sequence[str]) -> dict[str, str]:
        """Return every package that ``packages`` depend on, with their versions; no recommendations.

        Raises:
            LockError: a package does not exist, or they cannot be installed together.
        """
        if not packages:
            return {}
        try:
            done = self._run("apt-get", "install", "--simulate", "--quiet=2", "--", *sorted(set(packages)))
        except ToolError as error:
            raise LockError(
                f"{', '.join(self.pockets)} cannot satisfy {', '.join(sorted(set(packages)))}\n{error}"
            ) from error
        found = {}
        for line in done.splitlines():
            if match := _INSTALLED.match(line):
                found[match["name"]] = match["version"]
        missing = sorted(set(packages) - set(found))
        if missing:
            raise LockError(
                f"apt did not select {', '.join(missing)}; is one of them a virtual package?",
                hint="name the package that provides it",
            )
        return found

    def candidate(self, package: str) -> str | None:
        """Return the version apt would take of a package, or None when no pocket has it."""
        done = self._run("apt-cache", "policy", "--", package)
        match = re.search(r"^  Candidate: (\S+)$", done, re.MULTILINE)
        return match[1] if match and match[1] != "(none)" else None

    def versions(self, package: str) -> tuple[str, ...]:
        """Return the versions of a package that the indexes list."""
        return tuple(stanza["Version"] for _, stanza in self._stanzas(package))

    def depends(self, package: str, version: str) -> str:
        """Return the Depends field of a package."""
        for _, stanza in self._stanzas(package):
            if stanza["Version"] == version:
                return stanza.get("Depends", "")
        return ""

    def archive(self, package: str, version: str) -> Archive:
        """Return where a package's archive is, and its hash, from the verified index.

        Raises:
            LockError: the index does not list it, or lists it without what a lock needs.
        """
        for pocket, stanza in self._stanzas(package):
            if stanza["Version"] != version:
                continue
            path, size, sha256 = stanza.get("Filename", ""), stanza.get("Size", ""), stanza.get("SHA256", "")
            if not (valid_pool_path(path) and size.isdigit() and is_sha256(sha256)):
                raise LockError(f"the index of {pocket} has no usable entry for {package} {version}")
            return Archive(
                name=package,
                version=version,
                architecture=stanza["Architecture"],
                path=path,
                pocket=pocket,
                size=int(size),
                sha256=sha256,
            )
        raise LockError(f"{', '.join(self.pockets)}: the index does not list {package} {version}")

    def _stanzas(self, package: str) -> list[tuple[str, dict[str, str]]]:
        if package in self._index:
            return self._index[package]
        found = []
        for pocket, raw in self._raw:
            start = f"Package: {package}\n".encode()
            at = 0 if raw.startswith(start) else raw.find(b"\n" + start) + 1
            while at > 0 or raw.startswith(start, at):
                end = raw.find(b"\n\n", at)
                try:
                    stanza = parse_stanza(raw[at : end if end >= 0 else len(raw)], f"index of {pocket}")
                except ArchiveError as error:
                    raise LockError(str(error)) from error
                if stanza.get("Architecture") in ("amd64", "all") and "Version" in stanza:
                    found.append((pocket, stanza))
                at = raw.find(b"\n" + start, at) + 1
                if at == 0:
                    break
        self._index[package] = found
        return found

    def _list(self, lists: Path, suffix: str) -> Path:
        found = [path for path in lists.iterdir() if path.name.endswith(suffix)] if lists.is_dir() else []
        if len(found) != 1:
            raise LockError(f"apt update left {len(found)} files …{suffix}; expected one")
        return found[0]

    def _run(self, program: str, *arguments: str, timeout: float = 300.0) -> str:
        environment = {"APT_CONFIG": str(self.workdir / "apt.conf")}
        for name in _PROXY_VARIABLES:
            for spelling in (name, name.upper()):
                if value := os.environ.get(spelling):
                    environment[spelling] = value
        done = self.tools.run(program, *arguments, env=environment, cwd=self.workdir, timeout=timeout)
        return done.stdout.decode("utf-8", "replace")

    def _host_settings(self) -> list[str]:
        try:
            dump = self.tools.run("apt-config", "dump").stdout.decode("utf-8", "replace")
        except ToolError as error:
            raise LockError(
                f"apt is needed to resolve packages: {error}", hint="lock on a Debian or Ubuntu machine"
            ) from error
        return [line for line in dump.splitlines() if _HOST_KEYS.match(line)]

    def _configure(self) -> None:
        work = self.workdir.absolute()
        if re.search(r"[\s\"\\;]", str(work)):
            raise LockError(f"apt cannot work in a directory with such a name: {work}")
        for folder in ("etc", "etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "lists/partial",
                       "cache/archives/partial", "log"):  # fmt: skip
            (work / folder).mkdir(parents=True, exist_ok=True)
        (work / "status").write_bytes(b"")
        options = f"[arch=amd64 signed-by={self.keyring.absolute()}]"
        components = " ".join(self.components)
        (work / "etc/sources.list").write_text(
            "".join(
                f"deb {options} {self.mirrors.base(pocket)} {pocket} {components}\n"
                for pocket in self.pockets
            )
        )
        settings = {
            "Dir": "/",
            "Dir::State": str(work),
            "Dir::State::lists": str(work / "lists"),
            "Dir::State::status": str(work / "status"),
            "Dir::State::extended_states": str(work / "extended_states"),
            "Dir::Cache": str(work / "cache"),
            "Dir::Log": str(work / "log"),
            # All of the host's settings, sources, pins and keys live below Dir::Etc.
            "Dir::Etc": str(work / "etc"),
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            # apt as root would hand its work to a user that cannot write here; it has no effect otherwise.
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            # Newer versions of apt bring another solver, whose choices may differ.
            "APT::Solver": "internal",
            "APT::Install-Recommends": "false",
            "APT::Install-Suggests": "false",
            "APT::Get::Always-Include-Phased-Updates": "true",
            "APT::Update::Error-Mode": "any",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "false",
            "Acquire::Retries": "3",
            "Acquire::PDiffs": "false",
            "Debug::NoLocking": "true",
        }
        lines = [f'{key} "{value}";' for key, value in settings.items() if value]
        (work / "apt.conf").write_text("\n".join([*lines, *self._host_settings()]) + "\n")


def _is_empty(signed: bytes, component: str) -> bool:
    """Whether the signed index says that a component has no packages, as those of young pockets do."""
    path = re.escape(f"{component}/binary-amd64/Packages".encode())
    return re.search(rb"^ [0-9a-f]{64} +0 " + path + rb"$", signed, re.MULTILINE) is not None


def _date(signed: bytes, pocket: str) -> int:
    match = re.search(rb"^Date: ([^\n]+)$", signed[: 1 << 20], re.MULTILINE)
    try:
        if match is None:
            raise ValueError("no Date")
        return int(parsedate_to_datetime(match[1].decode("ascii").strip()).timestamp())
    except ValueError as error:
        raise LockError(f"the signed index of {pocket} has no usable Date: {error}") from error
